//! The read model on a real Postgres, a fresh database each test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod batches;
mod catalogue;
mod commands;
mod database;
mod epochs;
mod erasing;
mod filling;
mod holding;
mod migrating;
mod outcomes;
mod pulling;
mod quotas;
mod refused;
mod snapshot;
mod tenants;
mod writer;
