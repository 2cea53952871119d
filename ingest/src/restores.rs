//! `POST …/restore`: a backup comes back, as events. The archiver executes it; here it is asked for, and waited for.

use std::{sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveError,
    history::{self, FoundBackup},
    restoration::{Kept, Puts},
};
use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{Caller, headers, path, problems, restore::Restore};
use eventlog::partition_of;
use http::StatusCode;
use model::{
    Action, Command, Outcome, Refusal, Rehearsal, RequestHash, RestoreCounts, RestoreFailure,
    RestoreId, RestoreMode, ScopeKey, ScopeKind, Standing, Verdict,
};
use readmodel::{
    Pool,
    access::AccessQuery,
    restores::{self, Restorable, RestoreRow, RestoreState, RestoredBackup},
};
use serde::Serialize;
use service::{Problem, http::read_body};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    Ingest,
    decide::{Decision, today},
    gate::Added,
    restore_body::{RestoreBody, Which},
};

/// Bytes of a body, at most.
const RESTORE_BYTES_MAX: u64 = 4096;
/// Dry runs at once: each has what the fold remembers of a whole scope in memory.
pub(crate) const DRY_RUNS_MAX: usize = 2;
const DRY_RUN_AGAIN_SECONDS: u64 = 5;
/// A content of one byte, and `{}` for metadata.
const MESSAGE_BYTES_MIN: u64 = 3;
/// How often the read model is asked how far a restore is: seldom at first, in case it is a long one.
const ASK_AFTER: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
];

/// 202: it runs, and goes on by itself.
#[derive(Serialize)]
struct Running {
    restore_id: RestoreId,
    status: &'static str,
}

pub(crate) async fn request(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = ingest.entrance.admit(&parts.headers).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let timeout = ingest.config.body_timeout;
    let bytes = read_body(body, "restore_bytes_max", RESTORE_BYTES_MAX, timeout).await?;
    let body = RestoreBody::parse(&bytes, &caller)?;
    let key = headers::idempotency_key(&parts.headers)?;
    let device = headers::device_if_any(&parts.headers)?;
    let source = body.source.unwrap_or_else(|| scope.clone());
    ingest.gate.pass(caller.access(&scope), Standing::may_restore).await?;
    // Whose backup it is, no scope's log can decide: nothing remembered counts.
    let standing = ingest.gate.standing(caller.access(&source)).await?;
    problems::permit(standing, standing.may_restore())?;
    let id = Ingest::command_id(&scope, "restore-requested", &caller.user, key);
    let request_hash = RequestHash::of(&[b"restore-requested\n", &bytes]);
    let wait = restore_wait(ingest, &parts.headers);
    if key.is_some()
        && let Some(outcome) = ingest.known_outcome(id, request_hash, &scope).await?
    {
        let restore = begun(&outcome)?;
        return answer(&ingest.pool, &scope, restore, wait).await;
    }
    let restore = RestoreId(today(id));
    let Restorable { backup, messages_max } = find(ingest, &source, body.which).await?;
    if body.dry_run {
        let counts = rehearse(ingest, &scope, &source, body.mode, &backup, &caller).await?;
        return Ok(Json(Restore::dry_run(body.mode, counts, &backup)).into_response());
    }
    // The fold decides; but who does not wait for it shall not be told that a refused one is running.
    // A retry's own restore may have begun just now.
    let running_now = restores::running(&ingest.pool, &scope).await;
    let running_now = running_now.map_err(|error| problems::of_read_model(&error))?;
    if let Some(other) = running_now.filter(|other| *other != restore) {
        return Err(another_runs(other));
    }
    if source != scope {
        check_room(ingest, caller.access(&scope), messages_max).await?;
    }
    let source = Box::new(source);
    let command = Command {
        id,
        request_hash,
        actor: caller.user,
        org_role: caller.org_role,
        device,
        action: Action::RestoreRequested { restore, mode: body.mode, backup: backup.id, source },
        scope,
    };
    let restore = match ingest.decide(&command, key.is_some(), ingest.wait(&parts.headers)).await? {
        Decision::Outcome(outcome) => begun(&outcome)?,
        Decision::Accepted(_) => return Ok(running(restore)),
    };
    answer(&ingest.pool, &command.scope, restore, wait).await
}

fn restore_wait(ingest: &Ingest, headers: &http::HeaderMap) -> Duration {
    if headers::prefers_async(headers) { Duration::ZERO } else { ingest.config.restore_wait() }
}

