//! `POST …/backups`: a backup on demand, of the scope as it stands where the request is on the log.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{backup::Backup, headers, path, problems};
use http::StatusCode;
use model::{
    Action, BackupId, BackupType, Command, CommandId, Refusal, RequestHash, ScopeKey, ScopeKind,
    Standing, Timestamp, Verdict,
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
/// How long the read model may take to show a request of this process.
const SHOWN_WITHIN_MICROS: i64 = 60 * 1_000_000;
/// Scopes that are remembered before those without a request of the last day are forgotten.
const REMEMBERED_SCOPES: usize = 10_000;

/// When this process asked for backups: requests that come at once all find the read model as it was before them.
#[derive(Default)]
pub(crate) struct Requested(Mutex<HashMap<ScopeKey, Vec<(Timestamp, CommandId)>>>);

/// Why a backup is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Running,
    Today(u64),
}

impl Requested {
    /// Takes the place of a request, but once for each id; `pending` and `shown`: those of the last day that the read model shows.
    fn take(
        &self,
        scope: &ScopeKey,
        id: CommandId,
        now: Timestamp,
        (pending, shown): (u64, u64),
        per_day_max: u64,
    ) -> Result<(), Exceeded> {
        let mut requested = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |(at, _): &(Timestamp, CommandId)| now.micros_since(*at) < DAY_MICROS;
        if requested.len() > REMEMBERED_SCOPES {
            requested.retain(|_, times| times.iter().any(is_recent));
        }
        let own = requested.entry(scope.clone()).or_default();
        own.retain(is_recent);
        if own.iter().any(|(_, other)| *other == id) {
            return Ok(()); // a retry, before the read model shows the first try
        }
        let is_shown = (own.len() as u64) <= shown
            || own.last().is_none_or(|(at, _)| now.micros_since(*at) >= SHOWN_WITHIN_MICROS);
        if pending > 0 || !is_shown {
            return Err(Exceeded::Running);
        }
        let today = shown.max(own.len() as u64);
        if per_day_max > 0 && today >= per_day_max {
            return Err(Exceeded::Today(today));
        }
        own.push((now, id));
        Ok(())
    }

    /// The request did not come to the log.
    fn give_back(&self, scope: &ScopeKey, id: CommandId) {
        let mut requested = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = requested.get_mut(scope) {
            own.retain(|(_, other)| *other != id);
        }
    }
}

pub(crate) async fn request(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = ingest.entrance.admit(&parts.headers).await?;
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
    let is_counted = match is_known().await? {
        true => false,
        false => match check_number(ingest, &scope, id).await {
            Ok(()) => true,
            Err(_) if is_known().await? => false,
            Err(limited) => return Err(limited),
        },
    };
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
    let decided = ingest.decide(&command, key.is_some(), wait).await;
    if decided.is_err() && is_counted {
        ingest.backups.give_back(&command.scope, id);
    }
    let (backup, at) = match decided? {
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
async fn check_number(ingest: &Ingest, scope: &ScopeKey, id: CommandId) -> Result<(), Problem> {
    let now = now();
    let shown = catalogue::on_demand(&ingest.pool, scope, now.plus_micros(-DAY_MICROS))
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    let max = u64::from(ingest.config.backups_on_demand_per_day_max);
    ingest.backups.take(scope, id, now, shown, max).map_err(|exceeded| match exceeded {
        Exceeded::Running => {
            let detail = "A backup of this scope is being made";
            problems::rate_limited("backups_running_max", 1, detail, RETRY_AFTER_SECONDS)
        }
        Exceeded::Today(today) => {
            let detail = format!("This scope had {today} backups on demand within a day");
            problems::rate_limited("backups_on_demand_per_day_max", max, detail, 3_600)
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * SECOND)
    }

    fn id(number: u128) -> CommandId {
        CommandId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn of_requests_that_come_at_once_one_is_taken() {
        let (requested, ann) = (Requested::default(), "acme/user/ann".parse().unwrap());
        assert_eq!(requested.take(&ann, id(1), at(0), (0, 0), 10), Ok(()));
        assert_eq!(requested.take(&ann, id(2), at(0), (0, 0), 10), Err(Exceeded::Running));
        assert_eq!(requested.take(&ann, id(3), at(1), (1, 1), 10), Err(Exceeded::Running));
        assert_eq!(requested.take(&ann, id(4), at(2), (0, 1), 10), Ok(()), "the first is made");
        let bob = "acme/user/bob".parse().unwrap();
        assert_eq!(requested.take(&bob, id(5), at(2), (0, 0), 10), Ok(()));
    }

    #[test]
    fn what_did_not_come_to_the_log_counts_no_more_and_what_is_not_shown_for_a_while_only() {
        let (requested, ann) = (Requested::default(), "acme/user/ann".parse().unwrap());
        assert_eq!(requested.take(&ann, id(6), at(0), (0, 0), 2), Ok(()));
        requested.give_back(&ann, id(6));
        assert_eq!(requested.take(&ann, id(7), at(1), (0, 0), 2), Ok(()));
        assert_eq!(requested.take(&ann, id(8), at(61), (0, 0), 2), Ok(()), "it was refused, say");
        assert_eq!(requested.take(&ann, id(9), at(130), (0, 0), 2), Err(Exceeded::Today(2)));
        assert_eq!(requested.take(&ann, id(10), at(130), (0, 0), 0), Ok(()), "0 turns it off");
        assert_eq!(requested.take(&ann, id(11), at(90_000), (0, 0), 2), Ok(()), "a day later");
    }
}
