//! Log and rows are lost: what the archive has becomes what a new log begins with.

use std::{rc::Rc, sync::Arc};

use archive::{
    base::{self, CommandLine, CommandReader},
    history::newest_hour,
    manifest::{Header, Kind, ScopeLine, TableFile},
    message_line,
    object::LinesWriter,
    path,
    segment::{self, SegmentReader},
};
use model::{
    Cursor, Epoch, FoldRevision, KnownCommand, LogId, Member, Message, Offset, Partition,
    PartitionClock, Scope, ScopeRef, Timestamp, limits::OUTCOME_KEPT_MICROS, log_fold::FoldedScope,
};
use readmodel::{
    adoption::PastEpoch,
    epochs::NewEpoch,
    projection::Advance,
    write::{MemberImage, MessageImage, OutcomeImage, Writes},
};

use crate::{
    Violation,
    archiver::{Bucket, Cache, LENGTH, line, now},
    log::partitions,
    rows::Rows,
};

/// What a partition of a recovered log begins with, read out of the archive.
pub struct Base {
    partition: Partition,
    header: Header,
    scopes: Vec<(ScopeLine, Vec<Message>)>,
    commands: Vec<CommandLine>,
}

fn damaged(error: impl std::fmt::Display) -> Violation {
    Violation(format!("the archive cannot be read: {error}"))
}

/// It never changes: it is read once.
fn begun(bucket: &mut Bucket, log: LogId) -> Result<Rc<Vec<Base>>, Violation> {
    if let Some(known) = bucket.bases.get(&log) {
        return Ok(known.clone());
    }
    let bases = Rc::new(read(bucket, log)?);
    bucket.bases.insert(log, bases.clone());
    Ok(bases)
}

fn read(bucket: &Bucket, log: LogId) -> Result<Vec<Base>, Violation> {
    let mut bases = Vec::new();
    for partition in partitions() {
        let Some(mut manifest) = now(base::open(&bucket.archive, log, partition))? else {
            continue;
        };
        let mut reader = now(CommandReader::open(&bucket.archive, &manifest.header))?;
        let (mut scopes, mut commands) = (Vec::new(), Vec::new());
        while let Some(command) = reader.next_command().map_err(damaged)? {
            commands.push(command);
        }
        while let Some(line) = manifest.next_scope().map_err(damaged)? {
            let mut messages = Vec::new();
            if let Some(backup) = &line.backup {
                let object = now(bucket.archive.fetch_checked(&backup.path, &backup.sha256))?;
                let mut lines = object.lines(&backup.path).map_err(damaged)?;
                while let Some(text) = lines.next_line().map_err(damaged)? {
                    messages.push(message_line::read(&text).map_err(damaged)?);
                }
            }
            scopes.push((line, messages));
        }
        bases.push(Base { partition, header: manifest.header, scopes, commands });
    }
    Ok(bases)
}

/// The archiver's fold where a log begins: with nothing, or with what the lost one came to.
pub fn cache(bucket: &mut Bucket, log: LogId) -> Result<Cache, Violation> {
    let mut cache = Cache::new(log);
    for Base { partition, header, scopes, commands } in begun(bucket, log)?.iter() {
        let clock = PartitionClock { time: header.clock, rules: header.rules };
        cache.fold.partitions.insert(*partition, clock);
        for (line, messages) in scopes {
            let mut scope = Scope::new(line.scope.clone());
            scope.heading = line.heading();
            let member = |m: &archive::manifest::MemberLine| {
                (m.user.clone(), Member { role: m.role, since: m.since })
            };
            scope.members = line.members.iter().map(member).collect();
            messages.iter().for_each(|message| scope.insert(message.id, message.entry.clone()));
            for command in commands.iter().filter(|command| command.scope == line.scope) {
                let (folded_at, outcome) = (command.outcome.folded_at, command.outcome.clone());
                scope.commands.insert(command.id, KnownCommand { folded_at, outcome });
            }
            let messages = messages.iter().map(|message| (message.id, message.clone())).collect();
            cache.fold.scopes.insert(line.scope.clone(), FoldedScope { scope, messages });
            cache.fulls.extend(line.backup.clone().map(|backup| (line.scope.clone(), backup)));
        }
    }
    Ok(cache)
}