/// A scope's own backup brings back what was there, and passes. Another's is a copy, as a push would be: of as
/// many messages as it may have, and of how many bytes its reading tells: a few for each here, so that no copy is refused
/// for bytes that it lacks.
async fn check_room(ingest: &Ingest, access: AccessQuery, messages: u64) -> Result<(), Problem> {
    let added = Added { messages, bytes: messages.saturating_mul(MESSAGE_BYTES_MIN) };
    ingest.gate.room(access, added, None).await
}

async fn find(ingest: &Ingest, source: &ScopeKey, which: Which) -> Result<Restorable, Problem> {
    let found = match which {
        Which::Backup(id) => restores::restorable(&ingest.pool, source, id).await,
        Which::AsOf(moment) => restores::restorable_as_of(&ingest.pool, source, moment).await,
    };
    found.map_err(|error| problems::of_read_model(&error))?.ok_or_else(|| {
        problems::backup_not_found(match which {
            Which::Backup(_) => "The scope has no such backup that is completed and not expired",
            Which::AsOf(_) => "The scope has no backup of that time that is not expired",
        })
    })
}

/// Which restore the fold has let begin.
fn begun(outcome: &Arc<Outcome>) -> Result<RestoreId, Problem> {
    match &outcome.verdict {
        Verdict::RestoreRequested { restore } => Ok(*restore),
        Verdict::Refused(Refusal::PermissionDenied { purge }) => {
            Err(problems::permission_denied(*purge))
        }
        Verdict::Refused(Refusal::RestoreRunning { restore }) => Err(another_runs(*restore)),
        other => Err(Problem::internal(format!("a restore became {other:?}"))),
    }
}

fn another_runs(restore: RestoreId) -> Problem {
    Problem::conflict("Another restore of this scope is running")
        .resolution("Wait until it has ended, then ask again with another Idempotency-Key")
        .with("restore_id", restore.to_string())
}

/// Waits for the end of a restore that has begun. That the read model cannot say how far it is does not stop it: it
/// runs, then.
async fn answer(
    pool: &Pool,
    scope: &ScopeKey,
    id: RestoreId,
    wait: Duration,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + wait;
    let mut pauses = ASK_AFTER.into_iter().chain(std::iter::repeat(ASK_AFTER[3]));
    loop {
        match restores::get(pool, scope, id).await {
            Ok(Some(row)) if row.state != RestoreState::Running => return ended(&row),
            Ok(_) | Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Ok(running(id));
        }
        let pause = pauses.next().unwrap_or(ASK_AFTER[3]);
        tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
    }
}

fn running(restore_id: RestoreId) -> Response {
    (StatusCode::ACCEPTED, Json(Running { restore_id, status: "running" })).into_response()
}

fn ended(row: &RestoreRow) -> Result<Response, Problem> {
    match &row.state {
        RestoreState::Failed { code, detail } => {
            let problem = match code {
                RestoreFailure::ChecksumFailed => problems::checksum_failed(detail.clone()),
                RestoreFailure::BackupNotFound => problems::backup_not_found(detail.clone()),
            };
            Err(problem.with("restore_id", row.id.to_string()))
        }
        RestoreState::Running | RestoreState::Completed => {
            Ok(Json(Restore::new(row)).into_response())
        }
    }
}

/// What it would come to: the backup, read and checked, against what the fold remembers of the scope now.
async fn rehearse(
    ingest: &Ingest,
    scope: &ScopeKey,
    source: &ScopeKey,
    mode: RestoreMode,
    backup: &RestoredBackup,
    caller: &Caller,
) -> Result<RestoreCounts, Problem> {
    let archive = ingest.archive.as_ref().ok_or_else(|| {
        problems::not_accepted("This instance has no archive: --archive is not set")
    })?;
    let permit = ingest.dry_runs.clone().try_acquire_owned().map_err(|_| {
        let (limit, max) = ("dry_runs_running_max", DRY_RUNS_MAX as u64);
        problems::rate_limited(
            limit,
            max,
            "Other dry runs are being reckoned",
            DRY_RUN_AGAIN_SECONDS,
        )
    })?;
    let partition = partition_of(source.to_string().as_bytes(), ingest.log.partitions());
    let found = history::find(archive, ingest.log.log_id(), partition, source, backup.id)
        .await
        .map_err(of_archive)?
        .ok_or_else(|| problems::backup_not_found("No manifest lists the backup"))?;
    let entries = restores::entries(&ingest.pool, scope)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    let rehearsal = Rehearsal::new(entries, mode, &caller.user);
    rehearsed(archive, &found, rehearsal, mode, permit).await.map_err(of_archive)
}

