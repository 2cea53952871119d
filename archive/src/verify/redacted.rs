//! What was erased: the tables that took others' places, and what is left of fulls.

use crate::{
    error::ArchiveError,
    manifest::{ScopeLine, TableFile},
    message_line,
    object::{Object, Sha256Hex},
    path,
    redaction::{self, Redaction},
    total::{Part, Total},
    verify::Verifier,
};

impl Verifier<'_> {
    /// Reads all records.
    pub(super) async fn read_redactions(&mut self) -> Result<(), ArchiveError> {
        let (records, left) = redaction::list(self.archive).await?;
        self.left = left.into_iter().collect();
        for path in records {
            let read = match self.archive.fetch(&path).await {
                Ok(object) => Redaction::read(object, &path),
                Err(error) => Err(error),
            };
            if let Some(redaction) = self.keep(read)? {
                // Until it is deleted it is nobody's.
                self.listed.insert(redaction.old.path.clone());
                self.redactions.insert(redaction.old.sha256.clone(), redaction);
            }
        }
        Ok(())
    }

    /// The table to be read in the place of one that a manifest lists, if it is its turn.
    pub(super) async fn table_to_be_read(
        &mut self,
        listed: &TableFile,
    ) -> Result<Option<TableFile>, ArchiveError> {
        let current = self.current(listed).await?;
        // What took another's place may have come since the objects were listed: then reading it shows whether it is there.
        if current != *listed && !self.stored.contains_key(&current.path) {
            self.stored.insert(current.path.clone(), current.size_bytes);
            self.is_to_be_read(&current.path, current.size_bytes);
            return Ok(Some(current));
        }
        let is_its_turn = self.is_to_be_read(&current.path, current.size_bytes);
        Ok(is_its_turn.then_some(current))
    }

    async fn current(&mut self, listed: &TableFile) -> Result<TableFile, ArchiveError> {
        let mut current = listed.clone();
        loop {
            while let Some(redaction) = self.redactions.get(&current.sha256) {
                current = redaction.new.clone();
            }
            let is_there = self.stored.contains_key(&current.path);
            if is_there || !self.is_redacted_since(&current).await? {
                break;
            }
        }
        self.report.redacted += u64::from(current != *listed);
        Ok(current)
    }

    /// Whether another one took a table's place since the records were read.
    async fn is_redacted_since(&mut self, table: &TableFile) -> Result<bool, ArchiveError> {
        let found = redaction::find(self.archive, table).await;
        let Some(redaction) = self.keep(found)?.flatten() else { return Ok(false) };
        self.listed.insert(redaction.new.path.clone());
        self.redactions.insert(table.sha256.clone(), redaction);
        Ok(true)
    }

    /// Fetches a table, or what took its place meanwhile.
    pub(super) async fn fetch_table(
        &mut self,
        mut table: TableFile,
    ) -> Result<(TableFile, Result<Object, ArchiveError>), ArchiveError> {
        loop {
            let fetched = self.archive.fetch_checked(&table.path, &table.sha256).await;
            let is_missing = matches!(fetched, Err(ArchiveError::NotFound { .. }));
            if !is_missing || !self.is_redacted_since(&table).await? {
                return Ok((table, fetched));
            }
            self.report.redacted += 1;
            table = self.redactions[&table.sha256].new.clone();
        }
    }

    /// It has no content, and comes to the state that the full showed.
    pub(super) async fn what_is_left(
        &mut self,
        full: &ScopeLine,
        sha256: &Sha256Hex,
    ) -> Result<(), ArchiveError> {
        let path = path::redacted_full(sha256);
        let read = self.read_what_is_left(full, &path).await;
        self.keep(read)?;
        Ok(())
    }

    async fn read_what_is_left(&self, full: &ScopeLine, path: &str) -> Result<(), ArchiveError> {
        let mut lines = self.archive.fetch(path).await?.lines(path)?;
        let mut total = Total::default();
        while let Some(line) = lines.next_line()? {
            let message = message_line::read(&line).map_err(|problem| lines.problem(&problem))?;
            let Some(part) = Part::of(&message) else { continue };
            if line != message_line::without_content(&message).as_bytes() {
                return Err(lines.problem("has content that was erased"));
            }
            total.add(part);
        }
        match total.contradiction(Total::said(full)) {
            None => Ok(()),
            Some(problem) => Err(ArchiveError::content(path, problem)),
        }
    }
}
