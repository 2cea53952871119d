//! `POST …/backups`: a backup on demand, of the scope as it stands where the request is on the log.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{Caller, backup::Backup, headers, path, problems};
use http::StatusCode;
use model::{
    Action, BackupId, BackupType, Command, Refusal, RequestHash, ScopeKey, ScopeKind, Standing,
    Timestamp, Verdict,
};
use readmodel::catalogue::{self, BackupRow, BackupStatus};
use service::{Problem, http::read_body};

use crate::{
    Ingest,
    decide::{Decision, now, today},
};

/// Bytes of a body, at most: there is nothing to say.
const BACKUP_BYTES_MAX: u64 = 4096;
const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// How soon to ask again while one is being made.
const RETRY_AFTER_SECONDS: u64 = 10;

pub(crate) async fn request(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = Caller::of(&parts.headers, &ingest.verifier).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let body =
        read_body(body, "backup_bytes_max", BACKUP_BYTES_MAX, ingest.config.body_timeout).await?;
    check_body(&body)?;
    let key = headers::idempotency_key(&parts.headers)?;
    let device = headers::device_if_any(&parts.headers)?;
    ingest.gate.pass(caller.access(&scope), Standing::may_back_up).await?;
    let id = Ingest::command_id(&scope, "backup-requested", &caller.user, key);
    let backup = BackupId(today(id));
    let request_hash = RequestHash::of(&[b"backup-requested\n", &body]);
    let is_known = async || match key {
        Some(_) => ingest.known_outcome(id, request_hash, &scope).await.map(|o| o.is_some()),
        None => Ok(false),
    };
    // A retry asks for no more than there was; the first try may have been folded while this one was counted.
    if !is_known().await?
        && let Err(limited) = check_number(ingest, &scope).await
        && !is_known().await?
    {
        return Err(limited);
    }
    let command = Command {
        id,
        request_hash,
        actor: caller.user.clone(),
        org_role: caller.org_role,
        device,
        action: Action::BackupRequested { backup },
        scope,
    };
    let wait = ingest.wait(&parts.headers);
    let (backup, at) = match ingest.decide(&command, key.is_some(), wait).await? {
        Decision::Accepted(_) => (backup, now()),
        Decision::Outcome(outcome) => match &outcome.verdict {
            Verdict::BackupRequested { backup } => (*backup, outcome.folded_at),
            Verdict::Refused(Refusal::PermissionDenied { purge }) => {
                return Err(problems::permission_denied(*purge));
            }
            other => return Err(Problem::internal(format!("a backup became {other:?}"))),
        },
    };
    Ok((StatusCode::ACCEPTED, Json(pending(&command.scope, backup, at))).into_response())
}

/// None, or an object, in which nothing is asked for yet.
fn check_body(body: &[u8]) -> Result<(), Problem> {
    let is_object = || serde_json::from_slice::<serde_json::Map<_, _>>(body).is_ok();
    if body.is_empty() || is_object() {
        Ok(())
    } else {
        Err(Problem::invalid_request("The body takes nothing, or a JSON object"))
    }
}

/// One at a time, and not too many a day: each is kept for ever.
async fn check_number(ingest: &Ingest, scope: &ScopeKey) -> Result<(), Problem> {
    let since = now().plus_micros(-DAY_MICROS);
    let (pending, today) = catalogue::on_demand(&ingest.pool, scope, since)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    let max = u64::from(ingest.config.backups_on_demand_per_day_max);
    if pending > 0 {
        let detail = "A backup of this scope is being made";
        return Err(problems::rate_limited(detail, RETRY_AFTER_SECONDS)
            .with("limit", "backups_running_max")
            .with("max", 1));
    }
    if max > 0 && today >= max {
        let detail = format!("This scope had {today} backups on demand within a day");
        return Err(problems::rate_limited(detail, 3_600)
            .with("limit", "backups_on_demand_per_day_max")
            .with("max", max));
    }
    Ok(())
}

fn pending(scope: &ScopeKey, id: BackupId, at: Timestamp) -> serde_json::Value {
    let row = BackupRow {
        id,
        backup_type: BackupType::OnDemand,
        status: BackupStatus::Pending,
        created_at: at,
        expires_at: None,
        verified_at: None,
        object: None,
    };
    // Of strings and nulls: it cannot fail.
    serde_json::to_value(Backup::new(scope, &row)).unwrap_or_default()
}
