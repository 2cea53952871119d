//! A device: `context-sync push`, `pull`, `sync` and `status`, and the client they share with
//! [`crate::import`] and [`crate::demo`].
//!
//! Read [`client`] for the requests, [`retry`] for what is tried again, [`upload`] for how many
//! messages go as pushes; [`replica`] for what a device keeps, and [`drift`] for how that is kept right.

pub mod batches;
pub mod client;
pub mod connection;
pub mod drift;
pub mod outbox;
pub mod output;
pub mod problem;
pub mod progress;
pub mod pull;
pub mod push;
pub mod replica;
pub mod retry;
pub mod scope;
pub mod status;
pub mod store;
pub mod sync;
pub mod table;
pub mod upload;
pub mod wire;