/// The rows where a log begins. `logs`: it, and those before it, the oldest first.
pub fn rows(bucket: &mut Bucket, logs: &[LogId]) -> Result<Rows, Violation> {
    let mut epochs = Vec::new();
    for log in logs {
        let begun = begun(bucket, *log)?;
        let lines = begun.iter().flat_map(|base| &base.scopes);
        let bases: Vec<(ScopeRef, Cursor)> =
            lines.map(|(line, _)| (line.scope.reference(), line.head)).collect();
        let epoch = Epoch::of_log(*log);
        epochs.push(PastEpoch {
            log: *log,
            new: NewEpoch {
                epoch,
                bases,
                keeps_unlisted: false,
                fold_revision: FoldRevision::CURRENT,
            },
        });
    }
    let mut rows = Rows::with_epochs(epochs, bucket.mistake);
    for Base { partition, header, scopes, commands } in begun(bucket, *logs.last().unwrap())?.iter()
    {
        let partition = *partition;
        rows.place(partition, PartitionClock { time: header.clock, rules: header.rules });
        let mut writes = Writes::default();
        for (line, messages) in scopes {
            let (reference, tenant) = (line.scope.reference(), line.scope.tenant.clone());
            let member = |m: &archive::manifest::MemberLine| MemberImage {
                scope: reference,
                tenant: tenant.clone(),
                user: m.user.clone(),
                member: Member { role: m.role, since: m.since },
            };
            writes.members.extend(line.members.iter().map(member));
            let image = |message| MessageImage::new(reference, tenant.clone(), message);
            writes.messages.extend(messages.iter().cloned().map(image));
            writes.scopes.push((line.scope.clone(), line.heading()));
        }
        let image = |CommandLine { id, scope, offset, outcome }| OutcomeImage {
            id,
            scope: scope.reference(),
            tenant: scope.tenant,
            partition,
            offset,
            outcome,
        };
        writes.outcomes = commands.iter().cloned().map(image).collect();
        let to = rows.positions[&partition];
        rows.commit(&writes, &[Advance { partition, from: Offset::ZERO, to }], true)?;
    }
    Ok(rows)
}

/// Seals what the archive has of the lost log, and writes what the new one begins with.
pub fn recover(bucket: &mut Bucket, lost: LogId, new: LogId) -> Result<(), Violation> {
    let mut cache = fold_archived(bucket, lost)?;
    for partition in partitions() {
        cache.seal_hour(bucket, partition)?;
        let newest = now(newest_hour(&bucket.archive, lost, partition))?.map(|(_, header)| header);
        let hour = newest.as_ref().and_then(|header| LENGTH.hour_named(&header.period));
        let base = now(base::open(&bucket.archive, lost, partition))?.map(|base| base.header);
        let begun = base.map_or(Timestamp::EPOCH, |base| base.clock);
        let clock = hour.map_or(begun, |hour| LENGTH.end(hour));
        let name = path::base_name(LENGTH, LENGTH.hour_of(clock), new);
        let until = cache.clock(partition).time;
        let commands = Some(write_commands(bucket, &cache, partition, new, until)?);
        let header = Header {
            log_id: new,
            first_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            clock,
            previous: None,
            recovered_from: Some(lost),
            commands,
            ..cache.header(Kind::Full, partition, name.clone())
        };
        let mut lines = Vec::new();
        for folded in cache.scopes(partition) {
            let full = bucket.full(folded, &name, path::base_full(&folded.scope.key, &name))?;
            lines.push(line(folded, Some(full), bucket.mistake));
        }
        bucket.manifest(&path::base_manifest(new, partition, &name), &header, &lines)?;
    }
    bucket.archived.clear();
    Ok(())
}

fn write_commands(
    bucket: &Bucket,
    cache: &Cache,
    partition: Partition,
    new: LogId,
    clock: Timestamp,
) -> Result<TableFile, Violation> {
    let known_from = clock.as_micros() - OUTCOME_KEPT_MICROS;
    let mut commands = Vec::new();
    for folded in cache.scopes(partition) {
        for (id, known) in &folded.scope.commands {
            if known.folded_at.as_micros() >= known_from {
                let (scope, offset) = (folded.scope.key.clone(), Offset::ZERO);
                let outcome: Arc<_> = known.outcome.clone();
                commands.push(CommandLine { id: *id, scope, offset, outcome });
            }
        }
    }
    commands.sort_unstable_by_key(|command| command.id.0);
    let mut lines = LinesWriter::new(bucket.archive.scratch());
    for command in &commands {
        lines.push(&serde_json::to_vec(command).map_err(damaged)?).map_err(damaged)?;
    }
    let mut object = lines.finish().map_err(damaged)?;
    let name = path::base_name(LENGTH, LENGTH.hour_of(clock), new);
    let path = path::base_commands(new, partition, &name);
    now(bucket.archive.create(&path, &mut object))?;
    let (sha256, size_bytes) = (object.sha256.clone(), object.size_bytes);
    Ok(TableFile { path, sha256, size_bytes, rows: commands.len() as u64 })
}

/// The fold of what the archive has of a log: what it began with, and the records in its segments.
pub fn fold_archived(bucket: &mut Bucket, log: LogId) -> Result<Cache, Violation> {
    let mut cache = cache(bucket, log)?;
    // Nothing is left of the log itself.
    let nothing = crate::log::Log::new(log);
    for partition in partitions() {
        for name in now(segment::list(&bucket.archive, log, partition))? {
            let object = now(bucket.archive.fetch(&name.path))?;
            let mut reader = SegmentReader::new(object, &name.path).map_err(damaged)?;
            while let Some(record) = reader.next_record().map_err(damaged)? {
                cache.take(bucket, &nothing, &record)?;
            }
        }
    }
    Ok(cache)
}
