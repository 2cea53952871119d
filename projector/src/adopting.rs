//! What a read model begins with, where its log does not begin with nothing: a log that was recovered goes on from
//! what the archive has of the lost one.

use std::collections::HashMap;

use archive::{
    Archive,
    base::{self, CommandLine, CommandReader, Owner, StoredEpoch},
    erasure::{self, Erasure},
    manifest::{ManifestReader, ScopeLine},
    message_line, redaction,
    replay::ArchivedEnd,
};
use eventlog::{Bounds, EventLog, Record};
use model::{
    Cursor, Epoch, FoldRevision, LogId, Member, Partition, PartitionClock, Place, ScopeKey,
    ScopeRef,
};
use readmodel::{
    DatabaseConfig, ProjectionSet,
    adoption::{Adoption, PastEpoch},
    epochs::NewEpoch,
    erasures::ErasedImage,
    projection::Position,
    write::{MemberImage, MessageImage, OutcomeImage, Writes},
};

use crate::{ProjectorError, session::ends};

/// Rows written in one transaction, at most.
const ROWS_AT_ONCE: usize = 500;

/// Fills a set of tables that is of no log yet, if the log is a recovered one. `only`: nothing but one scope's rows.
///
/// # Errors
/// The archive is another log's, or has more of this log than there is.
pub(crate) async fn adopt(
    database: &DatabaseConfig,
    set: ProjectionSet,
    log: &dyn EventLog,
    archive: &Archive,
    only: Option<&ScopeKey>,
) -> Result<(), ProjectorError> {
    let Some(adoption) = Adoption::begin(database, set).await? else { return Ok(()) };
    check_owner(archive, log.log_id()).await?;
    check_end(archive, log).await?;
    let is_recovered = base::recovered_from(archive, log.log_id()).await?.is_some();
    // Epochs alone, which a projector may have kept in a wrong archive, are nothing to begin with.
    if let Some(lost) = log.recovered_from().filter(|_| !is_recovered) {
        return Err(ProjectorError::NoBase { log: log.log_id(), lost });
    }
    if !is_recovered && base::epochs(archive, log.log_id()).await?.is_empty() {
        return Ok(());
    }
    let mut filling = Filling { archive, adoption, only, bases: Vec::new() };
    if is_recovered {
        tracing::info!(log = %log.log_id(), "the log was recovered: beginning with what the archive has");
        let lineage = base::lineage(archive, log.log_id()).await?;
        for partition in (0..log.partitions()).map(Partition::new) {
            let position = filling.partition(log.log_id(), partition).await?;
            for lost in lineage.iter().skip(1).rev() {
                filling.erasures(*lost, &position).await?;
            }
        }
    }
    let Filling { adoption, bases, .. } = filling;
    let epochs = match set {
        ProjectionSet::Live => epochs(archive, log, bases).await?,
        // The live set has them.
        ProjectionSet::Rebuilt | ProjectionSet::RebuiltScope => Vec::new(),
    };
    Ok(adoption.finish(log.log_id(), &ends(log).await?, &epochs).await?)
}

pub(crate) async fn check_owner(archive: &Archive, log: LogId) -> Result<(), ProjectorError> {
    match base::owner(archive, log).await? {
        Owner::Nobody | Owner::Ours => Ok(()),
        Owner::Others(logs) => Err(ProjectorError::OtherArchive { log, logs }),
        Owner::GivenUpFor(into) => Err(ProjectorError::GivenUp { log, into }),
        Owner::Unfinished(partition) => Err(ProjectorError::Unrecovered { log, partition }),
    }
}

/// The archive has seen where the log ended, if not to the last record. A read model that is lost does not know, and would
/// keep cursors of what is not there any more.
async fn check_end(archive: &Archive, log: &dyn EventLog) -> Result<(), ProjectorError> {
    for partition in (0..log.partitions()).map(Partition::new) {
        let ArchivedEnd { next: archived, last } =
            ArchivedEnd::read(archive, log.log_id(), partition).await?;
        let Bounds { start, end } = log.bounds(partition).await?;
        if archived > end {
            return Err(ProjectorError::ArchiveAhead { partition, archived, end });
        }
        let Some(last) = last.filter(|last| last.offset >= start) else { continue };
        let of_log = log.read_one(last.place()).await?;
        // Not by the value: what was erased has another one in the archive.
        let is_other = |own: Record| (own.append_time, own.key) != (last.append_time, last.key);
        if of_log.is_some_and(is_other) {
            let place = Place { partition, offset: last.offset };
            return Err(ProjectorError::ArchiveOtherwise(place));
        }
    }
    Ok(())
}

/// All epochs of a log and of those before it, and what each kept. `own`: what is recovered of the log before.
async fn epochs(
    archive: &Archive,
    log: &dyn EventLog,
    own: Vec<(ScopeRef, Cursor)>,
) -> Result<Vec<PastEpoch>, ProjectorError> {
    let mut epochs = Vec::new();
    for of in base::lineage(archive, log.log_id()).await?.into_iter().rev() {
        let bases = match of == log.log_id() {
            true => own.clone(),
            false => recovered(archive, of, log.partitions()).await?,
        };
        let epoch = Epoch::of_log(of);
        let fold_revision = FoldRevision::FIRST; // nobody is left to say which
        let new = NewEpoch { epoch, bases, keeps_unlisted: false, fold_revision };
        epochs.push(PastEpoch { log: of, new });
        for stored in base::epochs(archive, of).await? {
            let StoredEpoch { epoch, bases, keeps_unlisted, fold_revision } = stored;
            let bases = bases.into_iter().map(|(scope, base)| (ScopeRef(scope), base)).collect();
            let new = NewEpoch { epoch, bases, keeps_unlisted, fold_revision };
            epochs.push(PastEpoch { log: of, new });
        }
    }
    Ok(epochs)
}

