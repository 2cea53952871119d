//! `POST {scope}/reconcile`: whether a device has drifted, and what mends it.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{headers, path, problems};
use model::{
    Cursor, Digest, Epoch, ScopeKind,
    reconcile::{Claim, Drift, Reconciled, Remedy, ScopeSums, reconcile},
};
use readmodel::pull::{Page, Summary};
use serde::Serialize;
use serde_json::{Map, Value};
use service::{Problem, http::read_body};

use crate::{
    Api,
    asking::{asker, kept, permit_asking, permit_pull},
    idle::WentBack,
};

const RECONCILE_BYTES_MAX: u64 = 64 << 10;

/// What a device says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    claim: Claim,
    epoch: Option<Epoch>,
}

#[derive(Serialize)]
struct Answer {
    status: Drift,
    action: Remedy,
    cursor: Cursor,
    head: Cursor,
    floor: Cursor,
    count: u64,
    digest: Digest,
    epoch: Epoch,
    /// Only where the request's epoch is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<Cursor>,
}

pub(crate) async fn answer(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    headers::device_if_any(&parts.headers)?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let timeout = api.config.body_timeout;
    let body = read_body(body, "reconcile_bytes_max", RECONCILE_BYTES_MAX, timeout).await?;
    let asked = Asked::parse(&body)?;
    permit_asking(&scope)?;
    let asking = api.idle.asking(&scope);
    let glance = readmodel::pull::summary(&api.pool, &asker(&caller, &scope))
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    api.idle.saw(asking, &caller.user, &Page::empty(glance)).map_err(WentBack::problem)?;
    permit_pull(&caller, &scope, &glance)?;
    if asked.claim.cursor > Cursor::ZERO {
        api.drift.note(glance.summary.head, asked.claim.cursor);
    }
    let kept = kept(api, &scope, asked.epoch, &glance.summary).await?;
    Ok(Json(Answer::new(&asked, &glance.summary, kept.base())).into_response())
}

impl Answer {
    fn new(asked: &Asked, summary: &Summary, base: Option<Cursor>) -> Self {
        let Summary { head, floor, count, digest, epoch, .. } = *summary;
        let sums = ScopeSums { head, floor, count, digest };
        let Reconciled { status, action, cursor } = reconcile(&asked.claim, base, &sums);
        Self { status, action, cursor, head, floor, count, digest, epoch, base }
    }
}

impl Asked {
    /// Reads `{"cursor", "epoch"?, "count"?, "digest"?}`; other fields are ignored, null counts as absent.
    ///
    /// # Errors
    /// 400 naming the field and what it takes.
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| {
            Problem::invalid_request(r#"The body takes a JSON object such as {"cursor": 12340}"#)
        })?;
        fields.retain(|_, value| !value.is_null());
        let field = |name: &str| fields.get(name);
        let cursor = field("cursor").and_then(Value::as_u64).and_then(|n| Cursor::new(n).ok());
        Ok(Self {
            claim: Claim {
                cursor: cursor.ok_or_else(|| {
                    takes("cursor", "a whole number from 0 to 9223372036854775807")
                })?,
                count: field("count").map(count).transpose()?,
                digest: field("digest").map(digest).transpose()?,
            },
            epoch: field("epoch").map(epoch).transpose()?,
        })
    }
}

fn takes(field: &str, what: &str) -> Problem {
    Problem::invalid_request(format!("{field} takes {what}"))
}

fn count(value: &Value) -> Result<u64, Problem> {
    value.as_u64().ok_or_else(|| takes("count", "a whole number from 0: of the live messages"))
}

fn digest(value: &Value) -> Result<Digest, Problem> {
    let digest = value.as_str().and_then(Digest::parse);
    digest.ok_or_else(|| takes("digest", "64 lower-case hex digits"))
}

fn epoch(value: &Value) -> Result<Epoch, Problem> {
    let epoch = value.as_str().and_then(path::parse_uuid).map(Epoch);
    epoch.ok_or_else(|| takes("epoch", "a UUID, as a pull gave it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "c4cef105-ad52-5a07-84f6-0b5fe8779186";

    #[test]
    fn a_reconcile_is_read() {
        let zero = "0".repeat(64);
        let whole = format!(
            r#"{{"cursor": 7, "epoch": "{EPOCH}", "count": 3, "digest": "{zero}", "x": 1}}"#
        );
        let epoch = Some(Epoch(EPOCH.parse().unwrap()));
        let claim =
            Claim { cursor: Cursor::from_i64(7), count: Some(3), digest: Some(Digest::EMPTY) };
        assert_eq!(Asked::parse(whole.as_bytes()).unwrap(), Asked { claim, epoch });
        let nulls =
            br#"{"cursor": 9223372036854775807, "epoch": null, "count": null, "digest": null}"#;
        let claim = Claim { cursor: Cursor::from_i64(i64::MAX), ..Claim::default() };
        assert_eq!(Asked::parse(nulls).unwrap(), Asked { claim, epoch: None });
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        let digest = |digest: &str| format!(r#"{{"cursor": 1, "digest": {digest}}}"#);
        let table = [
            (String::new(), "The body takes a JSON object"),
            ("[]".to_owned(), "The body takes a JSON object"),
            ("{}".to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": null}"#.to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": -1}"#.to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": "1"}"#.to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": 1.5}"#.to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": 9223372036854775808}"#.to_owned(), "cursor takes a whole number"),
            (r#"{"cursor": 1, "count": -1}"#.to_owned(), "count takes a whole number from 0"),
            (r#"{"cursor": 1, "count": 1e99}"#.to_owned(), "count takes a whole number from 0"),
            (r#"{"cursor": 1, "epoch": "x"}"#.to_owned(), "epoch takes a UUID"),
            (r#"{"cursor": 1, "epoch": 7}"#.to_owned(), "epoch takes a UUID"),
            (digest("7"), "digest takes 64 lower-case hex digits"),
            (digest(r#""""#), "digest takes 64 lower-case hex digits"),
            (digest(&format!("{:?}", "0".repeat(63))), "digest takes 64 lower-case hex digits"),
            (digest(&format!("{:?}", "0".repeat(65))), "digest takes 64 lower-case hex digits"),
            (digest(&format!("{:?}", "F".repeat(64))), "digest takes 64 lower-case hex digits"),
        ];
        for (body, detail) in table {
            let problem = Asked::parse(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status().as_u16(), 400, "{body}");
            assert!(problem.detail().starts_with(detail), "{body}: {}", problem.detail());
        }
    }
}
