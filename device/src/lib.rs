//! A device: what it keeps of a scope, and how that is kept right.
//!
//! Nothing here knows what carries its requests, nor a clock: the command line speaks HTTP ([`Requests`] is what it
//! answers with), the simulation decides itself what is lost on the way. Read [`replica`] for what a device keeps,
//! [`drift`] for how it becomes what the scope is, [`upload`] for how many messages go as pushes, [`retry`] for what
//! is tried again.

pub mod batches;
pub mod drift;
pub mod problem;
pub mod replica;
mod requests;
pub mod retry;
pub mod upload;
pub mod wire;

pub use requests::Requests;
