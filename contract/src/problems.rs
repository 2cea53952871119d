//! The contract's errors: each code with its status, title and resolution.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use model::{Cursor, Epoch, InvalidCode, Standing};
use readmodel::ReadModelError;
use service::Problem;

use crate::measure;

/// Where a scope is, for a device whose cursor is not good.
#[derive(Clone, Copy, Debug)]
pub struct Whereabouts {
    pub head: Cursor,
    pub floor: Cursor,
    pub epoch: Epoch,
    /// What a recovery kept, where the request's epoch is another.
    pub base: Option<Cursor>,
}

/// SYNC_001, 409: the cursor says nothing in this scope; the problem says where the scope is.
pub fn invalid_cursor(detail: impl Into<String>, at: &Whereabouts) -> Problem {
    let problem = Problem::new(
        StatusCode::CONFLICT,
        "SYNC_001",
        "Invalid cursor position",
        detail,
        "Reconcile cursor",
    )
    .with("head", at.head.get())
    .with("floor", at.floor.get())
    .with("epoch", at.epoch.to_string());
    match at.base {
        Some(base) => problem.with("base", base.get()),
        None => problem,
    }
}

/// SYNC_002, 422.
pub fn hash_mismatch(detail: impl Into<String>) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "SYNC_002",
        "Content hash mismatch",
        detail,
        "Retry with correct hash",
    )
}

/// SYNC_003, 404: unknown, pending, failed, expired or another scope's.
pub fn backup_not_found(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "SYNC_003", "Backup not found", detail, "Check backup_id")
}

/// SYNC_004, 502: what the archive has is not what was written. Nothing was changed.
pub fn checksum_failed(detail: impl Into<String>) -> Problem {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "SYNC_004",
        "Checksum verification failed",
        detail,
        "Re-download backup",
    )
}

/// SYNC_006, 429: `limit` is the limit's name, `max` its value. Counted.
pub fn rate_limited(
    limit: &'static str,
    max: u64,
    detail: impl Into<String>,
    retry_after_seconds: u64,
) -> Problem {
    measure::refused(limit);
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "SYNC_006",
        "Rate limit exceeded",
        detail,
        "Retry with backoff",
    )
    .retry_after(retry_after_seconds)
    .with("limit", limit)
    .with("max", max)
}

/// SYNC_007, 507: `limit` is the quota's name, `max` its value, `used` what there is, `sent` what was to be added
/// to it, all in the unit that the name carries. Counted.
pub fn quota_exceeded(limit: &'static str, max: u64, used: u64, sent: u64) -> Problem {
    measure::refused(limit);
    no_room(format!("{limit} is {max}, used are {used}, sent were {sent}; deletes pass"))
        .with("limit", limit)
        .with("max", max)
        .with("used", used)
        .with("sent", sent)
}

fn no_room(detail: impl Into<String>) -> Problem {
    Problem::new(
        StatusCode::INSUFFICIENT_STORAGE,
        "SYNC_007",
        "Storage quota exceeded",
        detail,
        "Contact admin",
    )
}

/// 503: more is under way than this process takes at once, so that what it took is not hurt. Nothing was changed.
/// `limit` is the limit's name, `max` its value in the unit that the name carries, `why` what stands against it. Counted.
pub fn overloaded(limit: &'static str, max: u64, why: &str) -> Problem {
    measure::refused(limit);
    not_accepted(format!("{limit} is {max}, {why}")).with("limit", limit).with("max", max)
}

/// SYNC_005, 403: the same for a scope that does not exist and for one that the caller may not see.
/// `purge`: the caller was a member once, so their devices drop what they have of the scope.
pub fn permission_denied(purge: bool) -> Problem {
    let problem = Problem::new(
        StatusCode::FORBIDDEN,
        "SYNC_005",
        "Permission denied",
        "There is no such scope, or your role in it does not allow this",
        "Check role/membership",
    );
    if purge { problem.with("purge", true) } else { problem }
}

/// [`permission_denied`] for one of this standing.
pub fn denied_to(standing: Standing) -> Problem {
    permission_denied(standing == Standing::Stranger { former: true })
}

/// Refuses one of this standing, unless they are allowed.
///
/// # Errors
/// SYNC_005.
pub fn permit(standing: Standing, allowed: bool) -> Result<(), Problem> {
    if allowed { Ok(()) } else { Err(denied_to(standing)) }
}

/// IDEMPOTENCY_MISMATCH, 409.
pub fn idempotency_mismatch() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "IDEMPOTENCY_MISMATCH",
        "Idempotency mismatch",
        "Idempotency-Key was sent before with another request",
        "Send another request under a new Idempotency-Key",
    )
}

/// A message that is invalid, as the answer to a whole push.
pub fn invalid_message(code: InvalidCode, detail: impl Into<String>) -> Problem {
    match code {
        InvalidCode::InvalidRequest => Problem::invalid_request(detail),
        InvalidCode::HashMismatch => hash_mismatch(detail),
        InvalidCode::QuotaExceeded => no_room(detail),
        InvalidCode::PayloadTooLarge => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            "Payload too large",
            detail,
            "Send less at once",
        ),
    }
}

