//! The archiver on logs whose time is simulated: weeks pass in seconds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../../readmodel/tests/postgres/commands.rs"]
mod commands;
#[path = "../../../readmodel/tests/postgres/database.rs"]
mod database;
#[path = "../../../tests/e2e/equation.rs"]
mod equation;
#[path = "../../../model/tests/fold/random.rs"]
mod random;

mod analytics;
mod archiving;
mod bad_stores;
mod bench;
mod clocks;
mod compacting;
mod cut_logs;
mod erased_again;
mod erasing;
mod expiring;
mod gaps;
mod gcs;
mod heard;
mod held;
mod other_logs;
mod reading;
mod recovering;
mod replaying;
mod restoring;
mod scheduled;
mod segments;
mod shown;
mod simulated_log;
mod table;
mod tombstones;
mod unreliable;
mod verbatim;
mod verifying;
mod weeks;
