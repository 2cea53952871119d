//! The archiver on logs whose time is simulated: weeks pass in seconds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../../readmodel/tests/postgres/commands.rs"]
mod commands;
#[path = "../../../readmodel/tests/postgres/database.rs"]
mod database;
#[path = "../../../model/tests/fold/random.rs"]
mod random;

mod archiving;
mod bench;
mod gaps;
mod recovering;
mod segments;
mod simulated_log;
mod table;
mod verifying;
