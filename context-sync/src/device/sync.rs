//! `context-sync sync`: pushes what waits, pulls what is new, and mends what has drifted.

use std::fmt;

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

/// Brings the files to what the scope is, and says what it took. Fails if a message was rejected, or waits for room or for
/// a role.
pub async fn run(args: SyncArgs) -> Result<(), Failure> {
    let progress = Progress::new("syncing", "messages", None);
    let client = args.connection.client(progress.notify())?;
    let store = Store::of(&args.store, &args.connection)?;
    let scope = &args.connection.scope;
    let _held = store.hold()?;
    let replica = store.load()?;
    let mut sync = Syncing {
        client: &client,
        scope,
        store: &store,
        progress: &progress,
        replica,
        pushed: Tally::default(),
        mended: Mended::default(),
    };
    let waits = sync.run().await?;
    let Syncing { replica, pushed, mended, .. } = sync;
    progress.finish(format!("synced {} messages", replica.count()));
    show(&args, &replica, &pushed, &mended)?;
    if let Some(waits) = waits {
        return Err(format!("{} messages wait {waits}", store.outbox.waiting()?).into());
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

/// A replica and an outbox on their way to what the scope is, and what that took so far.
struct Syncing<'a> {
    client: &'a Client,
    scope: &'a Scope,
    store: &'a Store,
    progress: &'a Progress,
    replica: Replica,
    pushed: Tally,
    mended: Mended,
}

impl Syncing<'_> {
    /// Pushes, then pulls. Why some of the outbox waits on, if it does.
    async fn run(&mut self) -> Result<Option<Waits>, Failure> {
        if self.replica.epoch.is_none() {
            self.store.outbox.forget_acknowledged()?;
            // By its epoch it is noticed that a recovery has lost what is pushed now.
            self.mend().await?;
        }
        let pushed = self.push().await;
        // Also where a later push failed.
        self.store.take_acknowledged(&mut self.replica)?;
        let waits = pushed?;
        self.mend().await?;
        Ok(waits)
    }

    /// Pulls, and mends what has drifted.
    async fn mend(&mut self) -> Result<(), Failure> {
        let Self { client, scope, store, progress, replica, .. } = self;
        let epoch = replica.epoch;
        let mut mending = Mending::new(client.in_scope(scope), replica);
        let ended = mending.run().await;
        let Mending { mended, left, .. } = mending;
        self.mended.add(&mended);
        // Whatever was reached: the next one goes on from there. What left the replica is written down before it is saved.
        if !matches!(&ended, Err(error) if is_purge(error)) {
            if replica.epoch != epoch {
                store.outbox.set_aside(epoch)?;
            }
            store.keep(&left)?;
            store.save(replica)?;
        }
        note_refused(&left, store, progress);
        ended.map_err(|error| purged(error, store))?;
        // Pulls have come after all that was acknowledged.
        store.outbox.forget_acknowledged()
    }

    /// Pushes what waits in the outbox. Says so if some of it was not taken, and waits on.
    async fn push(&mut self) -> Result<Option<Waits>, Failure> {
        let requests = self.client.in_scope(self.scope);
        let mut upload = Upload::new(&requests);
        upload.tally = std::mem::take(&mut self.pushed);
        let epoch = self.replica.epoch;
        loop {
            let Stopped { waits, deleted } =
                push_all(&mut upload, self.store, epoch, self.progress).await?;
            // What was deleted meanwhile has made room, if anything.
            if waits.is_none() || deleted == 0 {
                self.pushed = upload.tally;
                return Ok(waits);
            }
        }
    }
}

/// Why some of the outbox waits on.
enum Waits {
    /// There is no room for it. Deletes pass.
    Full(String),
    /// The user may not push, but may perhaps still pull: that decides what becomes of what is here.
    NotAllowed(String),
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(why) => write!(f, "until there is room: {why}"),
            Self::NotAllowed(why) => {
                write!(f, "until you may push (a refusal may hold for up to a day): {why}")
            }
        }
    }
}

/// Where the pushing came to an end.
#[derive(Default)]
struct Stopped {
    /// `None`: all was taken.
    waits: Option<Waits>,
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
) -> Result<Stopped, Failure> {
    let mut stopped = Stopped::default();
    for mut sending in store.outbox.take(epoch)? {
        while let Some(push) = sending.next_push()? {
            match &stopped.waits {
                None => {}
                Some(Waits::Full(_)) => {
                    stopped.deleted += delete(upload, &push).await?;
                    continue;
                }
                Some(Waits::NotAllowed(_)) => return Ok(stopped),
            }
            let delivered = deliver(upload, &push, &mut stopped).await?;
            let Some(delivered) = delivered else { continue };
            let said = push.bad.iter().map(|bad| &bad.why).chain(&delivered.rejections);
            said.for_each(|why| progress.note(why));
            upload.tally.rejected += push.bad.len() as u64;
            store.outbox.note_acknowledged(&delivered.acknowledged(&push.messages, &store.user))?;
            sending.acknowledged(&push, &delivered.rejected, &delivered.over_quota)?;
        }
        if stopped.waits.is_none() {
            sending.end()?;
        }
    }
    Ok(stopped)
}

/// `None`: nothing of it was taken.
async fn deliver(
    upload: &mut Upload<'_, InScope<'_>>,
    push: &Push,
    stopped: &mut Stopped,
) -> Result<Option<Delivered>, ClientError> {
    if push.messages.is_empty() {
        return Ok(Some(Delivered::default()));
    }
    let delivered = match upload.deliver(push.key.clone(), push.epoch, &push.messages).await {
        Err(ClientError::Problem(problem)) if problem.is_no_room() => {
            stopped.deleted += delete(upload, push).await?;
            stopped.waits = Some(Waits::Full(problem.to_string()));
            return Ok(None);
        }
        Err(ClientError::Problem(problem)) if problem.is_not_allowed() => {
            stopped.waits = Some(Waits::NotAllowed(problem.to_string()));
            return Ok(None);
        }
        delivered => delivered?,
    };
    if let Some(why) = &delivered.no_room {
        stopped.deleted += delivered.deleted();
        stopped.waits = Some(Waits::Full(why.clone()));
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
            "the scope has not got {refused} messages that were here, and does not take them from you, or has erased or forgotten some since: they are in {}",
            file.display()
        ));
    }
}

fn is_purge(error: &DriftError) -> bool {
    let DriftError::Client(error) = error else { return false };
    error.problem().is_some_and(|problem| problem.purge)
}

/// Whoever was removed from a scope keeps nothing of it.
fn purged(error: DriftError, store: &Store) -> Failure {
    if !is_purge(&error) {
        return error.into();
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
