//! Compaction: the tables of a day's hours become one file each. FORMAT.md, "Compaction".
//!
//! What is written is a pure function of the hours' files; the manifest that commits it comes before anything is
//! deleted. Every step may be repeated, by anyone.

use serde::{Deserialize, Serialize};

use crate::{
    error::ArchiveError,
    manifest::{Header, Reference, TableFile, json, parse, read_header},
    object::{LinesWriter, Object, Scratch},
    path,
    store::Archive,
};

/// An hour whose tables are in its day's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactedHour {
    pub manifest: Reference,
    pub events: Option<TableFile>,
    pub messages: Option<TableFile>,
}

/// What the manifest of a compaction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    pub header: Header,
    pub hours: Vec<CompactedHour>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    hours: u64,
}

impl Compaction {
    /// Whether the rows of an hour's file are in the day's.
    pub fn has(&self, file: &TableFile) -> bool {
        self.files().any(|compacted| compacted == file)
    }

    /// The hours' files, which are not needed any more.
    pub fn files(&self) -> impl Iterator<Item = &TableFile> {
        self.hours.iter().flat_map(|hour| hour.events.iter().chain(&hour.messages))
    }

    /// The manifest.
    pub fn write(&self, scratch: &Scratch) -> Result<Object, ArchiveError> {
        let mut lines = LinesWriter::new(scratch);
        lines.push(&json(&self.header)?)?;
        for hour in &self.hours {
            lines.push(&json(hour)?)?;
        }
        lines.push(&json(&Trailer { hours: self.hours.len() as u64 })?)?;
        lines.finish()
    }

    /// Reads the manifest of a compaction.
    pub fn read(object: Object, path: &str) -> Result<Self, ArchiveError> {
        let mut lines = object.lines(path)?;
        let header = read_header(&mut lines, path)?;
        let cut = "it does not end with its number of hours: it is cut";
        let (mut hours, mut last) = (Vec::new(), None);
        while let Some(line) = lines.next_line()? {
            if let Some(hour) = last.replace(line) {
                hours.push(parse(&lines, &hour)?);
            }
        }
        let last = last.ok_or_else(|| ArchiveError::content(path, cut))?;
        let trailer: Trailer = parse(&lines, &last)?;
        if trailer.hours == hours.len() as u64 {
            Ok(Self { header, hours })
        } else {
            Err(ArchiveError::content(path, cut))
        }
    }
}

/// The compaction of the day that an hour is in, if there is one.
pub async fn of_hour(archive: &Archive, hour: &Header) -> Result<Option<Compaction>, ArchiveError> {
    let length = hour.period_seconds;
    let Some(day) = length.hour_named(&hour.period).map(|hour| hour.day()) else {
        return Ok(None);
    };
    find(archive, &path::compaction_manifest(hour.log_id, hour.partition, length, day)).await
}

/// The compaction with that manifest, if there is one.
pub async fn find(archive: &Archive, path: &str) -> Result<Option<Compaction>, ArchiveError> {
    match archive.fetch(path).await {
        Ok(object) => Compaction::read(object, path).map(Some),
        Err(ArchiveError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