async fn rehearsed(
    archive: &Archive,
    found: &FoundBackup,
    mut rehearsal: Rehearsal,
    mode: RestoreMode,
    permit: OwnedSemaphorePermit,
) -> Result<RestoreCounts, ArchiveError> {
    let to_keep = found.open(archive).await?;
    let to_put = found.open(archive).await?;
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit; // it goes on where nobody waits for it any more
        // Read to its end in either mode: nothing is reckoned from a damaged one.
        let kept = Kept::of(to_keep)?;
        if mode == RestoreMode::Replace {
            rehearsal.delete_all_but(|id, version| kept.has(id, version));
        }
        let mut puts = Puts::after(to_put, 0);
        loop {
            let next = puts.next_puts()?;
            if next.is_empty() {
                return Ok(rehearsal.counts());
            }
            rehearsal.put(next);
        }
    });
    reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

fn of_archive(error: ArchiveError) -> Problem {
    match error {
        ArchiveError::Damaged { .. } => problems::checksum_failed(error.to_string()),
        ArchiveError::NotFound { .. } => {
            problems::backup_not_found("The backup's object is not in the archive").cause(error)
        }
        error => problems::not_accepted("The archive cannot be used at the moment").cause(error),
    }
}

#[cfg(test)]
mod tests {
    use model::{BackupId, Timestamp, UserId};
    use uuid::Uuid;

    use super::*;

    fn row(state: RestoreState) -> RestoreRow {
        RestoreRow {
            id: RestoreId(Uuid::nil()),
            mode: RestoreMode::Merge,
            counts: RestoreCounts { restored: 5000, skipped: 50, deleted: 0 },
            state,
            backup: RestoredBackup {
                id: BackupId(Uuid::nil()),
                created_at: Some(Timestamp::EPOCH),
                record_count: Some(5050),
            },
        }
    }

    #[test]
    fn a_restore_that_failed_has_the_code_of_why() {
        for (code, status) in
            [(RestoreFailure::BackupNotFound, 404), (RestoreFailure::ChecksumFailed, 502)]
        {
            let detail = "it is damaged".to_owned();
            let failed = row(RestoreState::Failed { code, detail });
            let problem = ended(&failed).unwrap_err();
            assert_eq!((problem.code(), problem.status().as_u16()), (code.as_str(), status));
            assert_eq!(problem.detail(), "it is damaged");
        }
        assert!(ended(&row(RestoreState::Completed)).is_ok());
    }

    #[tokio::test]
    async fn a_restore_that_began_runs_though_nobody_can_look_at_it() {
        let nowhere = readmodel::DatabaseConfig {
            database_url: Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
            database_connections: 1,
            database_acquire_timeout_ms: 20,
            database_statement_timeout_ms: 1_000,
        };
        let pool = readmodel::pool(&nowhere, readmodel::DatabaseRole::Ingest).unwrap();
        let (scope, id) = ("acme/user/ann".parse().unwrap(), RestoreId(Uuid::nil()));
        for wait in [0, 50] {
            let answer = answer(&pool, &scope, id, Duration::from_millis(wait)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            let body = axum::body::to_bytes(answer.into_body(), 1_000).await.unwrap();
            let running = serde_json::json!({"restore_id": id, "status": "running"});
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), running);
        }
    }

    #[test]
    fn a_second_restore_while_one_runs_is_a_conflict() {
        let outcome = |verdict| {
            Arc::new(Outcome {
                actor: UserId::new("ann").unwrap(),
                request_hash: RequestHash([0; 32]),
                folded_at: Timestamp::EPOCH,
                verdict,
            })
        };
        let restore = RestoreId(Uuid::nil());
        assert_eq!(begun(&outcome(Verdict::RestoreRequested { restore })).unwrap(), restore);
        let refused = Verdict::Refused(Refusal::RestoreRunning { restore });
        assert_eq!(begun(&outcome(refused)).unwrap_err().code(), "CONFLICT");
        let refused = Verdict::Refused(Refusal::PermissionDenied { purge: false });
        assert_eq!(begun(&outcome(refused)).unwrap_err().code(), "SYNC_005");
    }
}
