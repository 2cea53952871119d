//! Operators' commands.

mod asked;
mod check;
mod dead_letters;
mod drill;
mod expire;
mod port;
mod quota;
mod reach;
mod rebuild;
mod recover;
pub mod routes;
mod status;
mod trace;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use archive::{
    Archive, ArchiveConfig, base,
    verify::{Proven, Report, Sample, verify},
};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{Failure, dev::data_dir::DataDir};
pub use check::CheckArgs;
pub use dead_letters::DeadLettersCommand;
pub use drill::DrillArgs;
pub use expire::ExpireArgs;
pub use quota::QuotaCommand;
pub use rebuild::RebuildArgs;
pub use recover::RecoverArgs;
pub use status::StatusArgs;
pub use trace::TraceArgs;

#[derive(Debug, Subcommand)]
pub enum OpsCommand {
    /// Verify the archive: every manifest and their chain, every object, count and digest
    #[command(after_help = "Examples:
  context-sync ops verify                             the archive of the development instance here
  context-sync ops verify --archive gs://backups      a bucket; nothing else is needed
  context-sync ops verify --sample 3/30 --json        read a thirtieth of the objects whole, the third

The status is 0 if all is well, 1 if something is missing, damaged or contradicts, or if there is nothing: each is named; 3 if the archive
could not be read.")]
    Verify(VerifyArgs),

    /// Expire the backups and tombstones that are over their time, as the archiver does every day
    #[command(after_help = "Examples:
  context-sync ops expire --dry-run                   what would go, and what stays though its time is over
  context-sync ops expire --ops-url http://archiver:9090 --json

The archiver does it, and says what it did: a development instance is found by --data-dir, another by --ops-url.")]
    Expire(ExpireArgs),

    /// Compare backups with what is live: read as a restore would, and held against the rows
    #[command(after_help = "Examples:
  context-sync ops drill                              the development instance here
  context-sync ops drill --ops-url http://archiver:9090 --scopes 500
  context-sync ops drill --archive gs://backups --database-url postgres://…
                                                      here, without an archiver, unless --ops-url is given too;
                                                      then it is not kept in the catalogue

The status is 0 if every backup is what the rows are, 1 if one is not: each is named; 3 if a part could not be asked.")]
    Drill(DrillArgs),

    /// Show and set what the scopes of a tenant may hold
    #[command(subcommand)]
    #[command(after_help = "Examples:
  context-sync ops quota show                         the tenants for whom something is set
  context-sync ops quota set --tenant acme --scope-messages-max 5000000 --tenant-bytes-max 0
  context-sync ops quota unset --tenant acme          the configured quotas again

They count within ten seconds. A development instance is found by --data-dir, another by DATABASE_URL; the
login is the one that migrates.")]
    Quota(QuotaCommand),

    /// How everything stands: positions, lag, ages, dead letters, restores, drills, disk
    #[command(after_help = "Examples:
  context-sync ops status                             the development instance here
  context-sync ops status --log kafka://kafka:9092 --archive gs://backups --json
                                                      DATABASE_URL names Postgres

The status is 0 if all is well, 1 if something needs an operator, 3 if a part could not be asked: each is named.")]
    Status(Box<StatusArgs>),

    /// Are the rows what the log folds to, and is the archive? Compares them, message by message
    #[command(after_help = "Examples:
  context-sync ops check                              everything, of the development instance here
  context-sync ops check --log kafka://kafka:9092 --sample 3/30
  context-sync ops check --scope acme/team/web --json
  context-sync ops check --each                       of each scope, which of the three agree
  context-sync ops check --log kafka://kafka:9092 --archive gs://backups

The archive is compared as its sealed hours have it: full and incrementals are read, of every scope that is asked for. Where none is
named, rows and log are compared. Pushes and pulls go on. The fold of one partition's scopes is in memory, without contents: of a large log take a sample.
The status is 0 if they are, 1 if something differs or is parked, 3 if a part could not be asked.")]
    Check(Box<CheckArgs>),

