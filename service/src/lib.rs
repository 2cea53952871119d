//! What every process here needs and no domain knows: logging and metrics, the HTTP envelope,
//! token verification, the operators' port, and an orderly end.
//!
//! Nothing in this crate names a scope, a message or a cursor.

pub mod auth;
mod body;
mod claims;
mod connection;
mod envelope;
pub mod http;
mod jwks;
mod keys;
mod limits;
pub mod ops;
pub mod problem;
mod request_id;
mod secret;
pub mod shutdown;
pub mod telemetry;

pub use ops::{ComponentHandle, Readiness};
pub use problem::Problem;
pub use request_id::RequestId;
pub use secret::Secret;
