//! `POST {scope}/messages`: messages by their ids, or by what a repair names them.

use std::collections::{HashMap, HashSet};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{Caller, headers, path, problems};
use http::{HeaderValue, header::CONTENT_TYPE};
use model::{Item, MessageId, ScopeKey, ScopeKind};
use readmodel::holding::{Named, named};
use serde_json::{Map, Value};
use service::{Problem, http::read_body};

use crate::{
    Api,
    asking::{asker, permit_asking, permit_pull},
};

/// Bytes of a body: so many names fit, with room to spare.
const FETCH_BYTES_MAX: u64 = 256 << 10;

/// How a message is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Id(MessageId),
    /// That version alone.
    Item(Item),
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
    let body = read_body(body, "fetch_bytes_max", FETCH_BYTES_MAX, timeout).await?;
    let names = parse(&body, api.config.fetch_messages_max as usize)?;
    permit_asking(&scope)?;
    let of_items = of_items(api, &caller, &scope, &names).await?;
    let id = |name: &Name| match name {
        Name::Id(id) => Some(*id),
        Name::Item(item) => of_items.get(item).copied(),
    };
    let ids: Vec<MessageId> = distinct(names.iter().filter_map(id));
    let bytes = u64::from(api.config.page_bytes_max);
    let (glance, found) = named(&api.pool, &asker(&caller, &scope), &ids, bytes)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    permit_pull(&caller, &scope, &glance)?;
    let found = names.iter().map(|name| (name, id(name).and_then(|id| found.get(&id))));
    let json = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, json)], body_of(found)).into_response())
}

/// Which messages the items are of. Only a repair's memory knows: no row has an item.
async fn of_items(
    api: &Api,
    caller: &Caller,
    scope: &ScopeKey,
    names: &[Name],
) -> Result<HashMap<Item, MessageId>, Problem> {
    let item = |name: &Name| match name {
        Name::Id(_) => None,
        Name::Item(item) => Some(*item),
    };
    let items: HashSet<Item> = names.iter().filter_map(item).collect();
    if items.is_empty() {
        return Ok(HashMap::new());
    }
    let current = api.holdings.current(caller, scope, api.holdings.admit(&caller.tenant)?).await?;
    current.work(move |held| held.named(&items)).await
}

/// Reads `{"ids": […]}`; other fields are ignored. None is there twice.
fn parse(body: &[u8], messages_max: usize) -> Result<Vec<Name>, Problem> {
    let not_ids =
        || Problem::invalid_request(r#"ids takes an array, in a JSON object: {"ids": []}"#);
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| not_ids())?;
    let ids = fields.get("ids").and_then(Value::as_array).ok_or_else(not_ids)?;
    if ids.len() > messages_max {
        let (max, sent) = (messages_max as u64, ids.len() as u64);
        return Err(Problem::payload_too_large("fetch_messages_max", max, Some(sent)));
    }
    let names = ids.iter().enumerate().map(|(place, id)| {
        id.as_str().and_then(Name::parse).ok_or_else(|| {
            Problem::invalid_request(format!(
                "ids[{place}] takes the id of a message, a UUID, or an item, 64 lower-case hex digits"
            ))
        })
    });
    Ok(distinct(names.collect::<Result<Vec<_>, _>>()?))
}

fn distinct<T: Copy + Eq + std::hash::Hash>(list: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    list.into_iter().filter(|one| seen.insert(*one)).collect()
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let id = path::parse_uuid(text).map(|id| Self::Id(MessageId(id)));
        id.or_else(|| Item::parse(text).map(Self::Item))
    }

    /// Whether this message goes by the name.
    fn is(&self, message: &Named) -> bool {
        let holding = &message.holding;
        match self {
            Self::Id(id) => holding.id == *id,
            Self::Item(item) => holding.live && holding.version.item(holding.id) == *item,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Item(item) => item.to_string(),
        }
    }
}

/// The answer's JSON. The messages are JSON already, so it is put together as text.
fn body_of<'a>(found: impl Iterator<Item = (&'a Name, Option<&'a Named>)>) -> String {
    let (mut messages, mut missing) = (String::new(), String::new());
    let (mut told, mut has_more) = (HashSet::new(), false);
    for (name, message) in found {
        match message.filter(|message| name.is(message)) {
            None => push(&mut missing, &format!("\"{}\"", name.text())),
            Some(Named { json: None, .. }) => has_more = true,
            Some(Named { holding, json: Some(json) }) if told.insert(holding.id) => {
                push(&mut messages, json)
            }
            Some(_) => {}
        }
    }
    format!("{{\"messages\":[{messages}],\"missing\":[{missing}],\"has_more\":{has_more}}}")
}

fn push(list: &mut String, json: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(json);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01940f2e-7c00-7000-8000-000000000001";

    #[test]
    fn names_are_ids_and_items_each_once() {
        let item = "0".repeat(64);
        let body =
            format!(r#"{{"ids": ["{ID}", "{item}", "{}", "{ID}"], "x": 1}}"#, ID.to_uppercase());
        let id = Name::Id(MessageId(ID.parse().unwrap()));
        assert_eq!(parse(body.as_bytes(), 4).unwrap(), [id, Name::Item(Item([0; 32]))]);
        assert_eq!(parse(br#"{"ids": []}"#, 4).unwrap(), []);
    }

    #[test]
    fn what_is_no_name_is_refused_by_its_place() {
        for body in ["", "[]", "{}", r#"{"ids": null}"#, r#"{"ids": {}}"#, r#"{"ids": "x"}"#] {
            let problem = parse(body.as_bytes(), 4).unwrap_err();
            assert!(problem.detail().starts_with("ids takes an array"), "{body}");
        }
        let bad = ["7", "null", r#""""#, r#""x""#, r#""01940f2e7c0070008000000000000001""#];
        for bad in bad.map(str::to_owned).into_iter().chain([format!("{:?}", "F".repeat(64))]) {
            let body = format!(r#"{{"ids": ["{ID}", {bad}]}}"#);
            let problem = parse(body.as_bytes(), 4).unwrap_err();
            assert!(problem.detail().starts_with("ids[1] takes the id of a message"), "{bad}");
        }
        let many = format!(r#"{{"ids": [{}]}}"#, vec![format!("{ID:?}"); 5].join(","));
        let problem = parse(many.as_bytes(), 4).unwrap_err();
        assert_eq!(
            (problem.status().as_u16(), problem.detail()),
            (413, "fetch_messages_max is 4, sent was 5")
        );
    }
}