    /// The whole way of a push or a message: request, place on the log, outcome, cursors, backups
    #[command(after_help = "Examples:
  context-sync ops trace 0199f7c4-…                   a push_id or a message's id, of any tenant
  context-sync ops trace 0199f7c4-… --log kafka://kafka:9092 --json")]
    Trace(Box<TraceArgs>),

    /// Records that became no rows: list, show, retry or discard them
    #[command(subcommand)]
    DeadLetters(Box<DeadLettersCommand>),

    /// Build the rows once more from the log, beside the live ones, compare, and put them in their place
    #[command(after_help = "Examples:
  context-sync ops rebuild --dry-run                  are the rows what the log comes to? Lists what differs, changes nothing
  context-sync ops rebuild                            and mends it; pushes and pulls go on meanwhile
  context-sync ops rebuild --scope acme/team/web      one scope
  context-sync ops rebuild --ops-url http://projector:9090
  context-sync ops rebuild --here --log kafka://kafka:9092 --database-url postgres://owner@db/context_sync

A process with the projector's role does it: a development instance is found by --data-dir, another by --ops-url; with --here
this one. Stopped (Ctrl-C), it goes on where it was when it is started again. Its database login must own the tables.
The status is 0 if all is well or mended, 1 if --dry-run found that something differs, 3 if it could not be done.")]
    Rebuild(Box<RebuildArgs>),

    /// The log is lost, and the database with it: go on in a new log, from the archive alone
    #[command(after_help = "Examples:
  context-sync ops recover --archive gs://backups --log kafka://new-kafka:9092           what would be done
  context-sync ops recover --archive gs://backups --log kafka://new-kafka:9092 --yes     and does it
  context-sync ops recover --yes                      a development instance whose log/ is gone (stop it first)

No service of the lost log may still run: while it is archived, it is not given up. The new log must be empty, the archive whole:
`context-sync ops verify` says so. What is refused has made nothing. Stopped (Ctrl-C), it goes on when it is started again. What messages were before (their histories)
is not recovered. Afterwards: `context-sync migrate` on an empty database, and start the services. Devices carry
on up to what was archived, a minute before the end at most; beyond it they get SYNC_001, and push again what they have.")]
    Recover(Box<RecoverArgs>),
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    archive: ArchiveConfig,

    /// Where the development instance is kept, if no --archive is named
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    data_dir: PathBuf,

