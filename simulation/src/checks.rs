//! What must be so once all is quiet.

use archive::history;
use device::wire::Pulled;
use model::{Cursor, Digest, LogFold, ScopeKey, log_fold::FoldedScope};
use readmodel::write::MessageImage;

use crate::{
    Violation,
    archiver::now,
    log::{home, partitions},
    machine::Machine,
    recovery,
    rows::Rows,
    witness::{Standing, Standings},
    world::World,
};

/// Devices, rows, the log's fold and the archive's fold.
///
/// # Errors
/// They are not the same.
pub fn all(world: &mut World, machines: &[&Machine]) -> Result<(), Violation> {
    sums(&world.rows)?;
    let floors = world.rows.scopes.iter().map(|(key, heading)| (key.reference(), heading.floor));
    world.witness.check(&standings(&world.rows), &floors.collect())?;
    fold(&world.rows, &world.cache.fold, "log")?;
    for partition in partitions() {
        world.bucket.upload(&world.log, partition)?;
    }
    world.bucket.proves = true;
    let mut archived = recovery::fold_archived(&mut world.bucket, world.log.id)?;
    fold(&world.rows, &archived.fold, "archive's events")?;
    for partition in partitions() {
        archived.seal_hour(&mut world.bucket, partition)?;
        // It says the same, or the archive refuses it.
        world.cache.seal_hour(&mut world.bucket, partition)?;
    }
    backups(world)?;
    machines.iter().try_for_each(|machine| device(&world.rows, machine))
}

fn standings(rows: &Rows) -> Standings {
    let standing = |image: &MessageImage| {
        let content = image.entry.is_live().then_some(image.entry.content_hash);
        ((image.scope, image.id), Standing { cursor: image.entry.cursor, content })
    };
    rows.messages.values().map(standing).collect()
}

/// A scope's sums are those of its rows.
fn sums(rows: &Rows) -> Result<(), Violation> {
    for (key, heading) in &rows.scopes {
        let mut digest = Digest::EMPTY;
        let live = rows.of(key.reference()).filter(|image| image.entry.is_live());
        live.for_each(|image| digest.add(image.entry.version.item(image.id)));
        if digest != heading.digest {
            return Err(Violation(format!("the digest of {key} is not that of its rows")));
        }
    }
    Ok(())
}

fn fold(rows: &Rows, fold: &LogFold, whose: &str) -> Result<(), Violation> {
    let exists = |folded: &&FoldedScope| folded.scope.heading.exists;
    if fold.scopes.values().filter(exists).count() != rows.scopes.len() {
        return Err(Violation(format!("the fold of the {whose} has other scopes than the rows")));
    }
    for (key, heading) in &rows.scopes {
        let differs = |what: &str| {
            Err(Violation(format!("{key}: {what} of the {whose} and the rows differ")))
        };
        let Some(folded) = fold.scopes.get(key) else { return differs("the scope") };
        if folded.scope.heading != *heading {
            return differs("the headings");
        }
        for image in rows.of(key.reference()) {
            let message = folded.messages.get(&image.id);
            if message.is_none_or(|m| m.entry != image.entry || m.to_json() != image.json) {
                return differs("the messages");
            }
        }
        if folded.messages.len() != rows.of(key.reference()).count() {
            return differs("the numbers of messages");
        }
    }
    Ok(())
}

/// The newest backup of each scope shows it as it is: a full, and the incrementals after it.
fn backups(world: &World) -> Result<(), Violation> {
    let bucket = &world.bucket;
    for (key, heading) in world.rows.scopes.iter().filter(|(_, heading)| heading.head.get() > 0) {
        let wrong = |what: &str| Err(Violation(format!("{key}: its newest backup {what}")));
        let Some(id) = bucket.newest.get(key) else { return wrong("is missing") };
        let found = now(history::find(&bucket.archive, world.log.id, home(key), key, *id))?;
        let Some(found) = found else { return wrong("is listed nowhere") };
        if (found.line.head, found.line.digest) != (heading.head, heading.digest) {
            return wrong(&format!("is of cursor {}, not {}", found.line.head, heading.head));
        }
        let mut state = now(found.open(&bucket.archive))?;
        let mut messages = 0;
        while let Some(message) =
            state.next_message().map_err(|error| Violation(error.to_string()))?
        {
            if !message.entry.is_live() && message.entry.cursor <= heading.floor {
                continue; // a floor that has risen alone makes no new backup
            }
            let row = world.rows.messages.get(&(key.reference(), message.id));
            if row.is_none_or(|row| row.json != message.to_json()) {
                return wrong(&format!("has another {}", message.id));
            }
            messages += 1;
        }
        if messages != world.rows.of(key.reference()).count() {
            return wrong("has another number of messages");
        }
    }
    Ok(())
}

/// A device holds what its scope is, and nothing else; that of a removed member holds nothing.
///
/// # Errors
/// It does not.
pub fn device(rows: &Rows, machine: &Machine) -> Result<(), Violation> {
    let key: &ScopeKey = &machine.seat.scope;
    let heading = rows.scopes.get(key).cloned().unwrap_or_default();
    let wrong =
        |what: String| Err(Violation(format!("device {} of {key} {what}", machine.seat.number)));
    let (replica, expected) = (&machine.replica, (heading.count, heading.digest));
    if !rows.standing(key, &machine.seat.user).may_pull() {
        let has_nothing = replica.count() == 0 && replica.cursor == Cursor::ZERO;
        return if has_nothing {
            Ok(())
        } else {
            wrong("is served, a removed member's".to_owned())
        };
    }
    if (replica.count(), replica.digest()) != expected {
        let count = replica.count();
        return wrong(format!("holds {count} messages, not the {} of the scope", heading.count));
    }
    if replica.cursor != heading.head || replica.epoch != Some(rows.epoch()) {
        return wrong(format!("is at cursor {}, its scope at {}", replica.cursor, heading.head));
    }
    if !machine.has_said_all() {
        return wrong("has not pushed all".to_owned());
    }
    for message in replica.messages() {
        let pulled: Pulled = serde_json::from_str(message.json().get()).unwrap();
        let scope = pulled.metadata.as_ref().map(|metadata| metadata["scope"].clone());
        if scope != Some(key.to_string().into()) {
            return wrong(format!("holds {}, which is of {scope:?}", pulled.id));
        }
    }
    Ok(())
}