/// 503: certainly nothing was changed; the same request may succeed later.
pub fn not_accepted(detail: impl Into<String>) -> Problem {
    Problem::unavailable(detail).with("accepted", false)
}

/// 503: nobody can tell whether it was accepted; a retry with the same Idempotency-Key settles it.
pub fn acceptance_unknown(detail: impl Into<String>) -> Problem {
    Problem::unavailable(detail).with("accepted", "unknown")
}

/// A read model that could not be asked: 503 while it cannot be reached or is not there yet, else 500.
pub fn of_read_model(error: &ReadModelError) -> Problem {
    let unavailable = |detail: &str| not_accepted(detail).cause(error);
    match error {
        ReadModelError::Unavailable(_)
        | ReadModelError::NoLogin { .. }
        | ReadModelError::Forbidden(_) => unavailable("The database cannot be used at the moment"),
        // The projector makes it; an instance that starts before it is early, not broken.
        ReadModelError::NotMigrated => {
            unavailable("The database has no read model yet, or one that is still being filled")
        }
        ReadModelError::OtherLog { .. } => {
            unavailable("This process writes to another log than the one that the database is of")
        }
        _ => Problem::internal(error),
    }
}

/// The answer, or its problem.
pub fn answer(result: Result<Response, Problem>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    async fn json(problem: Problem) -> serde_json::Value {
        let body = axum::body::to_bytes(problem.into_response().into_body(), 10_000).await;
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn every_code_has_its_status_and_resolution() {
        let at = Whereabouts {
            head: Cursor::from_i64(7),
            floor: Cursor::from_i64(2),
            epoch: Epoch(Uuid::nil()),
            base: None,
        };
        let table = [
            (invalid_cursor("d", &at), 409, "SYNC_001", "Reconcile cursor"),
            (hash_mismatch("d"), 422, "SYNC_002", "Retry with correct hash"),
            (backup_not_found("d"), 404, "SYNC_003", "Check backup_id"),
            (checksum_failed("d"), 502, "SYNC_004", "Re-download backup"),
            (permission_denied(false), 403, "SYNC_005", "Check role/membership"),
            (rate_limited("l", 5, "d", 1), 429, "SYNC_006", "Retry with backoff"),
            (quota_exceeded("l", 5, 4, 2), 507, "SYNC_007", "Contact admin"),
        ];
        for (problem, status, code, resolution) in table {
            let value = json(problem).await;
            assert_eq!(
                (&value["status"], &value["code"], &value["resolution"]),
                (&status.into(), &code.into(), &resolution.into())
            );
            for member in ["type", "title", "detail", "request_id"] {
                assert!(value.get(member).is_some(), "{code} has no {member}");
            }
        }
    }

    #[tokio::test]
    async fn an_invalid_cursor_says_where_the_scope_is() {
        let at = Whereabouts {
            head: Cursor::from_i64(7),
            floor: Cursor::from_i64(2),
            epoch: Epoch(Uuid::nil()),
            base: Some(Cursor::ZERO),
        };
        let value = json(invalid_cursor("d", &at)).await;
        assert_eq!(
            (&value["head"], &value["floor"], &value["base"]),
            (&7.into(), &2.into(), &0.into())
        );
        assert_eq!(value["epoch"], Uuid::nil().to_string());
        let value = json(invalid_cursor("d", &Whereabouts { base: None, ..at })).await;
        assert!(value.get("base").is_none());
    }

    #[tokio::test]
    async fn only_a_former_member_is_told_to_purge() {
        assert_eq!(json(permission_denied(true)).await["purge"], true);
        assert!(json(permission_denied(false)).await.get("purge").is_none());
    }

    #[tokio::test]
    async fn a_limit_is_named_with_its_value_and_what_was_sent() {
        let value = json(quota_exceeded("scope_bytes_max", 10, 8, 3)).await;
        let detail = value["detail"].as_str().unwrap();
        assert!(detail.starts_with("scope_bytes_max is 10, used are 8, sent were 3"), "{detail}");
        assert_eq!(value["limit"], "scope_bytes_max");
        let numbers = ["max", "used", "sent"].map(|member| value[member].as_u64());
        assert_eq!(numbers, [Some(10), Some(8), Some(3)]);
        let value = json(overloaded("pushes_in_flight_max", 7, "d")).await;
        assert_eq!((&value["status"], &value["accepted"]), (&503.into(), &false.into()));
        assert_eq!((&value["limit"], &value["max"]), (&"pushes_in_flight_max".into(), &7.into()));
    }

    #[tokio::test]
    async fn unavailable_says_whether_it_was_accepted() {
        assert_eq!(json(not_accepted("d")).await["accepted"], false);
        assert_eq!(json(acceptance_unknown("d")).await["accepted"], "unknown");
        let response = not_accepted("d").into_response();
        assert!(response.headers().contains_key("retry-after"));
    }
}
