//! `ops recover`: a log that was lost goes on in a new one, from the archive alone.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use archive::{Archive, ArchiveConfig};
use archiver::{
    ArchiverConfig, Clock, Judged, Lost, NewLog, Recovered, Recovering, Recovery, last_written,
    lost,
};
use clap::Args;
use eventlog::{EMBEDDED_PARTITIONS, EventLog, KAFKA_PARTITIONS, LogAddress, LogConfig, OpenError};
use model::LogId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::reached;
use crate::{
    Failure,
    dev::data_dir::DataDir,
    device::{output, progress::Progress},
    serve::shown,
};

#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// The archive; if none is named, that of the development instance in --data-dir
    #[command(flatten)]
    archive: ArchiveConfig,

    /// The new log, which must be empty
    #[command(flatten)]
    log: LogConfig,

    /// Directory of an embedded log; it must be named if --archive is [default: log in --data-dir]
    #[arg(long, env = "CONTEXT_SYNC_LOG_DIR")]
    log_dir: Option<PathBuf>,

    /// Where the development instance is kept
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    data_dir: PathBuf,

    #[command(flatten)]
    archiver: ArchiverConfig,

    /// The lost log's id, where the archive has several that no other one goes on from
    #[arg(long, value_name = "LOG_ID", value_parser = log_id)]
    from: Option<LogId>,

    /// Refuse if the archive was given something of the lost log within so many seconds: then it lives still. A log that
    /// is busy is archived every --archive-segment-seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    quiet_seconds: u64,

    /// Do it. Without this it is only said what would be done
    #[arg(long)]
    yes: bool,

    /// Print a JSON object a step, and what it came to last
    #[arg(long)]
    json: bool,
}

fn log_id(text: &str) -> Result<LogId, String> {
    let takes = "takes a UUID, as the archive's folder manifests/ has them";
    text.parse().map(LogId).map_err(|_| takes.to_owned())
}

pub(super) async fn run(mut args: RecoverArgs) -> Result<ExitCode, Failure> {
    let data_dir = DataDir::new(&args.data_dir);
    let is_of_instance = args.archive.archive.is_none();
    let is_embedded = args.log.log == LogAddress::Embedded;
    if !is_of_instance && is_embedded && args.log_dir.is_none() {
        let which = "name the new log: --log kafka://…, or --log-dir for an embedded one";
        return Err(which.into());
    }
    args.archive.archive.get_or_insert_with(|| data_dir.archive());
    let archive = reached(&args.archive).await?;
    let lost = lost(&archive, args.from).await?;
    let dir = args.log_dir.unwrap_or_else(|| data_dir.log());
    if !args.yes {
        let into = match is_embedded {
            true => format!("the embedded log in {}", shown(&dir)),
            false => format!("{}, topics {}.…", args.log.log, args.log.log_topic_prefix),
        };
        return ask(&archive, &lost, &into).await;
    }
    let _lock = if is_of_instance { Some(data_dir.lock()?) } else { None };
    let shutdown = service::shutdown::on_signals()?;
    let mut config = args.archiver;
    config.archive_cache.get_or_insert_with(|| data_dir.path().join("archiver"));
    let quiet = Duration::from_secs(args.quiet_seconds);
    let mut log = args.log;
    log.log_partitions = log.log_partitions.or(lost.partitions);
    let place = Place { log, dir };
    let begun = tokio::select! {
        begun = begin(&place, config, archive, lost, quiet) => begun?,
        () = shutdown.cancelled() => return Err("it was stopped before anything was changed".into()),
    };
    recover(begun, &place, Shown { json: args.json, bar: None }, shutdown).await
}

/// Where the new log is, or will be.
struct Place {
    log: LogConfig,
    dir: PathBuf,
}

/// A log, and its log of facts.
type Logs = (Option<Arc<dyn EventLog>>, Option<Arc<dyn EventLog>>);

impl Place {
    /// What is there already, of a recovery that was stopped, say. Nothing is made.
    async fn existing(&self) -> Result<Logs, OpenError> {
        let look = LogConfig { log_must_exist: true, ..self.log.clone() };
        let events = there(eventlog::open(&look, &self.dir).await)?;
        let facts = there(eventlog::open_backups(&look, &self.facts_dir()).await)?;
        Ok((events, facts))
    }

    /// How many partitions a log gets that is made here.
    fn partitions(&self) -> u32 {
        self.log.log_partitions.unwrap_or(match self.log.log {
            LogAddress::Embedded => EMBEDDED_PARTITIONS,
            LogAddress::Kafka { .. } => KAFKA_PARTITIONS,
        })
    }

    fn facts_dir(&self) -> PathBuf {
        self.dir.join("backups")
    }
}

