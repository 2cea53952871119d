//! Where the archive of a log ends: a log that ends before, or has something else there, is not what it was.

use eventlog::{ReadLimit, Record};
use model::{LogId, Offset, Partition};

use super::Archived;
use crate::{error::ArchiveError, history::newest_hour, segment, store::Archive};

/// Records read at once, of which the last one counts.
const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };

/// The end of what is archived of a partition.
#[derive(Clone, Debug)]
pub struct ArchivedEnd {
    /// The offset after the last record.
    pub next: Offset,
    /// The last record; `None` if there is none, or somebody deleted the events, which never expire. Of one that was
    /// erased, the value is not the log's.
    pub last: Option<Record>,
}

impl ArchivedEnd {
    /// Of a partition, by the last segment, or by the last hour if all is sealed.
    pub async fn read(
        archive: &Archive,
        log: LogId,
        partition: Partition,
    ) -> Result<Self, ArchiveError> {
        let hour = newest_hour(archive, log, partition).await?.map(|(_, header)| header);
        let sealed = hour.as_ref().map_or(Offset::ZERO, |header| header.next_offset);
        let segments = segment::list(archive, log, partition).await?;
        let segment =
            segments.last().map(|last| last.first_offset).filter(|first| *first >= sealed);
        let from = segment.or(hour.map(|header| {
            let gaps = header.gaps.iter().map(|gap| gap.next_offset);
            gaps.max().map_or(header.first_offset, |end| end.max(header.first_offset))
        }));
        let mut end = Self { next: sealed.max(from.unwrap_or(sealed)), last: None };
        let Some(from) = from else { return Ok(end) };
        let mut archived = Archived::new(archive, log, partition, from);
        loop {
            match archived.next(READ).await.map(|mut records| records.pop()) {
                Ok(Some(last)) => end.last = Some(last),
                // A segment whose hour was sealed meanwhile, or events that somebody deleted.
                Ok(None) | Err(ArchiveError::NotFound { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        end.next = end.next.max(archived.next);
        Ok(end)
    }
}
