//! `context-sync sync`: pushes what waits, pulls what is new, and mends what has drifted.

use clap::Args;
use device::{
    batches::Outgoing,
    drift::{DriftError, Left, Mended, Mending},
    problem::ClientError,
    replica::Replica,
    upload::{Delivered, Tally, Upload, new_key},
};
use model::Epoch;
use serde_json::json;

use super::{
    client::{Client, InScope},
    connection::ConnectionArgs,
    outbox::Push,
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

/// Brings the files to what the scope is, and says what it took. Fails if a message was rejected, or waits for room.
pub async fn run(args: SyncArgs) -> Result<(), Failure> {
    let progress = Progress::new("syncing", "messages", None);
    let client = args.connection.client(progress.notify())?;
    let store = Store::of(&args.store, &args.connection)?;
    let scope = &args.connection.scope;
    let _held = store.hold()?;
    let mut replica = store.load()?;
    let epoch = replica.epoch;
    let pushed = push(&client, scope, &store, epoch, &progress).await;
    let (pushed, no_room) = pushed.map_err(|error| purged(error, &store))?;
    let mut mending = Mending::new(client.in_scope(scope), &mut replica);
    let ended = mending.run().await;
    let Mending { mended, left, .. } = mending;
    // Whatever was reached: the next one goes on from there. What left the replica is written down before it is saved.
    if !matches!(&ended, Err(error) if is_purge(error)) {
        if replica.epoch != epoch {
            store.outbox.set_aside(epoch)?;
        }
        store.keep(&left)?;
        store.save(&replica)?;
    }
    note_refused(&left, &store, &progress);
    ended.map_err(|error| purged(error.into(), &store))?;
    progress.finish(format!("synced {} messages", replica.count()));
    show(&args, &replica, &pushed, &mended)?;
    if let Some(why) = no_room {
        let waiting = store.outbox.waiting()?;
        return Err(format!("{waiting} messages wait until there is room: {why}").into());
    }
    match pushed.rejected {
        0 => Ok(()),
        rejected => Err(format!(
            "{rejected} messages were rejected: they are in {}",
            store.outbox.rejected().display()
        )
        .into()),
    }
}

/// Pushes what waits in the outbox. Says so if there was no room for some of it, which waits on.
async fn push(
    client: &Client,
    scope: &Scope,
    store: &Store,
    epoch: Option<Epoch>,
    progress: &Progress,
) -> Result<(Tally, Option<String>), Failure> {
    let requests = client.in_scope(scope);
    let mut upload = Upload::new(&requests);
    loop {
        let Full { no_room, deleted } = push_all(&mut upload, store, epoch, progress).await?;
        // What was deleted meanwhile has made room, if anything.
        if no_room.is_none() || deleted == 0 {
            return Ok((upload.tally, no_room));
        }
    }
}

/// A scope that has no room.
#[derive(Default)]
struct Full {
    no_room: Option<String>,
    /// Messages that were deleted all the same.
    deleted: u64,
}

/// Pushes in the order of the lines. Where there is no room any more only deletes pass: whatever is written waits, for a
/// later version must not come before an earlier one.
async fn push_all(
    upload: &mut Upload<'_, InScope<'_>>,
    store: &Store,
    epoch: Option<Epoch>,
    progress: &Progress,
) -> Result<Full, Failure> {
    let mut full = Full::default();
    for mut sending in store.outbox.take(epoch)? {
        while let Some(push) = sending.next_push()? {
            if full.no_room.is_some() {
                full.deleted += delete(upload, &push).await?;
                continue;
            }
            let Some(delivered) = deliver(upload, &push, &mut full).await? else { continue };
            let said = push.bad.iter().map(|bad| &bad.why).chain(&delivered.rejections);
            said.for_each(|why| progress.note(why));
            upload.tally.rejected += push.bad.len() as u64;
            sending.acknowledged(&push, &delivered.rejected, &delivered.over_quota)?;
        }
        if full.no_room.is_none() {
            sending.end()?;
        }
    }
    Ok(full)
}

/// `None`: nothing of it was taken, for there is no room.
async fn deliver(
    upload: &mut Upload<'_, InScope<'_>>,
    push: &Push,
    full: &mut Full,
) -> Result<Option<Delivered>, ClientError> {
    if push.messages.is_empty() {
        return Ok(Some(Delivered::default()));
    }
    let delivered = match upload.deliver(push.key.clone(), push.epoch, &push.messages).await {
        Err(ClientError::Problem(problem)) if problem.is_no_room() => {
            full.deleted += delete(upload, push).await?;
            full.no_room = Some(problem.to_string());
            return Ok(None);
        }
        delivered => delivered?,
    };
    if delivered.no_room.is_some() {
        full.deleted += delivered.deleted();
        full.no_room.clone_from(&delivered.no_room);
    }
    Ok(Some(delivered))
}

/// Pushes the deletes of a push ahead of what waits. They are sent again with it: a delete that is repeated changes nothing.
async fn delete(upload: &mut Upload<'_, InScope<'_>>, push: &Push) -> Result<u64, ClientError> {
    let deletes: Vec<Outgoing> =
        push.messages.iter().filter(|message| message.is_delete()).cloned().collect();
    if deletes.is_empty() {
        return Ok(0);
    }
    let tally = upload.tally.clone();
    let delivered = upload.deliver(new_key(), push.epoch, &deletes).await;
    upload.tally = tally; // they are counted with what waits
    Ok(delivered?.deleted())
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
