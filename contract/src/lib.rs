//! The HTTP side of the wire contract, shared by the crates that answer requests: scopes in paths
//! ([`path`]), who calls ([`caller`]), the contract's headers ([`headers`]), problems with its codes
//! ([`problems`]), and its gauges over the last minutes ([`recent`]).
//!
//! What changes something is answered by `ingest`, what only reads by `api`.

pub mod caller;
pub mod headers;
pub mod path;
pub mod problems;
pub mod recent;

pub use caller::Caller;
