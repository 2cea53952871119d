//! Finding out in which messages a device and its scope differ, without telling each other all of them.
//!
//! Both sides put their live messages in one order ([`Items`]) and compare fingerprints of ranges, then of
//! ranges within those that differ, until few enough are left to be named. The bytes are negentropy's,
//! protocol version 1 ([`frame`]): the device asks ([`Finding`]), the scope answers ([`Items::answer`]) and
//! keeps nothing between two frames.

mod finding;
pub mod frame;
mod items;
mod set;

pub use finding::{Differences, Finding};
pub use frame::BadFrame;
pub use items::{Held, Items};

/// Bytes of a frame that are always enough to go on with: no limit of frames may be lower.
pub const FRAME_BYTES_MIN: u32 = 4_096;
