//! The HTTP side of the wire contract, shared by the crates that answer requests: scopes in paths
//! ([`path`]), who calls ([`caller`]) and how often ([`rates`]), the contract's headers ([`headers`]), problems
//! with its codes ([`problems`]), and its metrics ([`measure`]).
//!
//! What changes something is answered by `ingest`, what only reads by `api`.

pub mod backup;
pub mod caller;
pub mod erasure;
pub mod headers;
pub mod measure;
pub mod path;
pub mod problems;
pub mod rates;
mod recent;
pub mod restore;

pub use caller::{Caller, Entrance};
