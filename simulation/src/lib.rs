//! Fifty devices, their network and their servers in one thread, decided by a seed: whatever goes wrong on the way,
//! in the end all devices of a scope, the rows, the log's fold and the archive's fold are the same.
//!
//! What decides is the product's own: the device ([`device`]), the fold and its batches ([`projector::batch`]), repair,
//! the bytes of events, segments, backups and manifests ([`archive`], [`schemas`]). What only carries or stores is
//! played here: the network ([`line`]), the log ([`log`]), Postgres ([`rows`]), and who calls whom when ([`world`],
//! [`archiver`]).
//!
//! Read [`plan`] for what happens, [`run`] for how, [`checks`] for what must come of it, [`shrink`] for what is left
//! of a plan that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it only serves tests")]

pub mod archiver;
pub mod cast;
pub mod checks;
pub mod effects;
pub mod line;
pub mod log;
pub mod machine;
pub mod plan;
mod projecting;
pub mod random;
pub mod recovery;
pub mod restoring;
pub mod rows;
pub mod run;
pub mod shrink;
pub mod witness;
pub mod world;

/// What is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mistake built in on purpose, so that it is known that a simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The projector does not load which commands it has folded before.
    ForgetsCommands,
    /// What is taken for new is written, whether or not it is there.
    TakesAllForNew,
    /// After a crash the last batch is folded once more.
    FoldsTwice,
    /// Cursors of an earlier epoch are taken as good.
    IgnoresBase,
    /// A device is told that a recovery lost nothing.
    ReportsNoLoss,
    /// Pushes are answered before they are on the log for good.
    AnswersEarly,
    /// Incremental backups leave out what was deleted.
    ForgetsDeletes,
    /// Repairs compare with a scope that is not read yet.
    ComparesWithNothing,
    /// A chunk of a restore that is sent once more is taken wherever the restore stands.
    RestoresTwice,
    /// The executor of restores goes on one message too far.
    RestoresTooFar,
    /// A rebuild takes the log as the first one, whatever it was recovered from.
    RebuildsFromNothing,
    /// A rebuild stops before the last record of a partition, and says that it has folded it.
    RebuildsTooLittle,
    /// Tombstones go, and the scope's floor stays.
    ExpiresWithoutFloor,
    /// Messages that live go with the tombstones.
    ExpiresTheLiving,
    /// The floor rises, and the rows keep the tombstones.
    KeepsTombstones,
    /// The rows keep what was erased.
    KeepsErased,
    /// Backups do not say that the scope was erased, so that what came before is read with them.
    BacksUpErased,
    /// A restore that was asked for before anybody could know of an erasure brings back what was erased.
    RestoresErased,
    /// A removed member can pull.
    ServesRemoved,
}

impl Mistake {
    pub const ALL: [Self; 19] = [
        Self::ForgetsCommands,
        Self::TakesAllForNew,
        Self::FoldsTwice,
        Self::IgnoresBase,
        Self::ReportsNoLoss,
        Self::AnswersEarly,
        Self::ForgetsDeletes,
        Self::ComparesWithNothing,
        Self::RestoresTwice,
        Self::RestoresTooFar,
        Self::RebuildsFromNothing,
        Self::RebuildsTooLittle,
        Self::ExpiresWithoutFloor,
        Self::ExpiresTheLiving,
        Self::KeepsTombstones,
        Self::KeepsErased,
        Self::BacksUpErased,
        Self::RestoresErased,
        Self::ServesRemoved,
    ];
}
