//! What retention has deleted: a listed object is missing if, and only if, a record says so. Retention goes on meanwhile.

use std::collections::HashSet;

use model::{LogId, Partition};

use crate::{
    error::ArchiveError, expired::ExpiredReader, history::Names, manifest::Header, verify::Verifier,
};

impl Verifier<'_> {
    /// Reads a partition's records, each to its end.
    pub(super) async fn read_expired(
        &mut self,
        log: LogId,
        partition: Partition,
    ) -> Result<(), ArchiveError> {
        self.expired.clear();
        self.expired_records.clear();
        // Listed after the objects: what was deleted by then has its record by now.
        self.read_new_records(log, partition).await
    }

    async fn read_new_records(
        &mut self,
        log: LogId,
        partition: Partition,
    ) -> Result<(), ArchiveError> {
        let names = Names::list(self.archive, log, partition).await?;
        for record in names.expired() {
            if self.expired_records.insert(record.clone()) {
                let read = self.read_record(&record).await;
                self.keep(read)?;
            }
        }
        Ok(())
    }

    /// Whether a backup that was there when the objects were listed has expired by now: its record stands before it goes.
    pub(super) async fn has_expired_since(
        &mut self,
        of: &Header,
        path: &str,
    ) -> Result<bool, ArchiveError> {
        if !self.expired.contains_key(path) {
            self.read_new_records(of.log_id, of.partition).await?;
        }
        Ok(self.expired.contains_key(path))
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

    /// Once all manifests were read: what they list is all that can expire, but for what came meanwhile.
    pub(super) async fn check_expired(
        &mut self,
        log: LogId,
        partition: Partition,
        names: &Names,
    ) -> Result<(), ArchiveError> {
        let unlisted = self.expired.iter().filter(|(path, _)| !self.listed.contains(*path));
        let mut unlisted: Vec<_> =
            unlisted.map(|(path, record)| (path.clone(), record.clone())).collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        let now = Names::list(self.archive, log, partition).await?;
        let read: HashSet<String> = names.paths().collect();
        let is_new = |path: &str| now.manifest_of(path).is_some_and(|path| !read.contains(&path));
        unlisted.retain(|(path, _)| !is_new(path));
        for (path, record) in unlisted {
            self.problem(&record, format!("it names {path}, which no manifest lists"));
        }
        Ok(())
    }
}
