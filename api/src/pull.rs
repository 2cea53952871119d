//! `GET {scope}/pull`: a page of what changed after a cursor, at once or as soon as there is any.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{
    Caller, headers, path,
    problems::{self, Whereabouts},
};
use http::{HeaderValue, Uri, header::CONTENT_TYPE};
use model::{Cursor, Epoch, ScopeKey, ScopeKind};
use readmodel::{
    epochs::Kept,
    pull::{Page, PullQuery, Summary},
};
use service::Problem;

use crate::{
    Api, ApiConfig,
    asking::{asker, kept, permit_asking, permit_pull},
    idle::WentBack,
    measure,
    pages::{PATIENCE, PageKey},
    places::Place,
    query::Query,
};

/// How long to wait before looking again where the feed has told of a head that no query shows.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// When to come back for who found no place to wait in, in seconds.
const COME_BACK: u64 = 5;

/// What a pull asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    cursor: Cursor,
    limit: u32,
    wait: Duration,
    epoch: Option<Epoch>,
}

/// Answers a pull, and measures it without the time it waited for news.
pub(crate) async fn pull(api: &Api, kind: ScopeKind, request: Request) -> Response {
    let begun = Instant::now();
    let mut waited = Duration::ZERO;
    let response = problems::answer(pulled(api, kind, request, &mut waited).await);
    measure::pull_latency(kind, response.status(), begun.elapsed().saturating_sub(waited));
    response
}

async fn pulled(
    api: &Api,
    kind: ScopeKind,
    request: Request,
    waited: &mut Duration,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    headers::device(&parts.headers)?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let asked = Asked::parse(&parts.uri, &api.config)?;
    let (page, kept) = newest(api, &caller, &scope, &asked, waited).await?;
    Ok(answer(&page, kept.base()))
}