fn there(
    opened: Result<Arc<dyn EventLog>, OpenError>,
) -> Result<Option<Arc<dyn EventLog>>, OpenError> {
    match opened {
        Ok(log) => Ok(Some(log)),
        Err(OpenError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Judges the recovery: nothing is made or changed.
async fn begin(
    place: &Place,
    mut config: ArchiverConfig,
    archive: Archive,
    mut lost: Lost,
    quiet: Duration,
) -> Result<(Judged, Logs), Failure> {
    let logs = place.existing().await?;
    if let Some(log) = &logs.0 {
        lost = lost.into(&archive, log.log_id()).await?;
    }
    config.archive_hour_seconds = lost.hours.unwrap_or(config.archive_hour_seconds);
    let recovery = Recovery { config, archive, lost, clock: Clock::system(), quiet };
    let into = match &logs.0 {
        Some(log) => NewLog::There(log.as_ref()),
        None => NewLog::ToBeMade { partitions: place.partitions() },
    };
    Ok((recovery.judge(into).await?, logs))
}

/// Makes what is missing of the new log, and recovers into it.
async fn recover(
    (judged, (events, facts)): (Judged, Logs),
    place: &Place,
    mut shown: Shown,
    shutdown: CancellationToken,
) -> Result<ExitCode, Failure> {
    // Another number of partitions than was judged is refused.
    let log = LogConfig { log_partitions: Some(place.partitions()), ..place.log.clone() };
    let events = match events {
        Some(events) => events,
        None => eventlog::open(&log, &place.dir).await?,
    };
    let facts = match facts {
        Some(facts) => facts,
        None => eventlog::open_backups(&log, &place.facts_dir()).await?,
    };
    let (say, mut said) = mpsc::channel(16);
    let recovering = tokio::spawn(judged.run(events.clone(), facts.clone(), say, shutdown));
    let mut ended = None;
    while let Some(line) = said.recv().await {
        if let Some(status) = shown.line(line).transpose() {
            ended = Some(status);
        }
    }
    recovering.await?;
    facts.close().await?;
    events.close().await?;
    ended.unwrap_or_else(|| Err("the recovery ended without a word".into()))
}

/// Says what would be done: a log that is given up stays so.
async fn ask(archive: &Archive, lost: &Lost, into: &str) -> Result<ExitCode, Failure> {
    let log = lost.log;
    let last = match last_written(archive, log).await? {
        Some(at) => format!("it was last archived at {at}"),
        None => "nothing of it is archived".to_owned(),
    };
    println!(
        "log {log} would be given up for good, and go on in {into}; {last}.\n\
         Make sure that no service of it runs any more, ingest, projector or archiver: then add --yes"
    );
    Ok(ExitCode::FAILURE)
}

struct Shown {
    json: bool,
    bar: Option<Progress>,
}

impl Shown {
    /// Shows a line; the status, if it is the last.
    fn line(&mut self, line: Recovering) -> Result<Option<ExitCode>, Failure> {
        if self.json {
            println!("{}", serde_json::to_string(&line)?);
        }
        match line {
            Recovering::Failed(error) => {
                self.end();
                return Err(error.into());
            }
            Recovering::Done(recovered) => {
                self.end();
                if !self.json {
                    println!("{}", sums(&recovered));
                }
                return Ok(Some(ExitCode::SUCCESS));
            }
            _ if self.json => {}
            Recovering::Removed(path) => {
                output::note(format!("{path}: left by what was stopped; removed"))
            }
            Recovering::Sealed { partition, next_offset } => {
                output::note(format!("partition {partition}: sealed up to offset {next_offset}"));
            }
            Recovering::Based { of, .. } => {
                let of = u64::from(of);
                let new = || {
                    Progress::new("writing what the new log begins with", "partitions", Some(of))
                };
                self.bar.get_or_insert_with(new).add(1);
            }
            Recovering::Catalogued { backups } => {
                if let Some(bar) = self.bar.take_if(|bar| bar.is_done()) {
                    bar.finish("what the new log begins with is written");
                }
                let new =
                    || Progress::new("reading the backups for the catalogue", "backups", None);
                self.bar.get_or_insert_with(new).set(backups);
            }
        }
        Ok(None)
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.clear();
        }
    }
}

fn sums(recovered: &Recovered) -> String {
    let Recovered { from, log, scopes, backups, until } = recovered;
    let until = match until {
        Some(until) => format!("up to {until}"),
        None => "which had no events".to_owned(),
    };
    format!(
        "recovered: log {log} goes on from log {from}, {until}: {scopes} scopes, {backups} backups; \
         histories of messages begin anew.\n\
         Now migrate an empty database, and start the services on this log and this archive."
    )
}
