//! Manifests: the commit points. FORMAT.md, "Manifests".

use model::{
    BackupId, BackupType, Cursor, Digest, Heading, LogId, Member, Offset, Partition, Role,
    RulesVersion, RunningRestore, ScopeKey, Timestamp, UserId,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::ArchiveError,
    object::{Lines, LinesWriter, Object, Scratch, Sha256Hex},
    period::HourLength,
};

/// The version of the format that this build writes, and the greatest that it reads.
pub const FORMAT: u32 = 1;

/// What a manifest commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Hour,
    Full,
    OnDemand,
    Compaction,
}

/// An object by what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub path: String,
    pub sha256: Sha256Hex,
}

/// Records that retention had removed before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub first_offset: Offset,
    pub next_offset: Offset,
}

/// A Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFile {
    pub path: String,
    pub sha256: Sha256Hex,
    pub size_bytes: u64,
    pub rows: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    pub kind: Kind,
    pub log_id: LogId,
    pub partition: Partition,
    pub partitions: u32,
    pub period: String,
    pub period_seconds: HourLength,
    pub first_offset: Offset,
    pub next_offset: Offset,
    pub clock: Timestamp,
    pub rules: RulesVersion,
    pub previous: Option<Reference>,
    pub gaps: Vec<Gap>,
    pub events: Option<TableFile>,
    pub messages: Option<TableFile>,
    /// Of what a recovered log begins with: the log that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_from: Option<LogId>,
    /// And what became of the commands that may still be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<TableFile>,
}

/// A backup's object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupObject {
    pub id: BackupId,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    pub path: String,
    pub sha256: Sha256Hex,
    pub content_sha256: Sha256Hex,
    pub size_bytes: u64,
    pub lines: u64,
    /// The live messages among the lines.
    pub record_count: u64,
    pub cursor_first: Cursor,
    pub cursor_last: Cursor,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLine {
    pub user: UserId,
    pub role: Option<Role>,
    pub since: Timestamp,
}

/// A scope as it stands after a manifest's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeLine {
    #[serde(with = "scope_text")]
    pub scope: ScopeKey,
    pub backup: Option<BackupObject>,
    pub head: Cursor,
    pub floor: Cursor,
    pub clock: Timestamp,
    pub count: u64,
    pub bytes: u64,
    pub digest: Digest,
    pub members: Vec<MemberLine>,
    /// The restore that was running.
    pub restore: Option<RunningRestore>,
    /// What had a cursor up to this one was erased, here or before; not written where nothing ever was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased: Cursor,
}

impl ScopeLine {
    /// `members` in the order of users.
    pub fn new(
        scope: ScopeKey,
        heading: &Heading,
        members: impl IntoIterator<Item = (UserId, Member)>,
        backup: Option<BackupObject>,
    ) -> Self {
        let line = |(user, member): (UserId, Member)| MemberLine {
            user,
            role: member.role,
            since: member.since,
        };
        Self {
            scope,
            backup,
            head: heading.head,
            floor: heading.floor,
            erased: heading.erased,
            clock: heading.clock,
            count: heading.count,
            bytes: heading.bytes,
            digest: heading.digest,
            members: members.into_iter().map(line).collect(),
            restore: heading.restore.clone(),
        }
    }

    /// What the scope sums up to: the inverse of [`Self::new`].
    pub fn heading(&self) -> Heading {
        let is_owner = |member: &&MemberLine| member.role == Some(Role::Owner);
        Heading {
            exists: true,
            head: self.head,
            floor: self.floor,
            erased: self.erased,
            clock: self.clock,
            count: self.count,
            bytes: self.bytes,
            digest: self.digest,
            owners: self.members.iter().filter(is_owner).count() as u32,
            restore: self.restore.clone(),
        }
    }
}

fn is_zero(cursor: &Cursor) -> bool {
    *cursor == Cursor::ZERO
}

/// A scope's key as text.
pub(crate) mod scope_text {
    use model::ScopeKey;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(key: &ScopeKey, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ScopeKey, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    scopes: u64,
}

/// Writes a manifest: the header first, scopes in the order of their references.
pub struct ManifestWriter {
    lines: LinesWriter,
}

impl ManifestWriter {
    pub fn new(scratch: &Scratch, header: &Header) -> Result<Self, ArchiveError> {
        let mut lines = LinesWriter::new(scratch);
        lines.push(&json(header)?)?;
        Ok(Self { lines })
    }

    pub fn push(&mut self, scope: &ScopeLine) -> Result<(), ArchiveError> {
        self.lines.push(&json(scope)?)
    }

    pub fn finish(mut self) -> Result<Object, ArchiveError> {
        let scopes = self.lines.lines - 1;
        self.lines.push(&json(&Trailer { scopes })?)?;
        self.lines.finish()
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, ArchiveError> {
    serde_json::to_vec(value)
        .map_err(|error| ArchiveError::Scratch(std::sync::Arc::new(error.into())))
}

/// Reads a manifest.
pub struct ManifestReader {
    pub header: Header,
    lines: Lines,
    /// A line is read ahead: the last one is the trailer.
    next: Option<Vec<u8>>,
    read: u64,
}

impl ManifestReader {
    pub fn new(object: Object, path: &str) -> Result<Self, ArchiveError> {
        let mut lines = object.lines(path)?;
        let header = read_header(&mut lines, path)?;
        let next = lines.next_line()?;
        Ok(Self { header, lines, next, read: 0 })
    }

    /// The next scope; `None` at the end, once the trailer was found and is right.
    pub fn next_scope(&mut self) -> Result<Option<ScopeLine>, ArchiveError> {
        let Some(line) = self.next.take() else {
            return Err(self
                .lines
                .problem("is the last, but not the trailer: the manifest is cut"));
        };
        self.next = self.lines.next_line()?;
        if self.next.is_some() {
            self.read += 1;
            return parse(&self.lines, &line).map(Some);
        }
        let trailer: Trailer = parse(&self.lines, &line)?;
        if trailer.scopes == self.read {
            Ok(None)
        } else {
            let problem = format!("says {} scopes, there are {}", trailer.scopes, self.read);
            Err(self.lines.problem(&problem))
        }
    }
}

/// The first line of a manifest.
pub(crate) fn read_header(lines: &mut Lines, path: &str) -> Result<Header, ArchiveError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Some(first) = lines.next_line()? else {
        return Err(ArchiveError::content(path, "it is empty"));
    };
    let format: Format = parse(lines, &first)?;
    if format.format > FORMAT {
        let problem = format!("it is of format {}, this build reads up to {FORMAT}", format.format);
        return Err(ArchiveError::content(path, problem));
    }
    parse(lines, &first)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    lines: &Lines,
    line: &[u8],
) -> Result<T, ArchiveError> {
    serde_json::from_slice(line)
        .map_err(|error| lines.problem(&format!("is not as the format has it: {error}")))
}
