//! Segments: raw records beyond the last hour that is sealed.

use model::{LogId, Offset, Partition, Timestamp};

use super::{LostRecords, RawUntil, Verifier};
use crate::{
    error::ArchiveError,
    segment::{self, SegmentReader},
};

/// A segment's range, and the append time of its last record.
type Range = (Offset, Offset, Timestamp);

impl Verifier<'_> {
    /// Reads the segments of a partition that go beyond what is `sealed`: one begins where the other ended.
    pub(super) async fn segments(
        &mut self,
        log: LogId,
        partition: Partition,
        sealed: Offset,
    ) -> Result<(), ArchiveError> {
        let names = segment::list(self.archive, log, partition).await?;
        let mut place = sealed;
        let mut last = None;
        for (number, name) in names.iter().enumerate() {
            let next = names.get(number + 1);
            if next.is_some_and(|next| next.first_offset <= sealed) {
                self.report.leftovers.push(name.path.clone());
                continue;
            }
            let Some((first, end, time)) = self.segment(&name.path).await? else {
                place = next.map_or(place, |next| next.first_offset);
                continue;
            };
            if end <= sealed {
                self.report.leftovers.push(name.path.clone());
                continue;
            }
            if first > self.after_gap(log, partition, place) {
                let problem = format!("it begins at offset {first}, not at {place}");
                self.problem(&name.path, problem);
            }
            place = place.max(end);
            last = Some(RawUntil { log_id: log, partition, next_offset: end, append_time: time });
        }
        self.report.raw.extend(last);
        Ok(())
    }

    /// Where records go on, if a gap begins at this place.
    fn after_gap(&self, log: LogId, partition: Partition, place: Offset) -> Offset {
        let begins = |lost: &&LostRecords| {
            (lost.log_id, lost.partition, lost.gap.first_offset) == (log, partition, place)
        };
        self.report.gaps.iter().find(begins).map_or(place, |lost| lost.gap.next_offset)
    }

    async fn segment(&mut self, path: &str) -> Result<Option<Range>, ArchiveError> {
        let fetched = self.archive.fetch(path).await;
        // It may have been sealed meanwhile.
        if matches!(fetched, Err(ArchiveError::NotFound { .. })) {
            return Ok(None);
        }
        let Some(object) = self.keep(fetched)? else { return Ok(None) };
        let range = SegmentReader::new(object, path).and_then(range);
        self.keep(range)
    }
}

fn range(mut segment: SegmentReader) -> Result<Range, ArchiveError> {
    let mut time = Timestamp::EPOCH;
    while let Some(record) = segment.next_record()? {
        time = record.append_time;
    }
    Ok((segment.first_offset, segment.next_offset, time))
}