    /// Read a part of the objects whole: n/t is the n-th of t runs that read all together
    #[arg(long, value_name = "N/T")]
    sample: Option<Sample>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs an operator's command.
pub async fn run(command: OpsCommand) -> Result<ExitCode, Failure> {
    match command {
        OpsCommand::Verify(args) => found_out(verify_archive(args)).await,
        OpsCommand::Expire(args) => expire::run(args).await,
        OpsCommand::Drill(args) => found_out(drill::run(args)).await,
        OpsCommand::Quota(command) => quota::run(command).await,
        OpsCommand::Status(args) => found_out(status::run(*args)).await,
        OpsCommand::Check(args) => found_out(check::run(*args)).await,
        OpsCommand::Trace(args) => found_out(trace::run(*args)).await,
        OpsCommand::DeadLetters(command) => found_out(dead_letters::run(*command)).await,
        OpsCommand::Rebuild(args) => found_out(rebuild::run(*args)).await,
        OpsCommand::Recover(args) => recover::run(*args).await,
    }
}

/// The status of a command that could not find out what it was asked: neither well nor not.
const UNASKED: u8 = 3;

/// What a command found out; an error says nothing about whether all is well, and has a status of its own.
async fn found_out(
    finding: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    Ok(finding.await.unwrap_or_else(|error| {
        eprintln!("context-sync: {error}");
        ExitCode::from(UNASKED)
    }))
}

/// An archive that somebody else writes, which answers: else that is said first, and what to look at.
async fn reached(config: &ArchiveConfig) -> Result<Archive, Failure> {
    let archive = Archive::open_existing(config)?;
    match base::logs(&archive).await {
        Ok(_) => Ok(archive),
        Err(error) => {
            let url = archive.url("");
            Err(format!("{error}; check {url} (--archive), its credentials, and the network")
                .into())
        }
    }
}

async fn verify_archive(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let mut config = args.archive;
    if config.archive.is_none() {
        config.archive = Some(DataDir::new(&args.data_dir).archive());
    }
    let archive = reached(&config).await?;
    let bar = progress("verifying {wide_bar} {pos}/{len} manifests");
    let report = verify(&archive, args.sample.unwrap_or(Sample::ALL), |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
    .await?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if report.is_empty() {
        let address = config.archive.map(|address| address.to_string()).unwrap_or_default();
        println!("empty: nothing is archived in {address} yet; check --archive");
        return Ok(ExitCode::FAILURE);
    } else {
        print(&report, args.sample);
    }
    let is_well = report.is_well() && !report.is_empty();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A bar on a terminal.
fn progress(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A crash leaves the same as who deletes the newest manifest, or that of a backup on demand: the objects do not tell.
const ORPHANS: &str = "What no manifest lists is no backup, and is not verified. It is being sealed, or was left by a crash: then it is listed, or \
     gone, once the archiver has gone on for an hour. If it stays, a manifest may have been deleted, the newest hour's or \
     that of a backup on demand: bring it back from an earlier version of the bucket";

fn print(report: &Report, sample: Option<Sample>) {
    for problem in &report.problems {
        println!("{}: {}", problem.path, problem.problem);
    }
    for lost in &report.gaps {
        let (partition, first, next) =
            (lost.partition, lost.gap.first_offset, lost.gap.next_offset);
        println!(
            "gap: partition {partition} lost its records [{first}, {next}) before they were archived"
        );
    }
    for orphan in &report.orphans {
        println!("{orphan}: no manifest lists it");
    }
    if !report.orphans.is_empty() {
        println!("{ORPHANS}");
    }
    for leftover in &report.leftovers {
        println!("{leftover}: its events are in a sealed hour (to be deleted, no loss)");
    }
    let counts = format!(
        "{} manifests, {} objects ({} expired, {} rewritten without what was erased, {} read whole), {} backups ({} states recomputed)",
        report.manifests,
        report.objects,
        report.expired,
        report.redacted,
        report.objects_read,
        report.backups,
        report.states_read
    );
    match report.problems.len() {
        0 => println!("well: {counts}; {}{}", until(report, sample), unlisted(report)),
        problems => println!("damaged: {problems} problems in {counts}"),
    }
}

/// What nothing is known of is said with the verdict.
fn unlisted(report: &Report) -> String {
    match report.orphans.len() {
        0 => String::new(),
        objects => format!("; {objects} objects that no manifest lists: see above"),
    }
}

/// Until when everything is proven, or a part of it.
fn until(report: &Report, sample: Option<Sample>) -> String {
    let proven = match sample {
        Some(sample) if sample != Sample::ALL => format!("part {sample} checked"),
        _ => "proven".to_owned(),
    };
    let proven = match report.proven() {
        Some(Proven { hour, behind: 0, .. }) => format!("{proven} up to the end of hour {hour}"),
        Some(Proven { hour, behind, first }) => format!(
            "{proven} up to the end of hour {hour}; {behind} partitions end earlier, the first with hour {first}: idle \
             since, or not sealed yet"
        ),
        None => "no hour is sealed yet".to_owned(),
    };
    match report.raw.iter().map(|raw| raw.append_time).min() {
        Some(time) => {
            let partitions = report.raw.len();
            format!(
                "{proven}; raw events of {partitions} partitions beyond that, up to {time} at least"
            )
        }
        None => proven,
    }
}
