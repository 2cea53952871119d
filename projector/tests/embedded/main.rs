//! The projector between a real embedded log and a real Postgres.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../../readmodel/tests/postgres/commands.rs"]
mod commands;
#[path = "../../../readmodel/tests/postgres/database.rs"]
mod database;
#[path = "../../../tests/e2e/equation.rs"]
mod equation;
#[path = "../../../model/tests/fold/random.rs"]
mod random;
#[path = "../../../archiver/tests/archive/table.rs"]
mod table;

mod bench;
mod dead_letters;
mod erasing;
mod filling;
mod hanging;
mod history;
mod lost_answer;
mod other_logs;
mod parked;
mod projecting;
mod rebuilding;
mod taken_for_new;
mod teeth;
mod tombstones;
