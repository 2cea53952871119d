//! A device: `context-sync push`, `pull`, `sync` and `status`, and the client they share with
//! [`crate::import`] and [`crate::demo`].
//!
//! Read [`client`] for the requests; what a device keeps, and how that is kept right, is the crate [`device`](::device)'s.

pub mod client;
pub mod connection;
pub mod outbox;
pub mod output;
pub mod progress;
pub mod pull;
pub mod push;
pub mod scope;
pub mod status;
pub mod store;
pub mod sync;
pub mod table;
