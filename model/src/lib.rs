//! The rules of Context Sync, and nothing else: no I/O, no clock, no randomness.
//!
//! Read in this order: [`scope`] and [`ids`] (whose messages), [`message`] and [`draft`] (what a
//! message is), [`event`] (what stands on the log), [`fold`] (what it comes to), [`outcome`] (what is
//! answered), [`log_fold`] (a whole log folded in memory: the oracle of every test).
//!
//! > `rows(projector(log)) == fold(log)`

pub mod backup;
pub mod cursor;
pub mod draft;
pub mod erasure;
pub mod event;
pub mod fold;
pub mod hash;
pub mod history;
pub mod ids;
pub mod limits;
pub mod log_fold;
pub mod message;
pub mod outcome;
pub mod place;
pub mod reconcile;
pub mod restore;
pub mod role;
pub mod scope;
pub mod time;
mod tombstones;

pub use backup::{
    AboutBackup, BackupRecord, BackupType, DrillFailure, DrillRecord, ErasedFrom, ErasureDone, Fact,
};
pub use cursor::{Cursor, InvalidCursor};
pub use event::{
    Action, Change, Command, Event, PushedChange, Rejected, RulesVersion, Unappliable, Write,
};
pub use fold::{Applied, Changed, Heading, KnownCommand, Later, Member, Scope, Touched};
pub use hash::{BodyHash, ContentHash, Digest, Item, RequestHash, Version};
pub use history::{Past, PastResult};
pub use ids::{
    BackupId, CommandId, DeviceId, DrillId, Epoch, InvalidName, MessageId, NAMESPACE, RestoreId,
    ScopeName, TenantId, UserId,
};
pub use limits::Limits;
pub use log_fold::{FoldRevision, LogFold, PartitionClock, UnknownRules};
pub use message::{Body, Entry, InvalidCode, Message, MessageType, Metadata};
pub use outcome::{Outcome, PushAnswer, PushResult, Refusal, Status, Verdict};
pub use place::{InvalidPlace, LogId, Offset, Partition, Place};
pub use restore::{
    Put, Rehearsal, RestoreChunk, RestoreCounts, RestoreFailure, RestoreMode, RestorePlace,
    RestoreRecord, RestoreStatus, RunningRestore,
};
pub use role::{OrgRole, Role, Standing};
pub use scope::{InvalidScopeKey, ScopeKey, ScopeKind, ScopeRef};
pub use time::Timestamp;
