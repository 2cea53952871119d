//! End to end: devices against all roles, on both logs. Stories are named after the founding
//! workflows; each ends by comparing the rows with the fold of the log, and a device's replica
//! with both ([`cluster::Cluster::finish`]).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests may panic")]

#[path = "../../readmodel/tests/postgres/database.rs"]
mod database;

#[path = "../../archiver/tests/archive/shown.rs"]
mod shown;
#[path = "../../archiver/tests/archive/simulated_log.rs"]
mod simulated_log;

mod equation;

#[macro_use]
mod cluster;
mod client;
mod replica;

mod accepted;
mod backups;
mod bad_input;
mod batches;
mod checking;
mod conflicts;
mod corpus;
mod documents;
mod drilling;
mod epochs;
mod erasing;
mod expired;
mod filling;
mod front;
mod histories;
mod idempotency;
mod limits;
mod long_poll;
mod members;
mod metrics;
mod nodes;
mod on_demand;
mod operators;
mod overload;
mod paging;
mod permissions;
mod quotas;
mod rates;
mod rebuilding;
mod reconcile;
mod recover_command;
mod recovered;
mod recovering;
mod repair;
mod restores;
mod shared_pages;
mod simulated;
mod stores;
mod tenants;
mod tokens;
mod tombstones;
mod unreachable;
mod versions;
mod weeks;
mod workflows;

mod crash;
mod secrets;
