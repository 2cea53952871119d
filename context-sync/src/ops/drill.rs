//! `ops drill`: are the backups what is live?

use std::process::ExitCode;

use archive::ArchiveConfig;
use archiver::{DRILL_SCOPES, Drilling};
use clap::Args;
use model::Timestamp;
use readmodel::{DatabaseConfig, DatabaseRole, connect::try_role};
use tokio::sync::mpsc;

use super::{port::PortArgs, reached};
use crate::Failure;

#[derive(Args, Debug)]
pub struct DrillArgs {
    #[command(flatten)]
    port: PortArgs,

    #[command(flatten)]
    archive: ArchiveConfig,

    #[command(flatten)]
    database: DatabaseConfig,

    /// How many scopes, taken at random
    #[arg(long, default_value_t = DRILL_SCOPES, value_parser = clap::value_parser!(u32).range(1..))]
    scopes: u32,

    /// Print a JSON object a scope, and the sums last
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DrillArgs) -> Result<ExitCode, Failure> {
    if args.archive.archive.is_some() && !args.port.is_named() {
        return compare_here(args).await;
    }
    let mut said =
        args.port.ask("archiver", &format!("/archive/drill?scopes={}", args.scopes)).await?;
    while let Some(line) = said.next::<Drilling>().await? {
        if let Some(status) = print(line, args.json)? {
            return Ok(status);
        }
    }
    Err("the archiver stopped before the drill was done".into())
}

/// What this process reads of the archive and the read model.
async fn compare_here(args: DrillArgs) -> Result<ExitCode, Failure> {
    let archive = reached(&args.archive).await?;
    try_role(&args.database, DatabaseRole::Ingest).await?;
    let pool = readmodel::pool(&args.database, DatabaseRole::Ingest)?;
    let (sender, mut said) = mpsc::channel(1);
    let scopes = args.scopes;
    let comparing = tokio::spawn(async move {
        archiver::drill(&archive, &pool, scopes, Timestamp::EPOCH, Some(&sender)).await
    });
    while let Some(line) = said.recv().await {
        print(line, args.json)?;
    }
    let record = comparing.await??;
    let failures = record.failures.len() as u64;
    let last = print(Drilling::Done { scopes: record.scopes, failures }, args.json)?;
    Ok(last.unwrap_or(ExitCode::FAILURE))
}

/// Prints a line; the status, if it is the last.
fn print(line: Drilling, json: bool) -> Result<Option<ExitCode>, Failure> {
    if json {
        println!("{}", serde_json::to_string(&line)?);
    }
    let (scopes, failures) = match line {
        Drilling::Scope(drilled) => {
            if let (Some(problem), false) = (drilled.problem, json) {
                println!("{}: backup {}: {problem}", drilled.scope, drilled.backup_id);
            }
            return Ok(None);
        }
        Drilling::Done { scopes, failures } => (scopes, failures),
        Drilling::Failed(error) => return Err(error.into()),
    };
    match (json, scopes, failures) {
        (true, ..) => {}
        (_, 0, _) => println!("well: there is no backup to compare yet"),
        (_, _, 0) => println!("well: the newest backups of {scopes} scopes are what is live"),
        _ => println!(
            "wrong: the newest backups of {failures} of {scopes} scopes are not what is live"
        ),
    }
    Ok(Some(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
