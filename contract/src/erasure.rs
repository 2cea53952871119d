//! An erasure, as the wire contract shows it.

use model::{CommandId, Cursor, ErasedFrom, Timestamp};
use readmodel::erasures::ErasureRow;
use serde::Serialize;

/// How far all that a user's scope held is gone, copy by copy.
#[derive(Debug, Serialize)]
pub struct Erasure<'a> {
    erasure_id: CommandId,
    user_id: &'a str,
    /// `running` until nothing of it is left but in the log.
    status: &'static str,
    cursor: Cursor,
    erased_at: Timestamp,
    read_model: Part,
    backups: Part,
    tables: Part,
    log: InLog<'a>,
}

#[derive(Debug, Serialize)]
struct Part {
    status: &'static str,
    at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct InLog<'a> {
    #[serde(flatten)]
    part: Part,
    /// The log's retention must have removed what stands before this place.
    before: &'a str,
}

impl Part {
    const fn new(at: Option<Timestamp>) -> Self {
        Self { status: if at.is_some() { "erased" } else { "pending" }, at }
    }
}

impl<'a> Erasure<'a> {
    pub fn new(user: &'a str, row: &'a ErasureRow) -> Self {
        let [backups, tables, log] = ErasedFrom::ALL.map(|from| row.done_at(from));
        let is_done = backups.is_some() && tables.is_some();
        Self {
            erasure_id: row.id,
            user_id: user,
            status: if is_done { "completed" } else { "running" },
            cursor: row.cursor,
            erased_at: row.at,
            read_model: Part::new(Some(row.at)),
            backups: Part::new(backups),
            tables: Part::new(tables),
            log: InLog { part: Part::new(log), before: &row.place },
        }
    }
}
