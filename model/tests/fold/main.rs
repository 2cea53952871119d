//! The rules, tested: text tables (`*.txt`, read by `table.rs`), properties of random logs, the published
//! vectors, and the pieces below the fold.

// clippy.toml's allowances reach the tests themselves, not what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod auditor;
mod digest;
mod draft;
mod forgotten;
mod history;
mod log;
mod message;
mod metadata;
mod names;
mod partial;
mod properties;
mod pull;
mod random;
mod reconcile;
mod restores;
mod restoring;
mod roles;
mod sums;
mod table;
mod tables;
mod time;
mod vectors;
mod workflows;
