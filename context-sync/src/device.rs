//! A device: `context-sync push` and `context-sync pull`, and the client they share with
//! [`crate::import`] and [`crate::demo`].
//!
//! Read [`client`] for the requests, [`retry`] for what is tried again, [`upload`] for how many
//! messages go as pushes.

pub mod batches;
pub mod client;
pub mod connection;
pub mod output;
pub mod problem;
pub mod progress;
pub mod pull;
pub mod push;
pub mod retry;
pub mod scope;
pub mod table;
pub mod upload;
pub mod wire;
