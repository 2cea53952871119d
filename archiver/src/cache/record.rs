//! What the cache's rows hold, and how.

use model::{
    BodyHash, ContentHash, Cursor, Digest, Entry, Heading, Member, RestoreId, Role, RunningRestore,
    ScopeKey, Timestamp, UserId, Version,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CacheError, Result};

/// Eight bytes each: cursor, times, size, when it was deleted (-1: live); then two hashes; then the restore that
/// deleted it, if one did.
const ENTRY_BYTES: usize = 5 * 8 + 2 * 32 + 16;

pub(super) fn entry(entry: &Entry) -> Vec<u8> {
    let deleted_at = entry.deleted_at.map_or(-1, Timestamp::as_micros);
    let mut bytes = Vec::with_capacity(ENTRY_BYTES);
    for number in [
        entry.cursor.as_i64(),
        entry.version.updated_at.as_micros(),
        entry.created_at.as_micros(),
        entry.bytes as i64,
        deleted_at,
    ] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(&entry.content_hash.0);
    bytes.extend_from_slice(&entry.version.body.0);
    if let Some(restore) = entry.restore {
        bytes.extend_from_slice(restore.0.as_bytes());
    }
    bytes
}

pub(super) fn parse_entry(bytes: &[u8]) -> Result<Entry> {
    let damaged = || CacheError::Damaged(format!("an entry has {} bytes", bytes.len()));
    let (numbers, hashes) = bytes.split_at_checked(5 * 8).ok_or_else(damaged)?;
    let (content, body) = hashes.split_first_chunk::<32>().ok_or_else(damaged)?;
    let (body, restore) = body.split_first_chunk::<32>().ok_or_else(damaged)?;
    let restore = match restore {
        [] => None,
        restore => Some(RestoreId(Uuid::from_slice(restore).map_err(|_| damaged())?)),
    };
    let number = |place: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&numbers[8 * place..8 * place + 8]);
        i64::from_be_bytes(bytes)
    };
    let time = |place| Timestamp::from_micros(number(place));
    Ok(Entry {
        cursor: Cursor::from_i64(number(0)),
        version: Version { updated_at: time(1), body: BodyHash(*body) },
        created_at: time(2),
        bytes: number(3).unsigned_abs(),
        deleted_at: (number(4) >= 0).then(|| time(4)),
        content_hash: ContentHash(*content),
        restore,
    })
}

/// A scope's heading.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredScope {
    key: String,
    head: Cursor,
    floor: Cursor,
    erased: Cursor,
    clock: i64,
    count: u64,
    bytes: u64,
    digest: Digest,
    owners: u32,
    restore: Option<RunningRestore>,
}

impl StoredScope {
    pub(super) fn of(key: &ScopeKey, heading: &Heading) -> Self {
        Self {
            key: key.to_string(),
            head: heading.head,
            floor: heading.floor,
            erased: heading.erased,
            clock: heading.clock.as_micros(),
            count: heading.count,
            bytes: heading.bytes,
            digest: heading.digest,
            owners: heading.owners,
            restore: heading.restore.clone(),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }

    pub(super) fn json(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    pub(super) fn key(&self) -> Result<ScopeKey> {
        self.key.parse().map_err(|_| CacheError::Damaged(format!("{} is no scope", self.key)))
    }

    pub(super) fn heading(&self) -> Heading {
        Heading {
            exists: true,
            head: self.head,
            floor: self.floor,
            erased: self.erased,
            clock: Timestamp::from_micros(self.clock),
            count: self.count,
            bytes: self.bytes,
            digest: self.digest,
            owners: self.owners,
            restore: self.restore.clone(),
        }
    }
}

/// A member of a scope, or a former one.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredMember {
    user: String,
    role: Option<Role>,
    since: i64,
}

impl StoredMember {
    pub(super) fn of(user: &UserId, member: &Member) -> Self {
        Self { user: user.to_string(), role: member.role, since: member.since.as_micros() }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }

    pub(super) fn json(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    pub(super) fn user(&self) -> Result<UserId> {
        UserId::new(&self.user)
            .map_err(|_| CacheError::Damaged(format!("{:?} is no user", self.user)))
    }

    pub(super) fn member(&self) -> Member {
        Member { role: self.role, since: Timestamp::from_micros(self.since) }
    }
}
