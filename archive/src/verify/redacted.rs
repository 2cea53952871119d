//! What was erased: the tables that took others' places, and what is left of fulls.

use model::Digest;

use crate::{
    error::ArchiveError,
    history::FoundBackup,
    manifest::TableFile,
    message_line, path,
    redaction::{self, Redaction},
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

    /// The table to be read in the place of one that a manifest lists.
    pub(super) fn current(&mut self, listed: &TableFile) -> TableFile {
        let mut current = listed;
        while let Some(redaction) = self.redactions.get(&current.sha256) {
            current = &redaction.new;
        }
        let current = current.clone();
        self.report.redacted += u64::from(current != *listed);
        current
    }

    /// It has no content, and comes to the state that the full showed.
    pub(super) async fn what_is_left(&mut self, found: &FoundBackup) -> Result<(), ArchiveError> {
        let path = path::redacted_full(&found.backup.sha256);
        let read = self.read_what_is_left(found, &path).await;
        self.keep(read)?;
        Ok(())
    }

    async fn read_what_is_left(&self, found: &FoundBackup, path: &str) -> Result<(), ArchiveError> {
        let mut lines = self.archive.fetch(path).await?.lines(path)?;
        let (mut count, mut digest) = (0, Digest::EMPTY);
        while let Some(line) = lines.next_line()? {
            let message = message_line::read(&line).map_err(|problem| lines.problem(&problem))?;
            if !message.entry.is_live() {
                continue;
            }
            if line != message_line::without_content(&message).as_bytes() {
                return Err(lines.problem("has content that was erased"));
            }
            count += 1;
            digest.add(message.entry.version.item(message.id));
        }
        if (count, digest) == (found.line.count, found.line.digest) {
            return Ok(());
        }
        Err(ArchiveError::content(path, "it is not what the full showed"))
    }
}
