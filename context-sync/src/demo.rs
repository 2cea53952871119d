//! `context-sync demo`: the whole story on a fresh instance, over real HTTP, each step checked.

pub mod archive;
pub mod conflict;
pub mod exchange;
pub mod folder;
pub mod history;
pub mod instance;
pub mod people;
pub mod permission;
pub mod report;
pub mod sample;
pub mod world;

use std::path::{Path, PathBuf};

use clap::Args;
use service::telemetry::{self, TelemetryConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    Failure,
    dev::{Instance, data_dir::DataDir},
    device::output::print,
};
use archive::Saved;
use folder::Folder;
use report::Report;
use world::World;

/// What is logged: sqlx warns of every idle connection that Postgres, which stops last, closes.
const QUIET: &str = "warn,sqlx_core::pool=error";

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The git repository whose history is told; 12 built-in messages if it is none
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub git: PathBuf,

    /// Leave out all but the newest commits
    #[arg(long, value_name = "COMMITS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub newest: u64,

    /// Keep the instance's folder
    #[arg(long)]
    pub keep: bool,
}

/// Shows everything, and fails if a step did not come out as it must.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let shutdown = service::shutdown::on_signals()?;
    let folder = Folder::new(args.keep)?;
    let data_dir = folder.data_dir();
    let mut report = Report::default();
    let told = tell(&args, &data_dir, &mut report, &shutdown).await;
    folder.remove();
    if !report.is_empty() {
        let _ = print([&report])?;
    }
    told?;
    report.verdict()?;
    let _ = print([outlook(args.keep.then_some(&data_dir))])?;
    Ok(())
}

/// Starts the instance, tells the story, and stops the instance however the story ended.
async fn tell(
    args: &DemoArgs,
    data_dir: &Path,
    report: &mut Report,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let quiet =
        TelemetryConfig { telemetry_filter: QUIET.to_owned(), ..TelemetryConfig::default() };
    let metrics = telemetry::init(&quiet)?;
    let settings = instance::settings(data_dir)?;
    let interrupted = || Failure::from("interrupted");
    let mut started = None;
    let start = report.step("instance", async |progress| {
        // Starting shows how far it is itself.
        progress.clear();
        let instance = crate::dev::start(&settings, metrics, shutdown.clone()).await?;
        let shown = format!("log, Postgres and all roles in one process: {}", instance.url);
        started = Some(instance);
        Ok(shown)
    });
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Err(interrupted()),
        _ = start => {}
    }
    let Some(instance) = started else { return Ok(()) };
    let told = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(interrupted()),
        told = story(args, &instance, data_dir, report) => told,
    };
    shutdown.cancel();
    let stopped = instance.wait().await;
    told.and(stopped)
}

async fn story(
    args: &DemoArgs,
    instance: &Instance,
    data_dir: &Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let told = history::read(&args.git, args.newest).await?;
    let what = told.describe();
    let world = World::new(instance, told.people)?;
    if !report.step("history", async |p| exchange::import(&world, &what, p).await).await {
        // Nothing that follows could come out right.
        return Ok(());
    }
    report.step("second device", async |p| exchange::pull(&world, p).await).await;
    report.step("deduplication", async |p| exchange::push_again(&world, p).await).await;
    report.step("last write wins", async |_| conflict::edits(&world).await).await;
    report.step("update beats delete", async |_| conflict::delete(&world).await).await;
    report.step("a stranger", async |_| permission::stranger(&world).await).await;
    report.step("a viewer", async |_| permission::viewer(&world).await).await;
    report.step("a former member", async |_| permission::former_member(&world).await).await;
    backups(&world, data_dir, report).await;
    Ok(())
}

/// The team is backed up, lost and restored.
async fn backups(world: &World<'_>, data_dir: &Path, report: &mut Report) {
    let mut saved = None;
    let back_up = async |_: &_| {
        let (backup, shown) = Saved::new(world).await?;
        saved = Some(backup);
        Ok(shown)
    };
    report.step("backup", back_up).await;
    let Some(saved) = saved else { return };
    report.step("restore: replace", async |p| saved.replace(world, p).await).await;
    report.step("restore: merge", async |p| saved.merge(world, p).await).await;
    let data_dir = DataDir::new(data_dir);
    report.step("ops verify", async |_| archive::verified(world, &data_dir).await).await;
    report.step("an analyst", async |_| archive::contributions(world, &data_dir).await).await;
}

/// How to go on by hand.
fn outlook(kept: Option<&PathBuf>) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "context-sync".to_owned());
    let (begin, data_dir) = match kept {
        Some(path) => {
            let data_dir = format!(" --data-dir {}", path.display());
            (format!("`{program} dev{data_dir}` goes on with what was kept"), data_dir)
        }
        None => ("`make run` keeps an instance running".to_owned(), String::new()),
    };
    let tenant = world::TENANT;
    format!(
        "{begin}. Then, elsewhere:\n\n  \
         TOKEN=$({program} token --tenant {tenant} --user ann{data_dir})\n  \
         curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: laptop' \
         http://127.0.0.1:8080/api/v1/context/push \\\n    \
         -d '{{\"messages\": [{{\"type\": \"decision\", \"content\": \"Use PostgreSQL RLS\"}}]}}'\n  \
         curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: phone' \
         http://127.0.0.1:8080/api/v1/context/pull"
    )
}

/// What a step must come to.
fn must(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}
