//! Whether the tables' rows are those of their hour, and the events' values can be read: every schema that they name is
//! there, and is the one of its name.

use arrow_array::{Array, BinaryArray, Int64Array, RecordBatch};

use crate::{
    error::{ArchiveError, Damage},
    manifest::Header,
    path,
    verify::Verifier,
};

impl Verifier<'_> {
    /// Keeps which schemas a table's events have.
    pub(super) fn note_fingerprints(&mut self, table: &str, batches: &[RecordBatch]) {
        for batch in batches {
            let (Some(kinds), Some(values)) =
                (batch.column_by_name("kind"), batch.column_by_name("value"))
            else {
                continue; // no table of events
            };
            let Some(values) = values.as_any().downcast_ref::<BinaryArray>() else { continue };
            // A value without a kind does not decode: it names no schema.
            let decoded = (0..values.len()).filter(|row| kinds.is_valid(*row));
            for fingerprint in decoded.filter_map(|row| schemas::fingerprint(values.value(row))) {
                self.fingerprints.entry(fingerprint).or_insert_with(|| table.to_owned());
            }
        }
    }

    /// Rows are in the order of their offsets, and those are the hour's; the last event ends it.
    pub(super) fn check_offsets(&mut self, header: &Header, table: &str, batches: &[RecordBatch]) {
        let is_events = batches.iter().any(|batch| batch.column_by_name("value").is_some());
        let mut last = None;
        for batch in batches {
            let column = batch.column_by_name("offset");
            let Some(offsets) = column.and_then(|c| c.as_any().downcast_ref::<Int64Array>()) else {
                continue;
            };
            for offset in offsets.values() {
                let is_next = if is_events { last < Some(*offset) } else { last <= Some(*offset) };
                if !is_next || *offset < header.first_offset.as_i64() {
                    self.problem(table, format!("it has offset {offset} where it should not"));
                    return;
                }
                last = Some(*offset);
            }
        }
        let end = header.next_offset.as_i64();
        let ends = last.map(|last| last + 1);
        if ends > Some(end) || (is_events && ends != Some(end)) {
            self.problem(table, format!("it does not end at offset {end}, as its manifest does"));
        }
    }

    /// Reads every schema, and looks for those that events need.
    pub(super) async fn schemas(&mut self) -> Result<(), ArchiveError> {
        let stored = self.archive.list("_schemas").await?;
        for (path, _) in &stored {
            let read = self.schema(path).await;
            self.keep(read)?;
        }
        for (fingerprint, table) in std::mem::take(&mut self.fingerprints) {
            let path = path::schema(fingerprint);
            if !stored.iter().any(|(stored, _)| *stored == path) {
                self.problem(&path, format!("it is missing: events of {table} have this schema"));
            }
        }
        Ok(())
    }

    async fn schema(&self, path: &str) -> Result<(), ArchiveError> {
        let bytes = self.archive.fetch(path).await?.bytes()?;
        let not_text = |_| ArchiveError::content(path, "it is no text");
        let json = String::from_utf8(bytes).map_err(not_text)?;
        // What this build knows, it knows to the byte: the fingerprint does not cover what schemas say to people.
        if let Some(known) = schemas::schemas().iter().find(|s| path::schema(s.fingerprint) == path)
        {
            if known.json == json {
                return Ok(());
            }
            return Err(ArchiveError::content(path, "it is not the schema of its name"));
        }
        match schemas::fingerprint_of_schema(&json) {
            Some(fingerprint) if path::schema(fingerprint) == path => Ok(()),
            Some(other) => Err(ArchiveError::damaged(
                path,
                Damage::Content(format!("it is the schema {other:016x}")),
            )),
            None => Err(ArchiveError::content(path, "it is no Avro schema")),
        }
    }
}
