//! What the archiver does a second, beside gzip and Parquet writing of the same data alone; and the memory it takes.
//!
//! The archiver runs in a process of its own (this program again), so that its memory is its own.

mod hour;
mod limit;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use archive::{Archive, ArchiveAddress, ArchiveConfig, period::HourLength};
use archiver::{Archiver, ArchiverConfig, Clock, Retention, SegmentConfig, Upkeep};
use bytes::Bytes;
use eventlog::{EventLog, LogAddress, LogConfig};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{
    Action, Command, CommandId, Limits, OrgRole, Partition, PushedChange, RequestHash, ScopeKey,
    UserId, draft::parse_change,
};
use serde::{Deserialize, Serialize};
use service::ops::Readiness;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Failure, server, step, table::Line};
use hour::OneHour;
pub(crate) use hour::Over;

/// Messages of the log that is archived for the rates, and the scopes that have them.
const MESSAGES: usize = 200_000;
const SCOPES: usize = 64;
/// Scopes with one message each, and messages of one scope, that memory is measured at.
const MANY_SCOPES: usize = 100_000;
const MANY_MESSAGES: usize = 1_000_000;
/// Messages of a push.
const PUSH: usize = 100;
const MEMORY_MAX_MB: f64 = 300.0;
/// Appends under way at the same time.
const APPENDS: usize = 1_000;

/// What the process that archived says.
#[derive(Debug, Deserialize, Serialize)]
struct Archived {
    seconds: f64,
    peak_mb: f64,
}

/// A log to be archived.
struct Filled {
    directory: PathBuf,
    messages: usize,
    scopes: usize,
}

/// Measures all of it.
pub(crate) async fn figures(directory: &Path, lines: &mut Vec<Line>) -> Result<(), Failure> {
    step("archiving");
    let filled = fill(directory.join("archived"), SCOPES, MESSAGES).await?;
    let limit = limit::measure(&open(&filled.directory).await?).await?;
    let archived = archive_apart(&filled, Over::Hour).await?;
    let rate = |figure: f64| figure / archived.seconds;
    let line = |what: &str, figure, unit| Line::new("embedded", what, figure, unit);
    lines.push(
        line("archiving, records", rate(MESSAGES as f64), "/s")
            .beside("gzip and Parquet", Some(MESSAGES as f64 / limit.seconds))
            .goal(0.7),
    );
    lines.push(
        line("archiving, JSON", rate(limit.json_bytes as f64 / 1e6), "MB/s")
            .beside("gzip and Parquet", Some(limit.json_bytes as f64 / 1e6 / limit.seconds)),
    );
    for (scopes, messages) in [(MANY_SCOPES, MANY_SCOPES), (1, MANY_MESSAGES)] {
        step(&format!("archiving {messages} messages of {scopes} scopes"));
        let filled = fill(directory.join(format!("archived-{scopes}")), scopes, messages).await?;
        let archived = archive_apart(&filled, Over::Day).await?;
        let what = format!("archiver's memory, {messages} in {scopes} scopes");
        lines.push(line(&what, archived.peak_mb, "MB").below(MEMORY_MAX_MB));
        std::fs::remove_dir_all(&filled.directory)?;
    }
    Ok(())
}

async fn open(directory: &Path) -> Result<Arc<dyn EventLog>, Failure> {
    Ok(eventlog::open(&LogConfig::new(LogAddress::Embedded), &directory.join("log")).await?)
}

/// Fills a new log with pushes.
async fn fill(directory: PathBuf, scopes: usize, messages: usize) -> Result<Filled, Failure> {
    let log = open(&directory).await?;
    let each = PUSH.min(messages / scopes);
    let appends = stream::iter(0..messages / each).map(|push| {
        let log = &log;
        async move {
            let command = command(push % scopes, push * each, each)?;
            let key = Bytes::from(command.scope.to_string());
            log.append(key, Bytes::from(schemas::encode_command(&command)?)).await?;
            Ok::<_, Failure>(())
        }
    });
    appends.buffer_unordered(APPENDS).try_collect::<()>().await?;
    log.close().await?;
    Ok(Filled { directory, messages, scopes })
}

fn command(scope: usize, first: usize, messages: usize) -> Result<Command, Failure> {
    let change = |index: usize| {
        let text = crate::scenarios::message(&format!("{}", first + index));
        let change = parse_change(&text, &Limits::CONTRACT).map_err(|_| "no message")?;
        Ok::<_, Failure>(PushedChange { index: index as u32, change })
    };
    let changes = (0..messages).map(change).collect::<Result<_, _>>()?;
    let user = format!("u{scope}");
    Ok(Command {
        id: CommandId(Uuid::now_v7()),
        scope: format!("bench/user/{user}").parse::<ScopeKey>()?,
        actor: UserId::new(&user)?,
        org_role: OrgRole::Member,
        device: None,
        request_hash: RequestHash::of(&[b"bench"]),
        action: Action::MessagesPushed { changes, rejected: Vec::new() },
    })
}

/// Archives a log by this program in another process.
async fn archive_apart(filled: &Filled, over: Over) -> Result<Archived, Failure> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .arg("--archive")
        .arg(&filled.directory)
        .args(["--archive-scopes", &filled.scopes.to_string()])
        .args(["--archive-over", if over == Over::Day { "day" } else { "hour" }])
        .stderr(Stdio::inherit())
        .output()
        .await?;
    if !output.status.success() {
        return Err(format!("archiving {} messages failed", filled.messages).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Archives the log there, each of whose scopes gets an incremental, and a full if a day is over; prints what it took.
pub(crate) async fn archive(directory: &Path, scopes: usize, over: Over) -> Result<(), Failure> {
    const WITHIN: Duration = Duration::from_secs(3_600);
    let log: Arc<dyn EventLog> = Arc::new(OneHour::of(open(directory).await?, over).await?);
    let facts =
        eventlog::open_backups(&LogConfig::new(LogAddress::Embedded), &directory.join("facts"))
            .await?;
    let shutdown = CancellationToken::new();
    let archiver = Archiver {
        config: ArchiverConfig {
            archive_hour_seconds: HourLength::REAL,
            archive_cache: Some(directory.join("cache")),
            retention: Retention::default(),
            segments: SegmentConfig::default(),
            archive_drill_hours: 0,
        },
        log: log.clone(),
        facts: facts.clone(),
        archive: Archive::open(&ArchiveConfig::new(ArchiveAddress::File(
            std::path::absolute(directory)?.join("archive"),
        )))?,
        database: None,
        ready: Readiness::new().component("archiver"),
        upkeep: Upkeep::new(Clock::system(), None).0,
    };
    let began = Instant::now();
    let running = tokio::spawn(archiver.run(shutdown.clone()));
    // Completed and verified, each of them.
    let wanted = (2 * over.backups() * scopes) as u64;
    while facts.bounds(Partition::new(0)).await?.end.get() < wanted {
        if running.is_finished() || began.elapsed() > WITHIN {
            return Err("the archiver ended before it had archived".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let archived = Archived { seconds: began.elapsed().as_secs_f64(), peak_mb: server::peak_mb()? };
    shutdown.cancel();
    running.await??;
    println!("{}", serde_json::to_string(&archived)?);
    Ok(())
}
