//! Where a record stands: a partition of the message log and an offset in it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of one message log: a random id made together with its topic.
/// Positions and archived ranges carry it, so that another log is never mistaken for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of the log, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(u32);

impl Partition {
    /// The number of partitions a log may have at most.
    pub const COUNT_MAX: u32 = 10_000;

    pub const fn new(partition: u32) -> Self {
        Self(partition)
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The offset of a record in its partition, counted from 0. Offsets rise, but may skip values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(u64);

impl Offset {
    pub const ZERO: Self = Self(0);
    /// The greatest offset: both logs and Postgres keep offsets as signed 64-bit integers.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// `None` above [`Offset::MAX`].
    pub const fn new(offset: u64) -> Option<Self> {
        if offset <= Self::MAX.0 { Some(Self(offset)) } else { None }
    }

    /// `None` for a negative number (Kafka's and Postgres' integers are signed).
    pub const fn from_i64(offset: i64) -> Option<Self> {
        if offset >= 0 { Some(Self(offset as u64)) } else { None }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The offset that a reader which has seen this one goes on from.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(if self.0 < Self::MAX.0 { self.0 + 1 } else { Self::MAX.0 })
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one record, written `partition-offset` (`3-12345`), as in a push's `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub partition: Partition,
    pub offset: Offset,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

/// The text is no `partition-offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected partition and offset, such as 3-12345")]
pub struct InvalidPlace;

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if plain { part.parse::<u64>().ok() } else { None }
        };
        let (partition, offset) = text.split_once('-').ok_or(InvalidPlace)?;
        let partition = digits(partition)
            .and_then(|p| u32::try_from(p).ok())
            .filter(|p| *p < Partition::COUNT_MAX)
            .ok_or(InvalidPlace)?;
        let offset = digits(offset).and_then(Offset::new).ok_or(InvalidPlace)?;
        Ok(Self { partition: Partition(partition), offset })
    }
}
