//! Cursors: places in a scope's history of changes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in one scope's changes: the first change is 1, and there are no gaps. 0 is before all.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Cursor(u64);

/// The number is too large for a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes a whole number from 0 to 9223372036854775807")]
pub struct InvalidCursor;

impl Cursor {
    pub const ZERO: Self = Self(0);
    /// The greatest there can be: what Postgres has room for.
    pub const MAX: Self = Self(i64::MAX as u64);

    pub const fn new(cursor: u64) -> Result<Self, InvalidCursor> {
        if cursor <= i64::MAX as u64 { Ok(Self(cursor)) } else { Err(InvalidCursor) }
    }

    /// For numbers out of Postgres, whose constraints keep them from being negative.
    pub const fn from_i64(cursor: i64) -> Self {
        Self(if cursor < 0 { 0 } else { cursor as u64 })
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The cursor of the change after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl TryFrom<u64> for Cursor {
    type Error = InvalidCursor;

    fn try_from(cursor: u64) -> Result<Self, InvalidCursor> {
        Self::new(cursor)
    }
}

impl From<Cursor> for u64 {
    fn from(cursor: Cursor) -> Self {
        cursor.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
