//! The tables: each hour's, or those of the days that took their places.

use std::ops::Range;

use model::Offset;

use crate::{
    compaction::{self, Compaction},
    error::ArchiveError,
    history::Names,
    manifest::{Header, TableFile},
    object::Object,
    table,
    verify::{Chain, Verifier},
};

impl Verifier<'_> {
    /// Reads the compactions of a partition.
    pub(super) async fn compactions(
        &mut self,
        names: &Names,
        step: &mut impl FnMut(),
    ) -> Result<Vec<(String, Compaction)>, ArchiveError> {
        let mut compactions = Vec::new();
        for path in names.compactions() {
            self.report.manifests += 1;
            let found = compaction::find(self.archive, &path).await;
            compactions.extend(self.keep(found)?.flatten().map(|found| (path, found)));
            step();
        }
        Ok(compactions)
    }

    /// A day's files have all rows of its hours, and its hours are all there were.
    pub(super) async fn compaction(
        &mut self,
        path: &str,
        compaction: &Compaction,
        chain: &Chain,
    ) -> Result<(), ArchiveError> {
        let mut hours = Vec::new();
        for hour in &compaction.hours {
            let found = chain.hours.get(&hour.manifest.path);
            match found.filter(|(sha256, _)| *sha256 == hour.manifest.sha256) {
                Some((_, header))
                    if (&header.events, &header.messages) == (&hour.events, &hour.messages) =>
                {
                    hours.push(header);
                }
                _ => self.problem(path, format!("{} says otherwise", hour.manifest.path)),
            }
        }
        if hours.len() < compaction.hours.len() {
            return Ok(());
        }
        self.check_compacted(path, compaction, &hours);
        let rows = |file: fn(&Header) -> &Option<TableFile>| -> Vec<_> {
            let rows = |hour: &&Header| file(hour).as_ref().map_or(0, |file| file.rows);
            hours.iter().map(|hour| (hour.first_offset..hour.next_offset, rows(hour))).collect()
        };
        let Header { events, messages, .. } = &compaction.header;
        for (file, rows) in
            [(events, rows(|hour| &hour.events)), (messages, rows(|hour| &hour.messages))]
        {
            let total: u64 = rows.iter().map(|(_, rows)| rows).sum();
            if file.as_ref().map_or(0, |file| file.rows) != total {
                self.problem(path, format!("its hours have {total} rows together"));
            }
            let Some(file) = file else { continue };
            if let Some(file) = self.table_to_be_read(file).await? {
                let (file, fetched) = self.fetch_table(file).await?;
                self.table(&file, fetched, &rows)?;
            }
        }
        Ok(())
    }

    /// An hour's file; it may be in its day's by now, and was checked there or will be by the next run.
    pub(super) async fn hour_table(
        &mut self,
        file: &TableFile,
        hour: &Header,
        chain: &Chain,
    ) -> Result<(), ArchiveError> {
        let is_there = self.stored.contains_key(&file.path);
        if !is_there && self.is_compacted(file, hour, chain).await? {
            return Ok(());
        }
        let Some(current) = self.table_to_be_read(file).await? else { return Ok(()) };
        let (current, fetched) = self.fetch_table(current).await?;
        let is_missing = matches!(fetched, Err(ArchiveError::NotFound { .. }));
        if is_missing && self.is_compacted(file, hour, chain).await? {
            return Ok(());
        }
        self.table(&current, fetched, &[(hour.first_offset..hour.next_offset, current.rows)])
    }

    async fn is_compacted(
        &self,
        file: &TableFile,
        hour: &Header,
        chain: &Chain,
    ) -> Result<bool, ArchiveError> {
        if chain.compacted.get(&file.path) == Some(file) {
            return Ok(true);
        }
        match compaction::of_hour(self.archive, hour).await {
            Ok(compaction) => Ok(compaction.is_some_and(|compaction| compaction.has(file))),
            // It is named where the compactions are read.
            Err(ArchiveError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn table(
        &mut self,
        file: &TableFile,
        fetched: Result<Object, ArchiveError>,
        hours: &[(Range<Offset>, u64)],
    ) -> Result<(), ArchiveError> {
        let Some(object) = self.keep(fetched)? else { return Ok(()) };
        let note = |batch: &_| self.note_fingerprints(&file.path, batch);
        let checked = table::check_rows(object.contents(), &file.path, hours, note);
        self.keep(checked)?;
        Ok(())
    }
}
