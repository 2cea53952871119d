//! Context Sync in one binary: a subcommand per role, `dev` for all of them, and a device's commands.
//!
//! Read [`cli`] for what there is, [`serve`] for how a process of roles is put together, [`dev`] for the
//! one that needs nothing installed, [`device`] for a device's own commands, [`copies`] for what operators ask, [`demo`] for all
//! of it at work.

pub mod cli;
pub mod copies;
pub mod demo;
pub mod dev;
pub mod device;
pub mod import;
pub mod ops;
pub mod serve;
pub mod token;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// Any error that ends a command; its text says what to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Parses the command line and runs it. Errors go to stderr, one line, and the status is 1.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("context-sync: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(cli));
    // A blocking task that hangs (a dead disk, a dead broker) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match ended {
        Ok(status) => status,
        Err(error) => {
            eprintln!("context-sync: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    use serve::Role;
    match cli.command {
        Command::Ops(command) => return ops::run(command).await,
        Command::Status(args) => return device::status::run(*args).await,
        Command::Dev(args) => dev::run(*args).await,
        Command::Serve(args) => serve::run(args.roles, *args.serve).await,
        Command::Ingest(args) => serve::run(vec![Role::Ingest], *args).await,
        Command::Projector(args) => serve::run(vec![Role::Projector], *args).await,
        Command::Archiver(args) => serve::run(vec![Role::Archiver], *args).await,
        Command::Api(args) => serve::run(vec![Role::Api], *args).await,
        Command::Migrate(args) => Ok(readmodel::migrate(&args.database).await?),
        Command::Token(args) => token::run(&args),
        Command::Push(args) => device::push::run(*args).await,
        Command::Pull(args) => device::pull::run(*args).await,
        Command::Sync(args) => device::sync::run(*args).await,
        Command::Import(args) => import::run(*args).await,
        Command::Demo(args) => demo::run(args).await,
    }?;
    Ok(ExitCode::SUCCESS)
}
