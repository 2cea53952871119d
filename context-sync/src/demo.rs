//! `context-sync demo`: the whole story on a fresh instance, over real HTTP, each step checked.

pub mod conflict;
pub mod exchange;
pub mod history;
pub mod instance;
pub mod people;
pub mod permission;
pub mod report;
pub mod sample;
pub mod world;

use std::path::{Path, PathBuf};

use clap::Args;
use service::telemetry::{self, LogConfig};
use tokio_util::sync::CancellationToken;

use crate::{Failure, dev::Instance, device::output::print};
use history::Told;
use report::Report;
use world::World;

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
    let folder = tempfile::Builder::new().prefix("context-sync-demo-").tempdir()?;
    let mut report = Report::default();
    let told = tell(&args, folder.path(), &mut report, &shutdown).await;
    if !report.is_empty() {
        let _ = print([&report])?;
    }
    let kept = args.keep.then(|| folder.keep());
    told?;
    report.verdict()?;
    let _ = print([outlook(kept.as_deref())])?;
    Ok(())
}

/// Starts the instance, tells the story, and stops the instance however the story ended.
async fn tell(
    args: &DemoArgs,
    folder: &Path,
    report: &mut Report,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let quiet = LogConfig { log_filter: "warn".to_owned(), ..LogConfig::default() };
    let metrics = telemetry::init(&quiet)?;
    let settings = instance::settings(folder)?;
    let interrupted = || Failure::from("interrupted");
    let mut started = None;
    let start = report.step("instance", async |_| {
        let instance = crate::dev::start(&settings, metrics, shutdown.clone()).await?;
        let shown = format!("log, Postgres and all roles in one process: {}", instance.url);
        started = Some(instance);
        Ok(shown)
    });
    tokio::select! {
        _ = start => {}
        () = shutdown.cancelled() => return Err(interrupted()),
    }
    let Some(instance) = started else { return Ok(()) };
    let told = tokio::select! {
        told = story(args, &instance, report) => told,
        () = shutdown.cancelled() => Err(interrupted()),
    };
    shutdown.cancel();
    let stopped = instance.wait().await;
    told.and(stopped)
}

async fn story(args: &DemoArgs, instance: &Instance, report: &mut Report) -> Result<(), Failure> {
    let Told { people, source } = history::read(&args.git, args.newest).await?;
    let world = World::new(instance, people)?;
    if !report.step("history", async |p| exchange::import(&world, &source, p).await).await {
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
    Ok(())
}

fn outlook(kept: Option<&Path>) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "context-sync".to_owned());
    let (data_dir, kept) = match kept {
        Some(path) => {
            let path = path.display();
            (format!(" --data-dir {path}"), format!("Kept: {path}\n\n"))
        }
        None => (String::new(), String::new()),
    };
    format!(
        "{kept}Go on by hand: `make run` keeps an instance running. Then, elsewhere:\n\n  \
         TOKEN=$({program} token --tenant {tenant} --user ann{data_dir})\n  \
         curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: laptop' \
         http://127.0.0.1:8080/api/v1/context/push \\\n    \
         -d '{{\"messages\": [{{\"type\": \"decision\", \"content\": \"Use PostgreSQL RLS\"}}]}}'\n  \
         curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: phone' \
         http://127.0.0.1:8080/api/v1/context/pull",
        tenant = world::TENANT,
    )
}

/// What a step must come to.
fn must(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}
