//! `context-sync status`: whether what a device holds is what its scope is.

use std::process::ExitCode;

use clap::Args;
use model::reconcile::Drift;
use serde_json::json;

use super::{
    connection::ConnectionArgs,
    output::{self, print},
    progress::Progress,
    store::{Store, StoreArgs},
    table::Table,
};
use crate::Failure;

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub store: StoreArgs,

    /// Print it as JSON, as everywhere but on a terminal
    #[arg(long)]
    pub json: bool,
}

/// Asks, and changes nothing. The status is 0 where all is the same and nothing waits, else 1.
pub async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    let progress = Progress::new("asking", "", None);
    let client = args.connection.client(progress.notify())?;
    let store = Store::of(&args.store, &args.connection)?;
    let replica = store.load()?;
    let waiting = store.outbox.waiting()?;
    let claim = replica.claim();
    let told = client.reconcile(&args.connection.scope, &claim, replica.epoch).await?;
    progress.clear();
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    if args.json || !output::is_for_people() {
        let line = json!({
            "status": told.status, "action": told.action, "cursor": replica.cursor, "head": told.head,
            "count": replica.count(), "scope_count": told.count, "waiting": waiting,
            "replica": store.replica,
        });
        let _ = print([line])?;
    } else {
        let mut table = Table::new([
            "status",
            "to do",
            "cursor",
            "head",
            "messages",
            "in the scope",
            "waiting",
        ]);
        table.row([
            word(json!(told.status)),
            word(json!(told.action)),
            replica.cursor.to_string(),
            told.head.to_string(),
            replica.count().to_string(),
            told.count.to_string(),
            waiting.to_string(),
        ]);
        let _ = print([table])?;
    }
    let well = told.status == Drift::InSync && waiting == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
