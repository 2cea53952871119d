//! `ops expire`: backups and tombstones that are over their time go, or would go.

use std::process::ExitCode;

use archiver::{Expiring, Fate, Forgotten, Overdue, Summary};
use clap::Args;

use super::port::PortArgs;
use crate::{Failure, device::table::Table};

#[derive(Args, Debug)]
pub struct ExpireArgs {
    #[command(flatten)]
    port: PortArgs,

    /// Say what would go, and delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Print a JSON object a backup, and one a scope's tombstones, and the sums last
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ExpireArgs) -> Result<ExitCode, Failure> {
    let mut said =
        args.port.ask("archiver", &format!("/archive/expire?dry_run={}", args.dry_run)).await?;
    let mut table = Table::new(["TYPE", "SCOPE", "PERIOD", "BYTES", "WHAT"]);
    let mut rows = 0_u64;
    while let Some(line) = said.next::<Expiring>().await? {
        if args.json {
            println!("{}", serde_json::to_string(&line)?);
        }
        match line {
            Expiring::Overdue(backup) => {
                rows += 1;
                table.row(cells(&backup, args.dry_run));
            }
            Expiring::Forgotten(forgotten) => {
                rows += 1;
                table.row(tombstones(&forgotten, args.dry_run));
            }
            Expiring::Done(_) if args.json => return Ok(ExitCode::SUCCESS),
            Expiring::Done(summary) => {
                if rows > 0 {
                    println!("{table}");
                }
                println!("{}", sums(summary, args.dry_run));
                return Ok(ExitCode::SUCCESS);
            }
            Expiring::Failed(error) => return Err(error.into()),
        }
    }
    Err("the archiver stopped before it was done; it goes on when it runs again".into())
}

fn cells(backup: &Overdue, dry_run: bool) -> [String; 5] {
    let period = archive::path::name(&backup.path).unwrap_or_default();
    let what = match &backup.fate {
        Fate::Goes if dry_run => "would go".to_owned(),
        Fate::Goes => "gone".to_owned(),
        Fate::Stays { why } => format!("stays: {why}"),
    };
    let (of, scope) = (backup.backup_type.as_str().to_owned(), backup.scope.clone());
    [of, scope, period.to_owned(), backup.size_bytes.to_string(), what]
}

fn tombstones(forgotten: &Forgotten, dry_run: bool) -> [String; 5] {
    let Forgotten { scope, up_to, tombstones } = forgotten;
    let what = format!("{tombstones} {}", if dry_run { "would go" } else { "gone" });
    ["tombstones".to_owned(), scope.clone(), format!("to cursor {up_to}"), "-".to_owned(), what]
}

fn sums(summary: Summary, dry_run: bool) -> String {
    let Summary { expired, bytes, stays, tombstones } = summary;
    let went = if dry_run { "would go" } else { "went" };
    format!(
        "{expired} backups with {bytes} bytes and {tombstones} tombstones {went}; {stays} backups over their time stay"
    )
}
