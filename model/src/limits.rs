//! What a push may be at most. Every limit has a name, and refusing says it.

/// The limits of a push and its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages in a push.
    pub push_messages_max: usize,
    /// Bytes of a push's body.
    pub push_bytes_max: usize,
    /// Bytes of a message's content, in UTF-8.
    pub content_bytes_max: usize,
    /// Bytes of a message's metadata, as RFC 8785 JSON.
    pub metadata_bytes_max: usize,
}

impl Limits {
    /// The wire contract's values.
    pub const CONTRACT: Self = Self {
        push_messages_max: 500,
        push_bytes_max: 4 << 20,
        content_bytes_max: 64 << 10,
        metadata_bytes_max: 16 << 10,
    };
}

/// Levels of objects and arrays in metadata, the metadata object being the first.
pub const METADATA_LEVELS_MAX: usize = 16;

/// The greatest whole number that an IEEE double and every whole number below it can hold: 2^53.
pub const METADATA_INTEGER_MAX: u64 = 1 << 53;

/// Bytes of an Idempotency-Key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// How far ahead of the log's time a message's `updated_at` may be: 5 minutes, in microseconds.
pub const UPDATED_AT_AHEAD_MAX_MICROS: i64 = 5 * 60 * 1_000_000;

/// How long a command id is known to the fold: 24 hours, in microseconds.
pub const COMMAND_KNOWN_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Tombstones that one event lets go of, at most: a projector deletes their rows in one statement.
pub const TOMBSTONES_EXPIRED_MAX: usize = 10_000;

/// How long the row of an outcome is kept: longer than it is known, so that deleting it never decides.
pub const OUTCOME_KEPT_MICROS: i64 = 26 * 3_600 * 1_000_000;
