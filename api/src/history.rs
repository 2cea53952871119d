//! `GET …/messages/{message_id}/history`: what a message is, what it was, and what had to give way to it. For those
//! who may pull: a conflict can be seen, and undone by a push of the version that lost.

use std::fmt::Write as _;

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{path, problems};
use http::{HeaderValue, header::CONTENT_TYPE};
use model::{MessageId, Place, ScopeKind};
use readmodel::history::{self, History, HistoryPage, PastPlace, PastRow};
use service::Problem;

use crate::{Api, query::Query};

const LIMIT_MAX: u64 = 1_000;
const LIMIT_DEFAULT: u64 = 100;

pub(crate) async fn show(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let id = MessageId(path::uuid(&mut parts, "message_id").await?);
    let page = page(Query::of(&parts.uri), u64::from(api.config.page_bytes_max))?;
    let (standing, history) = history::history(&api.pool, &caller.access(&scope), id, page)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_pull())?;
    if history.current.is_none() && history.past.is_empty() && page.before.is_none() {
        return Err(
            Problem::not_found("This scope has no such message").resolution("Check message_id")
        );
    }
    let json = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, json)], body(&history)).into_response())
}

fn page(query: Query<'_>, bytes: u64) -> Result<HistoryPage, Problem> {
    let before = match query.one("before")? {
        None => None,
        Some(text) => Some(parse_place(&text).ok_or_else(|| {
            Problem::invalid_request("before takes the place of a version, such as 3-12345-0")
        })?),
    };
    let limit = query.number("limit", "", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    Ok(HistoryPage { before, limit: limit as u32, bytes })
}

/// Partition, offset, and which of the command's changes.
fn parse_place(text: &str) -> Option<PastPlace> {
    let (place, change) = text.rsplit_once('-')?;
    let place: Place = place.parse().ok()?;
    let change: u32 = change.parse().ok().filter(|change| i32::try_from(*change).is_ok())?;
    Some(PastPlace { offset: place.offset, change })
}

/// The messages are JSON already, so it is put together as text.
fn body(history: &History) -> String {
    let bytes: usize = history.past.iter().map(|row| row.json.len() + 200).sum();
    let mut body = String::with_capacity(bytes + 1_000);
    body.push_str("{\"message\":");
    body.push_str(history.current.as_deref().unwrap_or("null"));
    body.push_str(",\"history\":[");
    for (place, row) in history.past.iter().enumerate() {
        if place > 0 {
            body.push(',');
        }
        let PastRow { partition, place: PastPlace { offset, change }, result, won_by, at, json } =
            row;
        let result = result.as_str();
        // Writing into a String cannot fail.
        let _ = write!(
            body,
            "{{\"result\":\"{result}\",\"won_by\":{won_by},\"decided_at\":\"{at}\",\
             \"place\":\"{partition}-{offset}-{change}\",\"message\":{json}}}"
        );
    }
    let _ = write!(body, "],\"has_more\":{}}}", history.has_more);
    body
}

#[cfg(test)]
mod tests {
    use model::{Cursor, Offset, Partition, PastResult, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_page_is_said_strictly() {
        let of = |uri: &str| page(Query::of(&uri.parse().unwrap()), 5);
        let place = PastPlace { offset: Offset::new(12_345).unwrap(), change: 7 };
        assert_eq!(of("/x?before=3-12345-7&limit=9").unwrap().before, Some(place));
        let default = of("/x").unwrap();
        assert_eq!((default.before, default.limit, default.bytes), (None, 100, 5));
        for bad in ["", "3", "3-1", "3-1-", "3--1", "a-1-1", "3-1-1-1", "3-1-4294967295"] {
            let problem = of(&format!("/x?before={bad}")).unwrap_err();
            assert!(problem.detail().starts_with("before takes the place"), "{bad}");
        }
        assert!(of("/x?limit=1001").unwrap_err().detail().starts_with("limit takes"));
    }

    #[test]
    fn the_body_is_json() {
        let row = |json: &str| PastRow {
            partition: Partition::new(3),
            place: PastPlace { offset: Offset::new(5).unwrap(), change: 1 },
            result: PastResult::Stale,
            won_by: Cursor::from_i64(4),
            at: Timestamp::EPOCH,
            json: json.to_owned(),
        };
        let past = vec![row("{\"cursor\":null}"), row("{}")];
        let history = History { current: Some("{\"cursor\":4}".to_owned()), past, has_more: true };
        let read: Value = serde_json::from_str(&body(&history)).unwrap();
        let entry = json!({"result": "stale", "won_by": 4, "decided_at": Timestamp::EPOCH,
            "place": "3-5-1", "message": {"cursor": null}});
        assert_eq!((&read["message"]["cursor"], &read["history"][0]), (&json!(4), &entry));
        assert_eq!((&read["history"][1]["message"], &read["has_more"]), (&json!({}), &json!(true)));
        let none = History { current: None, past: Vec::new(), has_more: false };
        let read: Value = serde_json::from_str(&body(&none)).unwrap();
        assert_eq!(read, json!({"message": null, "history": [], "has_more": false}));
    }
}