/// The page; where there is nothing new, the one that comes within the wait, if there is a place to wait in. Whether
/// the caller may see it is asked with each page.
async fn newest(
    api: &Api,
    caller: &Caller,
    scope: &ScopeKey,
    asked: &Asked,
    waited: &mut Duration,
) -> Result<(Page, Kept), Problem> {
    let deadline = Instant::now() + asked.wait;
    // Before the first look, so that no commit is missed.
    let mut head = (!asked.wait.is_zero()).then(|| api.feed.watch(scope.reference()));
    let mut told = false;
    let mut place = None;
    loop {
        let (page, kept) = look(api, caller, scope, asked).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let idle = page.messages.is_empty() && page.summary.head == asked.cursor;
        let Some(head) = head.as_mut().filter(|_| idle && !left.is_zero()) else {
            return Ok((page, kept));
        };
        if place.is_none() {
            place = Some(place_to_wait(api, caller)?);
        }
        let begun = Instant::now();
        if told {
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
        tokio::select! {
            moved = head.past(asked.cursor, left) => told = moved,
            // The process ends: the device comes back to another one.
            () = api.shutdown.cancelled() => return Ok((page, kept)),
        }
        *waited += begun.elapsed();
    }
}

/// A place among those who wait, each of whom holds a connection: what one tenant's devices hold is none that others
/// cannot get. No page without messages in its stead: who gets one has waited, and asks again at once.
fn place_to_wait(api: &Api, caller: &Caller) -> Result<(Place, measure::Waiting), Problem> {
    let place = api.waiting.take(&caller.tenant).ok_or_else(|| {
        let max = u64::from(api.config.pulls_waiting_max);
        let why = "of which one tenant gets half, and no more may wait; there is nothing new yet";
        problems::overloaded("pulls_waiting_max", max, why).retry_after(COME_BACK)
    })?;
    Ok((place, measure::Waiting::new()))
}

/// One page, if the caller may see it and the cursor is good.
async fn look(
    api: &Api,
    caller: &Caller,
    scope: &ScopeKey,
    asked: &Asked,
) -> Result<(Page, Kept), Problem> {
    permit_asking(scope)?;
    let page = match api.idle.glance(scope, &caller.user, asked.cursor).await {
        Ok(Some(glance)) => Ok(Page::empty(glance)),
        Ok(None) => shared(api, caller, scope, asked).await,
        Err(error) => Err(problems::of_read_model(&error)),
    }?;
    permit_pull(caller, scope, &page.glance())?;
    let kept = kept(api, scope, asked.epoch, &page.summary).await?;
    check_cursor(asked, &page.summary, kept)?;
    if asked.cursor > Cursor::ZERO {
        api.drift.note(page.summary.head, asked.cursor);
    }
    Ok((page, kept))
}

/// The page as another pull got it, if nothing has happened since; else as Postgres has it. Of those who ask for one at
/// the same time the first asks Postgres: a push wakes all devices of a team.
async fn shared(
    api: &Api,
    caller: &Caller,
    scope: &ScopeKey,
    asked: &Asked,
) -> Result<Page, Problem> {
    if !api.pages.keep_any() {
        return page(api, caller, scope, asked).await;
    }
    let key = PageKey { scope: scope.reference(), after: asked.cursor, limit: asked.limit };
    if let Some(page) = known(api, caller, scope, &key).await {
        return Ok(page);
    }
    let turn = api.pages.turn(key).await;
    if turn.is_none()
        && let Some(page) = known(api, caller, scope, &key).await
    {
        return Ok(page);
    }
    let page = page(api, caller, scope, asked).await?;
    api.pages.keep(key, &page);
    Ok(page)
}

/// The page that is kept, if it is found soon to be what the scope is now.
async fn known(api: &Api, caller: &Caller, scope: &ScopeKey, key: &PageKey) -> Option<Page> {
    let kept = api.pages.kept(key)?;
    let glancing = api.idle.now(scope, &caller.user, &kept.summary);
    // Without an answer the page is asked for, as if none were kept.
    let now = tokio::time::timeout(PATIENCE, glancing).await.ok()?.ok()??;
    Some(kept.of(now))
}

/// Asks Postgres for the page.
async fn page(
    api: &Api,
    caller: &Caller,
    scope: &ScopeKey,
    asked: &Asked,
) -> Result<Page, Problem> {
    let query = PullQuery {
        asker: asker(caller, scope),
        after: asked.cursor,
        limit: asked.limit,
        bytes: u64::from(api.config.page_bytes_max),
    };
    let asking = api.idle.asking(scope);
    let page = readmodel::pull::pull(&api.pool, &query)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    api.idle.saw(asking, &caller.user, &page).map_err(WentBack::problem)?;
    Ok(page)
}

/// Refuses a cursor that says nothing in this scope as it is now.
fn check_cursor(asked: &Asked, summary: &Summary, kept: Kept) -> Result<(), Problem> {
    let detail = if !kept.keeps(asked.cursor) {
        "cursor is of another epoch, and no longer good"
    } else if asked.cursor > summary.head {
        "cursor is ahead of the scope's head"
    } else {
        return Ok(());
    };
    let (head, floor, epoch, base) = (summary.head, summary.floor, summary.epoch, kept.base());
    let at = Whereabouts { head, floor, epoch, base };
    Err(problems::invalid_cursor(detail, &at))
}

impl Asked {
    fn parse(uri: &Uri, config: &ApiConfig) -> Result<Self, Problem> {
        let query = Query::of(uri);
        let cursor = query.number("cursor", "", 0, i64::MAX as u64)?.unwrap_or(0);
        let limit_max = config.pull_limit_max;
        let limit = query.number("limit", "", 1, u64::from(limit_max))?;
        let wait_max = u64::from(config.pull_wait_seconds_max);
        let wait = query.number("wait", " of seconds", 0, wait_max)?.unwrap_or(0);
        let epoch = match query.one("epoch")? {
            None => None,
            Some(text) => Some(path::parse_uuid(&text).map(Epoch).ok_or_else(|| {
                Problem::invalid_request("epoch takes a UUID, as a pull gave it")
            })?),
        };
        Ok(Self {
            cursor: Cursor::new(cursor).unwrap_or_default(),
            limit: limit.map_or(config.pull_limit.min(limit_max), |limit| limit as u32),
            wait: Duration::from_secs(wait),
            epoch,
        })
    }
}

/// The answer's JSON. The messages are JSON already, so it is put together as text.
fn answer(page: &Page, base: Option<Cursor>) -> Response {
    let body = body(page, base);
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

fn body(page: &Page, base: Option<Cursor>) -> Vec<u8> {
    let summary = &page.summary;
    let head = summary.head;
    let cursor = page.last.filter(|_| page.has_more).unwrap_or(head);
    let mut body = Vec::with_capacity(page.messages.len() + 320);
    body.extend_from_slice(b"{\"messages\":[");
    body.extend_from_slice(&page.messages);
    // Writing into memory cannot fail.
    let _ = write!(
        body,
        "],\"cursor\":{cursor},\"has_more\":{},\"head\":{head},\"floor\":{},\"count\":{},\
         \"digest\":\"{}\",\"epoch\":\"{}\"",
        page.has_more, summary.floor, summary.count, summary.digest, summary.epoch
    );
    if let Some(base) = base {
        let _ = write!(body, ",\"base\":{base}");
    }
    body.push(b'}');
    body
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
