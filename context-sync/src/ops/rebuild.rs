//! `ops rebuild`: the rows once more from the log, beside the live ones, compared, and put in their place.

use std::{path::PathBuf, process::ExitCode};

use archive::{ArchiveConfig, replay::Replay};
use clap::Args;
use projector::{ProjectorConfig, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use readmodel::{DatabaseConfig, feed::Feed};
use tokio::sync::mpsc;

use super::{port::PortArgs, reached};
use crate::{Failure, device::progress::Progress};

#[derive(Args, Debug)]
pub struct RebuildArgs {
    #[command(flatten)]
    port: PortArgs,

    /// Rebuild in this process, with --log and --database-url, and not in a running one
    #[arg(long)]
    here: bool,

    #[command(flatten)]
    database: DatabaseConfig,

    #[command(flatten)]
    log: eventlog::LogConfig,

    /// Directory of an embedded log
    #[arg(long, env = "CONTEXT_SYNC_LOG_DIR", default_value = ".context-sync/log")]
    log_dir: PathBuf,

    /// Where the archive is: for a log that does not reach back to its first record, or was recovered
    #[command(flatten)]
    archive: ArchiveConfig,

    #[command(flatten)]
    projector: ProjectorConfig,

    /// Only this scope, such as acme/team/web
    #[arg(long, value_name = "TENANT/KIND/NAME")]
    scope: Option<String>,

    /// Compare, list what differs, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Begin anew, whatever a rebuild that was stopped has left
    #[arg(long)]
    anew: bool,

    /// The log has lost records for good: go on from what is left of it, in a new epoch
    #[arg(long)]
    cut_log: bool,

    /// Print a JSON object a step and scope, and what it came to last
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RebuildArgs) -> Result<ExitCode, Failure> {
    let mut shown = Shown::new(args.json, args.dry_run);
    if args.here {
        return rebuild_here(args, shown).await;
    }
    let mut query = format!("dry_run={}&anew={}&cut_log={}", args.dry_run, args.anew, args.cut_log);
    if let Some(scope) = &args.scope {
        query.push_str("&scope=");
        query.extend(form_urlencoded::byte_serialize(scope.as_bytes()));
    }
    let mut said = args.port.ask("projector", &format!("/rebuild?{query}")).await?;
    while let Some(line) = said.next::<Rebuilding>().await? {
        if let Some(status) = shown.line(line)? {
            return Ok(status);
        }
    }
    Err("the projector stopped before it was done; started again, the rebuild goes on".into())
}

/// In this process, which opens the log itself.
async fn rebuild_here(args: RebuildArgs, mut shown: Shown) -> Result<ExitCode, Failure> {
    let shutdown = service::shutdown::on_signals()?;
    // A mistyped name is no new log.
    let existing = eventlog::LogConfig { log_must_exist: true, ..args.log };
    let log = eventlog::open(&existing, &args.log_dir).await?;
    let archive = match args.archive.archive {
        Some(_) => Some(reached(&args.archive).await?),
        None => None,
    };
    let (config, database, feed) = (args.projector, args.database, Feed::new(false));
    let reaching_back = match &archive {
        Some(archive) => Replay::over(log.clone(), archive.clone()),
        None => log.clone(),
    };
    let rebuilder = Rebuilder { config, database, log: reaching_back, archive, feed };
    let request = RebuildRequest {
        scope: args.scope,
        dry_run: args.dry_run,
        anew: args.anew,
        cut_log: args.cut_log,
    };
    let (say, mut said) = mpsc::channel(16);
    let rebuilding = tokio::spawn(rebuilder.run(request, say, shutdown));
    let mut ended = None;
    while let Some(line) = said.recv().await {
        if let Some(status) = shown.line(line).transpose() {
            ended = Some(status);
        }
    }
    rebuilding.await?;
    log.close().await?;
    ended.unwrap_or_else(|| Err("the rebuild ended without a word".into()))
}

/// How it goes, on a terminal or line by line.
struct Shown {
    json: bool,
    dry_run: bool,
    step: Option<(&'static str, Progress, u64)>,
}

impl Shown {
    fn new(json: bool, dry_run: bool) -> Self {
        Self { json, dry_run, step: None }
    }

    /// Shows a line; the status, if it is the last.
    fn line(&mut self, line: Rebuilding) -> Result<Option<ExitCode>, Failure> {
        if self.json {
            println!("{}", serde_json::to_string(&line)?);
        }
        match line {
            Rebuilding::Folded { records, of } => self.step("folding", "records", records, of),
            Rebuilding::Compared { scopes, of } => self.step("comparing", "scopes", scopes, of),
            Rebuilding::Differs(found) if !self.json => {
                let line = format!("{}: {}", found.scope, found.problem);
                match &self.step {
                    Some((_, progress, _)) => progress.suspend(|| println!("{line}")),
                    None => println!("{line}"),
                }
            }
            Rebuilding::Differs(_) => {}
            Rebuilding::Done(rebuilt) => {
                self.end_step();
                if !self.json {
                    println!("{}", sums(&rebuilt));
                }
                let is_well = rebuilt.differing + rebuilt.tenants == 0 || !self.dry_run;
                return Ok(Some(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }));
            }
            Rebuilding::Failed(error) => {
                self.end_step();
                return Err(error.into());
            }
        }
        Ok(None)
    }

    fn step(&mut self, doing: &'static str, unit: &'static str, done: u64, of: u64) {
        if self.json {
            return;
        }
        if self.step.as_ref().is_none_or(|(own, ..)| *own != doing) {
            self.end_step();
            self.step = Some((doing, Progress::new(doing, unit, None), 0));
        }
        if let Some((_, progress, shown)) = &mut self.step {
            // Before something is done nobody knows how long it takes.
            if done > 0 {
                progress.set_total(of);
            }
            progress.add(done.saturating_sub(*shown));
            *shown = done.max(*shown);
        }
    }

    fn end_step(&mut self) {
        if let Some((doing, progress, done)) = self.step.take() {
            progress.finish(format!("{doing}: {done}"));
        }
    }
}

fn sums(rebuilt: &Rebuilt) -> String {
    let Rebuilt { scopes, differing, tenants, swapped, resumed, epoch } = rebuilt;
    let mut text = match (swapped, differing) {
        (false, 0) if *tenants == 0 => {
            format!("well: the rows of {scopes} scopes are what the log comes to")
        }
        (false, 0) => format!(
            "wrong: the rows of {scopes} scopes are what the log comes to, but not what {tenants} tenants have; without \
             --dry-run it is mended"
        ),
        (false, _) => format!(
            "wrong: the rows of {differing} of {scopes} scopes are not what the log comes to; without --dry-run they are mended"
        ),
        (true, 0) => format!("rebuilt: {scopes} scopes, all as they were"),
        (true, _) => format!("rebuilt: {scopes} scopes, {differing} of them mended"),
    };
    if *resumed {
        text.push_str("; gone on from what was there");
    }
    if let Some(epoch) = epoch {
        text.push_str(&format!(
            "\nepoch {epoch} began: devices resume where what they have was kept, and else pull from 0"
        ));
    }
    text
}
