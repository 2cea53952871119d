//! A hole in the log: events that retention removed before anything had archived them. The fold goes on from what
//! the read model has behind it, and the archive says so.

use std::sync::Arc;

use archive::{manifest::Gap, message_line};
use eventlog::partition_of;
use model::{Cursor, Digest, Heading, Offset, Partition, ScopeKey};
use readmodel::{
    DatabaseConfig, ReadModelError,
    projection::Position,
    snapshot::{MessageRow, Snapshot},
};

use crate::{
    cache::{Cache, PartitionState},
    error::ArchiverError,
    measure::GAPS,
    session::Session,
};

impl Session<'_> {
    /// Takes the partition's state up behind a hole, whose end is where the log begins: from the cache, if it is
    /// there already, or from the read model. The records from the open hour's first one on are
    /// then read again, without being folded, up to that place.
    pub(crate) async fn cross_gap(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
        mut state: PartitionState,
        start: Offset,
    ) -> Result<(), ArchiverError> {
        let needed = self.reach(partition, &state).await?;
        if state.folded() >= start {
            state.after_gap = Some(state.after_gap.unwrap_or(state.time));
            state.taken_up = state.folded();
        } else {
            let gap = ArchiverError::Gap { partition, needed, start };
            let Some(database) = self.database else { return Err(gap) };
            let position = self.load_rows(cache, partition, database).await?;
            if position.next_offset < start {
                return Err(gap);
            }
            if position.next_offset < state.sealed {
                let (found, needed) = (position.next_offset, state.sealed);
                return Err(ArchiverError::ReadModelBehind { partition, found, needed });
            }
            state.taken_up = position.next_offset;
            state.after_gap = Some(position.clock.time);
            state.rules = position.clock.rules;
        }
        self.note(partition, &mut state, Gap { first_offset: needed, next_offset: start });
        cache.write(partition, true, |tables| {
            tables.close_hour(partition)?;
            tables.put_state(partition, &state)
        })?;
        Ok(())
    }

    /// The open hour begins anew, with the gap.
    fn note(&self, partition: Partition, state: &mut PartitionState, gap: Gap) {
        if gap.first_offset < gap.next_offset {
            let (from, to) = (gap.first_offset, gap.next_offset);
            tracing::error!(%partition, %from, %to, "a gap: retention removed events that were not archived");
            metrics::counter!(GAPS).increment(1);
            state.gaps.push(gap);
            if gap.first_offset == state.sealed {
                state.sealed = gap.next_offset;
            }
        }
        (state.next_offset, state.time) = (state.sealed, state.sealed_time);
        (state.hour, state.hour_is_used) = (None, false);
        (state.day, state.day_is_used) = (None, false);
        state.requested = None;
    }

    /// Loads the read model's rows of a partition into the cache, in place of what is there.
    async fn load_rows(
        &self,
        cache: &Cache,
        partition: Partition,
        database: &DatabaseConfig,
    ) -> Result<Position, ArchiverError> {
        let (log, partitions) = (self.log.log_id(), self.log.partitions());
        let mut rows = Snapshot::begin(database, log, partitions, partition).await?;
        cache.write(partition, true, |tables| tables.clear(partition))?;
        let mut last = None;
        loop {
            let scopes = rows.scopes(last).await?;
            let Some((key, _)) = scopes.last() else { break };
            last = Some(key.reference());
            for (key, heading) in &scopes {
                if partition_of(key.to_string().as_bytes(), partitions) == partition {
                    load_scope(&mut rows, cache, partition, key, heading).await?;
                }
            }
        }
        load_commands(&mut rows, cache, partition).await?;
        let position = rows.position;
        rows.end().await;
        Ok(position)
    }
}

async fn load_scope(
    rows: &mut Snapshot,
    cache: &Cache,
    partition: Partition,
    key: &ScopeKey,
    heading: &Heading,
) -> Result<(), ArchiverError> {
    let scope = key.reference();
    let members = rows.members(scope).await?;
    cache.write(partition, false, |tables| tables.load_scope(partition, key, heading, &members))?;
    let (mut last, mut count, mut digest) = (Cursor::ZERO, 0, Digest::EMPTY);
    loop {
        let messages = rows.messages(scope, last).await?;
        let Some(end) = messages.last() else { break };
        last = end.entry.cursor;
        for MessageRow { id, entry, .. } in messages.iter().filter(|row| row.entry.is_live()) {
            count += 1;
            digest.add(entry.version.item(*id));
        }
        cache.write(partition, false, |tables| {
            for MessageRow { id, entry, json } in messages {
                let line = message_line::write_pulled(json, &entry);
                tables.load_message(key, id, &entry, line.as_bytes())?;
            }
            Ok(())
        })?;
    }
    if (count, digest) == (heading.count, heading.digest) {
        return Ok(());
    }
    let problem = format!("the rows of {key} come to {count} messages with digest {digest}");
    Err(ReadModelError::Damaged(problem).into())
}

async fn load_commands(
    rows: &mut Snapshot,
    cache: &Cache,
    partition: Partition,
) -> Result<(), ArchiverError> {
    let mut last = None;
    loop {
        let outcomes = rows.outcomes(last).await?;
        let Some(end) = outcomes.last() else { return Ok(()) };
        last = Some(end.id);
        cache.write(partition, false, |tables| {
            for row in &outcomes {
                tables.load_command(partition, row.offset, row.id, &row.outcome)?;
            }
            Ok(())
        })?;
    }
}