/// What a log recovered of the one before it.
async fn recovered(
    archive: &Archive,
    log: LogId,
    partitions: u32,
) -> Result<Vec<(ScopeRef, Cursor)>, ProjectorError> {
    let mut bases = Vec::new();
    for partition in (0..partitions).map(Partition::new) {
        let Some(mut manifest) = base::open(archive, log, partition).await? else { break };
        while let Some(line) = manifest.next_scope()? {
            bases.push((line.scope.reference(), line.head));
        }
    }
    Ok(bases)
}

struct Filling<'a> {
    archive: &'a Archive,
    adoption: Adoption,
    only: Option<&'a ScopeKey>,
    bases: Vec<(ScopeRef, Cursor)>,
}

impl Filling<'_> {
    async fn partition(
        &mut self,
        log: LogId,
        partition: Partition,
    ) -> Result<Position, ProjectorError> {
        let Some(mut manifest) = base::open(self.archive, log, partition).await? else {
            return Err(ProjectorError::Unrecovered { log, partition });
        };
        let (time, rules) = (manifest.header.clock, manifest.header.rules);
        let position = self.adoption.place(partition, PartitionClock { time, rules }).await?;
        self.commands(&position, &manifest).await?;
        while let Some(line) = manifest.next_scope()? {
            if self.only.is_none_or(|only| line.scope == *only) {
                self.bases.push((line.scope.reference(), line.head));
                self.scope(&position, line).await?;
            }
        }
        Ok(position)
    }

    /// The erasures that a lost log had: who asked for one sees how far it is.
    async fn erasures(&mut self, lost: LogId, position: &Position) -> Result<(), ProjectorError> {
        let partition = position.partition;
        let states = erasure::list(self.archive, lost, partition).await?;
        let erasures = states.into_iter().map(|state| state.erasure);
        let own = erasures.filter(|own| self.only.is_none_or(|only| own.scope == *only));
        let image = |Erasure { erasure_id: id, offset, scope, cursor, at, .. }| ErasedImage {
            id,
            scope: scope.reference(),
            tenant: scope.tenant,
            place: Place { partition, offset },
            cursor,
            at,
        };
        let writes = Writes { erased: own.map(image).collect(), ..Writes::default() };
        Ok(self.adoption.write(position, &writes).await?)
    }

    /// What became of the commands that may still be repeated.
    async fn commands(
        &mut self,
        position: &Position,
        manifest: &ManifestReader,
    ) -> Result<(), ProjectorError> {
        let mut commands = CommandReader::open(self.archive, &manifest.header).await?;
        // By id: of one that came again after a day, the last counts.
        let mut outcomes = HashMap::new();
        let mut rest = true;
        while rest {
            match commands.next_command()? {
                Some(line) if self.only.is_some_and(|only| line.scope != *only) => {}
                Some(line) => {
                    outcomes.insert(line.id, outcome_image(position.partition, line));
                }
                None => rest = false,
            }
            if outcomes.len() >= ROWS_AT_ONCE || !rest {
                let outcomes = outcomes.drain().map(|(_, image)| image).collect();
                let writes = Writes { outcomes, ..Writes::default() };
                self.adoption.write(position, &writes).await?;
            }
        }
        Ok(())
    }

    async fn scope(&mut self, position: &Position, line: ScopeLine) -> Result<(), ProjectorError> {
        let (key, reference) = (line.scope.clone(), line.scope.reference());
        let members = line.members.iter().map(|member| MemberImage {
            scope: reference,
            tenant: key.tenant.clone(),
            user: member.user.clone(),
            member: Member { role: member.role, since: member.since },
        });
        let mut writes = Writes { members: members.collect(), ..Writes::default() };
        let heading = line.heading();
        let mut lines = match &line.backup {
            Some(full) => Some(redaction::fetch_full(self.archive, full).await?.lines(&full.path)?),
            None => None,
        };
        while let Some(lines) = &mut lines {
            let Some(text) = lines.next_line()? else { break };
            let message = message_line::read(&text).map_err(|problem| lines.problem(&problem))?;
            writes.messages.push(MessageImage::new(reference, key.tenant.clone(), message));
            if writes.messages.len() >= ROWS_AT_ONCE {
                writes.scopes.push((key.clone(), heading.clone()));
                self.adoption.write(position, &std::mem::take(&mut writes)).await?;
            }
        }
        writes.scopes.push((key, heading));
        Ok(self.adoption.write(position, &writes).await?)
    }
}

fn outcome_image(partition: Partition, line: CommandLine) -> OutcomeImage {
    let CommandLine { id, scope, offset, outcome } = line;
    OutcomeImage { id, scope: scope.reference(), tenant: scope.tenant, partition, offset, outcome }
}
