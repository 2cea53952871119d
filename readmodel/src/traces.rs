//! What operators ask about one push or message, of any tenant (the projector's role).

use std::collections::HashMap;

use model::{BackupId, CommandId, MessageId, Place, ScopeKey, ScopeRef, Timestamp};
use uuid::Uuid;

use crate::{error::ReadModelError, key::id_key, pool::Pool};

/// Scopes looked at in one query.
const SCOPES_AT_ONCE: i64 = 10_000;

/// The scope of a command whose outcome is still kept.
pub async fn scope_of_command(
    pool: &Pool,
    id: CommandId,
) -> Result<Option<ScopeKey>, ReadModelError> {
    let key: Option<String> = sqlx::query_scalar(
        "select concat_ws('/', s.tenant_id, s.kind, s.name)
         from outcomes o join scopes s on s.scope = o.scope where o.command_id = $1",
    )
    .bind(id.0)
    .fetch_optional(pool)
    .await?;
    key.map(|key| scope(&key)).transpose()
}

/// The scope that has a message of this id, a past one too. Rows are found by scope and id, so each scope is asked.
pub async fn scope_of_message(
    pool: &Pool,
    id: MessageId,
) -> Result<Option<ScopeKey>, ReadModelError> {
    let mut after = Uuid::nil();
    loop {
        let scopes: Vec<(Uuid, String)> = sqlx::query_as(
            "select scope, concat_ws('/', tenant_id, kind, name) from scopes
             where scope > $1 order by scope limit $2",
        )
        .bind(after)
        .bind(SCOPES_AT_ONCE)
        .fetch_all(pool)
        .await?;
        let Some((last, _)) = scopes.last() else { return Ok(None) };
        after = *last;
        let keys: HashMap<Uuid, &String> =
            scopes.iter().map(|(of, key)| (id_key(ScopeRef(*of), &id), key)).collect();
        let found: Option<Uuid> = sqlx::query_scalar(
            "select w.id_key from (select unnest($1::uuid[])) as w (id_key)
             where exists (select from messages m where m.id_key = w.id_key)
                 or exists (select from message_history h where h.id_key = w.id_key)
             limit 1",
        )
        .bind(keys.keys().copied().collect::<Vec<_>>())
        .fetch_optional(pool)
        .await?;
        if let Some(key) = found.and_then(|found| keys.get(&found)) {
            return scope(key).map(Some);
        }
    }
}

/// How far the read model is with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    Waiting,
    Projected,
    Parked,
    Refused,
}

impl RecordState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Projected => "projected",
            Self::Parked => "parked",
            Self::Refused => "refused",
        }
    }
}

/// How far the read model is with these records, in the order asked.
pub async fn states(pool: &Pool, places: &[Place]) -> Result<Vec<RecordState>, ReadModelError> {
    let rows: Vec<(bool, Option<String>)> = sqlx::query_as(
        "select coalesce(p.next_offset > w.record_offset, false), d.kind
         from unnest($1::int[], $2::bigint[]) with ordinality as w (partition, record_offset, place)
             left join positions p on p.partition = w.partition
             left join dead_letters d on d.partition = w.partition and d.record_offset = w.record_offset
         order by w.place",
    )
    .bind(places.iter().map(|p| p.partition.get() as i32).collect::<Vec<_>>())
    .bind(places.iter().map(|p| p.offset.as_i64()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let state = |(past, dead): (bool, Option<String>)| match dead.as_deref() {
        Some("parked") => RecordState::Parked,
        Some(_) => RecordState::Refused,
        None if past => RecordState::Projected,
        None => RecordState::Waiting,
    };
    Ok(rows.into_iter().map(state).collect())
}

/// A completed backup of a scope that has not expired.
#[derive(Clone, Debug)]
pub struct BackupOfScope {
    pub id: BackupId,
    pub backup_type: String,
    pub created_at: Timestamp,
    pub path: String,
    pub cursor_first: u64,
    pub cursor_last: u64,
}

/// The completed backups of a scope, the oldest first.
pub async fn backups_of(
    pool: &Pool,
    scope: &ScopeKey,
) -> Result<Vec<BackupOfScope>, ReadModelError> {
    let rows: Vec<(Uuid, String, i64, String, i64, i64)> = sqlx::query_as(
        "select id, backup_type, (extract(epoch from created_at) * 1000000)::bigint, gcs_path, cursor_first,
             cursor_last
         from context_backups
         where scope = $1 and status = 'completed' and expired_at is null
         order by created_at, id",
    )
    .bind(scope.reference().0)
    .fetch_all(pool)
    .await?;
    let backup =
        |(id, backup_type, created, path, first, last): (Uuid, String, i64, String, i64, i64)| {
            BackupOfScope {
                id: BackupId(id),
                backup_type,
                created_at: Timestamp::from_micros(created),
                path,
                cursor_first: first.unsigned_abs(),
                cursor_last: last.unsigned_abs(),
            }
        };
    Ok(rows.into_iter().map(backup).collect())
}

fn scope(key: &str) -> Result<ScopeKey, ReadModelError> {
    key.parse().map_err(|_| ReadModelError::Damaged(format!("{key} is no scope")))
}
