//! What retention has deleted: a listed object is missing if, and only if, a record says so.

use model::{LogId, Partition};

use crate::{error::ArchiveError, expired::ExpiredReader, history::Names, verify::Verifier};

impl Verifier<'_> {
    /// Reads a partition's records, each to its end.
    pub(super) async fn read_expired(
        &mut self,
        log: LogId,
        partition: Partition,
    ) -> Result<(), ArchiveError> {
        self.expired.clear();
        // Listed after the objects: what was deleted by then has its record by now.
        let names = Names::list(self.archive, log, partition).await?;
        for record in names.expired() {
            let read = self.read_record(&record).await;
            self.keep(read)?;
        }
        Ok(())
    }

    async fn read_record(&mut self, path: &str) -> Result<(), ArchiveError> {
        let mut record = ExpiredReader::fetch(self.archive, path).await?;
        let mut named = Vec::new();
        while let Some(backup) = record.next_backup()? {
            named.push((backup.path, path.to_owned()));
        }
        let header = &record.header;
        let folder =
            crate::path::expired(header.log_id, header.partition, header.class, &header.period);
        if !path.starts_with(&format!("{folder}/")) {
            return Err(ArchiveError::content(path, format!("its header says {folder}")));
        }
        self.expired.extend(named);
        Ok(())
    }

    /// Once all manifests were read: what they list is all that can expire.
    pub(super) fn check_expired(&mut self) {
        let unlisted = self.expired.iter().filter(|(path, _)| !self.listed.contains(*path));
        let unlisted: Vec<_> =
            unlisted.map(|(path, record)| (path.clone(), record.clone())).collect();
        for (path, record) in unlisted {
            self.problem(&record, format!("it names {path}, which no manifest lists"));
        }
    }
}
