//! The read model: what the log folds to, as rows in Postgres.
//!
//! [`projection`] writes it ([`load`] and [`write`] are its two halves), [`pull`], [`access`] and
//! [`outcomes`] read it, [`catalogue`] knows of backups, [`drill`] compares them with the rows, and [`restores`] knows of what became of them,
//! [`quotas`] of what a scope and a tenant may hold, [`holding`] tells what devices compare with what they hold, [`feed`] and
//! [`asker`] tell who waits that it moved. [`rebuild`] fills a second set of tables beside the live one and puts it in its
//! place, [`epochs`] know which cursors are still good, [`filling`] how a lost read model begins. The tables, their constraints and who may see what stand, with
//! their reasons, in `migrations/`.

pub mod access;
pub mod adoption;
pub mod asker;
pub mod catalogue;
pub mod config;
pub mod connect;
pub mod dead_letters;
pub mod drill;
pub mod epochs;
pub mod erasures;
pub mod error;
pub mod feed;
pub mod filling;
pub mod gather;
pub mod history;
pub mod holding;
mod key;
pub mod lease;
pub mod load;
pub mod memory;
pub mod outcomes;
pub mod parked;
mod pool;
pub mod projection;
pub mod pull;
pub mod quotas;
pub mod rebuild;
pub mod restores;
pub mod snapshot;
pub mod standing;
pub mod traces;
pub mod write;

pub use config::DatabaseConfig;
pub use connect::{DatabaseRole, ProjectionSet, migrate, pool, pool_seldom_used};
pub use error::ReadModelError;
pub use pool::{LentTransaction, Pool};
