//! `GET /api/v1/pushes/{push_id}?at=`: what became of a push that was answered with 202.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{path, problems};
use model::{CommandId, Place, PushAnswer, Refusal, Verdict};
use readmodel::outcomes::{Decided, decided_for};
use serde::Serialize;
use service::Problem;

use crate::{Api, query::Query};

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Push<'a> {
    /// The read model is not past the push's place on the log.
    Accepted {
        push_id: CommandId,
        at: String,
    },
    Completed(&'a PushAnswer),
}

pub(crate) async fn status(api: &Api, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    let push_id = CommandId(path::uuid(&mut parts, "push_id").await?);
    let at = place(Query::of(&parts.uri))?;
    let decided = decided_for(&api.pool, &caller.tenant, &caller.user, push_id, at)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    answer(push_id, at, &decided)
}

fn place(query: Query<'_>) -> Result<Option<Place>, Problem> {
    let Some(text) = query.one("at")? else { return Ok(None) };
    let invalid = |_| {
        Problem::invalid_request(
            "at takes a partition and an offset, such as 3-12345, as the 202 gave it",
        )
    };
    text.parse().map(Some).map_err(invalid)
}

fn answer(push_id: CommandId, at: Option<Place>, decided: &Decided) -> Result<Response, Problem> {
    let push = match (decided, at) {
        (Decided::NotYet, Some(at)) => Push::Accepted { push_id, at: at.to_string() },
        (Decided::Outcome(outcome), _) => match &outcome.verdict {
            Verdict::Pushed(answer) => Push::Completed(answer),
            Verdict::Refused(Refusal::PermissionDenied { purge }) => {
                return Err(problems::permission_denied(*purge));
            }
            // The id of another kind of command.
            _ => return Err(unknown()),
        },
        (Decided::NotYet | Decided::Nothing, _) => return Err(unknown()),
    };
    Ok(Json(push).into_response())
}

fn unknown() -> Problem {
    Problem::not_found("There is no such push of yours of the last day")
        .resolution("Check push_id and at; push again with the same Idempotency-Key")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Cursor, Outcome, RequestHash, Timestamp, UserId};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    async fn answered(at: Option<&str>, decided: Decided) -> (u16, Value) {
        let at = at.map(|at| at.parse().unwrap());
        let response = answer(CommandId(Uuid::nil()), at, &decided);
        let response = response.unwrap_or_else(IntoResponse::into_response);
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn outcome(verdict: Verdict) -> Decided {
        Decided::Outcome(Arc::new(Outcome {
            actor: UserId::new("ann").unwrap(),
            request_hash: RequestHash([0; 32]),
            folded_at: Timestamp::EPOCH,
            verdict,
        }))
    }

    #[tokio::test]
    async fn a_push_is_accepted_and_then_completed() {
        let accepted = json!({"status": "accepted", "push_id": Uuid::nil(), "at": "3-12345"});
        assert_eq!(answered(Some("3-12345"), Decided::NotYet).await, (200, accepted));
        let id = CommandId(Uuid::nil());
        let pushed = PushAnswer::new(id, Timestamp::EPOCH, Cursor::ZERO, Cursor::ZERO, Vec::new());
        let (status, completed) = answered(None, outcome(Verdict::Pushed(pushed.clone()))).await;
        let mut expected = serde_json::to_value(&pushed).unwrap();
        expected["status"] = "completed".into();
        assert_eq!((status, completed), (200, expected));
    }

    #[tokio::test]
    async fn what_is_no_push_of_the_caller_is_not_found() {
        for decided in [Decided::Nothing, outcome(Verdict::ScopeCreated)] {
            let (status, problem) = answered(Some("0-0"), decided).await;
            assert_eq!((status, &problem["code"]), (404, &"NOT_FOUND".into()));
        }
        let refused = Verdict::Refused(Refusal::PermissionDenied { purge: true });
        let (status, problem) = answered(None, outcome(refused)).await;
        assert_eq!((status, &problem["purge"]), (403, &true.into()));
    }

    #[test]
    fn a_place_is_partition_and_offset() {
        let of = |uri: &str| place(Query::of(&uri.parse().unwrap()));
        assert_eq!(of("/x?at=3-12345").unwrap().unwrap().to_string(), "3-12345");
        assert_eq!(of("/x").unwrap(), None);
        for bad in ["", "3", "3-", "-1-2", "a-1", "3-1-1", "99999-1", "0-9223372036854775808"] {
            let problem = of(&format!("/x?at={bad}")).unwrap_err();
            assert!(problem.detail().starts_with("at takes a partition"), "{bad}");
        }
    }
}
