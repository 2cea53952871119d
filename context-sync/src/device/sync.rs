//! `context-sync sync`: pushes what waits, pulls what is new, and mends what has drifted.

use clap::Args;
use device::{
    drift::{DriftError, Left, Mended, Mending},
    problem::ClientError,
    replica::Replica,
    upload::{Tally, Upload},
};
use serde_json::json;

use super::{
    client::Client,
    connection::ConnectionArgs,
    output::{self, print},
    progress::Progress,
    scope::Scope,
    store::{Store, StoreArgs},
    table::Table,
};
use crate::Failure;

#[derive(Args, Debug)]
pub struct SyncArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub store: StoreArgs,

    /// Print what was done as JSON, as everywhere but on a terminal
    #[arg(long)]
    pub json: bool,
}

/// Brings the files to what the scope is, and says what it took. Fails if a message was rejected.
pub async fn run(args: SyncArgs) -> Result<(), Failure> {
    let progress = Progress::new("syncing", "messages", None);
    let client = args.connection.client(progress.notify())?;
    let store = Store::of(&args.store, &args.connection)?;
    let scope = &args.connection.scope;
    let _held = store.hold()?;
    let mut replica = store.load()?;
    let pushed =
        push(&client, scope, &store, &progress).await.map_err(|error| purged(error, &store))?;
    let mut mending = Mending::new(client.in_scope(scope), &mut replica);
    let ended = mending.run().await;
    let Mending { mended, left, .. } = mending;
    // Whatever was reached: the next one goes on from there. What left the replica is written down before it is saved.
    if !matches!(&ended, Err(error) if is_purge(error)) {
        store.keep(&left)?;
        store.save(&replica)?;
    }
    note_refused(&left, &store, &progress);
    ended.map_err(|error| purged(error.into(), &store))?;
    progress.finish(format!("synced {} messages", replica.count()));
    show(&args, &replica, &pushed, &mended)?;
    match pushed.rejected {
        0 => Ok(()),
        rejected => Err(format!(
            "{rejected} messages were rejected: they are in {}",
            store.outbox.rejected().display()
        )
        .into()),
    }
}

/// Pushes what waits in the outbox.
async fn push(
    client: &Client,
    scope: &Scope,
    store: &Store,
    progress: &Progress,
) -> Result<Tally, Failure> {
    let requests = client.in_scope(scope);
    let mut upload = Upload::new(&requests);
    for mut sending in store.outbox.take()? {
        while let Some(push) = sending.next_push()? {
            push.bad.iter().for_each(|bad| progress.note(&bad.why));
            upload.tally.rejected += push.bad.len() as u64;
            let mut rejected = Vec::new();
            if !push.messages.is_empty() {
                let delivered = upload.deliver(push.key.clone(), &push.messages).await?;
                delivered.rejections.iter().for_each(|why| progress.note(why));
                rejected = delivered.rejected;
            }
            sending.acknowledged(&push, &rejected)?;
        }
        sending.end()?;
    }
    Ok(upload.tally)
}

fn note_refused(left: &Left, store: &Store, progress: &Progress) {
    let (refused, file) = (left.refused.len(), store.outbox.rejected());
    if refused > 0 {
        progress.note(&format!(
            "the scope has lost {refused} messages that were here, and does not take them from you: they are in {}",
            file.display()
        ));
    }
}

fn is_purge(error: &DriftError) -> bool {
    let DriftError::Client(error) = error else { return false };
    error.problem().is_some_and(|problem| problem.purge)
}

/// Whoever was removed from a scope keeps nothing of it.
fn purged(error: Failure, store: &Store) -> Failure {
    let client = error.downcast_ref::<ClientError>();
    let purge = client.and_then(|error| error.problem()).is_some_and(|problem| problem.purge)
        || error.downcast_ref::<DriftError>().is_some_and(is_purge);
    if !purge {
        return error;
    }
    match store.purge() {
        Ok(()) => format!("{error}; what was here of the scope is deleted").into(),
        Err(failed) => {
            format!("{error}; what is here of the scope could not be deleted: {failed}").into()
        }
    }
}

fn show(
    args: &SyncArgs,
    replica: &Replica,
    pushed: &Tally,
    mended: &Mended,
) -> Result<(), Failure> {
    if args.json || !output::is_for_people() {
        let line = json!({
            "cursor": replica.cursor, "epoch": replica.epoch, "count": replica.count(),
            "digest": replica.digest(), "pushed": pushed.json(), "mended": mended,
        });
        let _ = print([line])?;
        return Ok(());
    }
    let mut table = Table::new([
        "cursor",
        "messages",
        "pushed",
        "rejected",
        "pulled",
        "repairs",
        "fetched",
        "dropped",
        "pushed again",
    ]);
    let Mended { pulled, repairs, fetched, dropped, pushed_again } = *mended;
    table.row(
        [
            replica.cursor.get(),
            replica.count(),
            pushed.synced + pushed.skipped,
            pushed.rejected,
            pulled,
            repairs,
            fetched,
            dropped,
            pushed_again,
        ]
        .map(|number| number.to_string()),
    );
    let _ = print([table])?;
    Ok(())
}
