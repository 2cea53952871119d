//! A log of which nothing is left but what the archive has.

use std::{ops::Range, time::Duration};

use archive::{Archive, history::newest_hour};
use bytes::Bytes;
use eventlog::{
    AppendFuture, Bounds, EventLog, LogError, LogReader, ReadLimit, Record, RejectReason,
};
use futures_util::{FutureExt, future::BoxFuture};
use model::{LogId, Offset, Partition, Place};

use crate::{error::ArchiverError, records::reach};

/// It begins where it ends, as one of which retention removed everything: whoever reads it finds its records in the
/// segments.
pub(super) struct LostLog {
    id: LogId,
    /// Of each partition, up to where hours have its records.
    sealed: Vec<Offset>,
    ends: Vec<Offset>,
}

impl LostLog {
    /// As far as hours and segments go without a hole.
    pub(super) async fn find(
        archive: &Archive,
        id: LogId,
        partitions: u32,
    ) -> Result<Self, ArchiverError> {
        let (mut sealed, mut ends) = (Vec::new(), Vec::new());
        for partition in (0..partitions).map(Partition::new) {
            let newest = newest_hour(archive, id, partition).await?;
            let until = newest.map_or(Offset::ZERO, |(_, header)| header.next_offset);
            ends.push(reach(archive, id, partition, until, &[]).await?);
            sealed.push(until);
        }
        Ok(Self { id, sealed, ends })
    }

    /// The records that segments alone have.
    pub(super) fn raw(&self) -> Vec<(Partition, Range<Offset>)> {
        let ranges = self.sealed.iter().zip(&self.ends).map(|(from, to)| *from..*to);
        (0..).map(Partition::new).zip(ranges).collect()
    }
}

/// Reads nothing: there is nothing.
struct Nothing;

impl EventLog for LostLog {
    fn log_id(&self) -> LogId {
        self.id
    }

    fn partitions(&self) -> u32 {
        self.ends.len() as u32
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn append_to(&self, _: Partition, _: Bytes, _: Bytes) -> AppendFuture {
        std::future::ready(Err(RejectReason::Closed.into())).boxed()
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        let partitions = self.partitions();
        let end = self.ends.get(partition.get() as usize).copied();
        let end = end.ok_or(LogError::NoSuchPartition { partition, partitions });
        std::future::ready(end.map(|end| Bounds { start: end, end })).boxed()
    }

    fn reader(&self, _: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(Nothing))
    }

    fn read_one(&self, _: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        std::future::ready(Ok(())).boxed()
    }
}

impl LogReader for Nothing {
    fn next(&mut self, _: ReadLimit, _: Duration) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        std::future::ready(Err(LogError::Closed)).boxed()
    }

    fn seek(&mut self, _: Partition, _: Offset) -> Result<(), LogError> {
        Ok(())
    }
}
