//! The issuer's keys, fetched and kept: refreshed as they age, and early when a token names a key
//! that is not among them, which is how a rotation shows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::Header;
use jsonwebtoken::jwk::Jwk;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::auth::AuthError;
use crate::keys::Key;

/// How long fetched keys are good without asking again.
const TTL: Duration = Duration::from_secs(300);

/// The least time between two fetches, whatever tokens come.
const FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// The most time one fetch takes.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer read, in bytes.
const ANSWER_BYTES: usize = 256 * 1024;

/// Keys from one address.
pub(crate) struct Jwks(Arc<Shared>);

struct Shared {
    client: Client,
    url: Url,
    interval: Duration,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Vec<Named>>>,
    /// When `keys` came.
    fetched: Option<Instant>,
    /// When the last fetch began.
    began: Option<Instant>,
    failed: bool,
    /// Closed when the fetch under way has ended.
    flight: Option<watch::Receiver<()>>,
}

struct Named {
    kid: Option<String>,
    key: Arc<Key>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Http(String),
    #[error("it answered {0}")]
    Status(u16),
    #[error("its answer is larger than {ANSWER_BYTES} bytes")]
    TooLarge,
    #[error("its answer is not a JWKS ({0})")]
    Json(#[from] serde_json::Error),
    #[error("none of its {0} keys can be used")]
    NoKeys(usize),
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // Its own text says only that sending failed; why is in its sources. The address is known.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Http(text)
    }
}

impl Jwks {
    /// Keys from `url`; fetched when first needed. The error says what an address must be.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        Self::with_times(url, TTL, FETCH_INTERVAL)
    }

    fn with_times(url: &str, ttl: Duration, interval: Duration) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let local = is_loopback(&url);
        if !(url.scheme() == "https" || url.scheme() == "http" && local) {
            return Err("it must be https: whoever changes the keys on their way \
                        can sign in as anyone (http is taken on this machine alone)"
                .to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must carry no user or password: it is shown in logs".to_owned());
        }
        let mut client = Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none())
            .https_only(!local);
        if local {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| error.to_string())?;
        let state = Mutex::default();
        Ok(Self(Arc::new(Shared { client, url, interval, ttl, state })))
    }

    /// The key that a token's header names.
    pub(crate) async fn key(&self, header: &Header) -> Result<Arc<Key>, AuthError> {
        if self.0.lock().must_wait(self.0.ttl) {
            self.refresh().await;
        } else if self.0.lock().is_old(self.0.ttl) {
            // The last fetch failed: callers go on with the old keys meanwhile.
            let _ = self.0.begin();
        }
        if let Some(found) = self.0.lock().find(header)? {
            return Ok(found);
        }
        self.refresh().await;
        let state = self.0.lock();
        match state.find(header)? {
            Some(found) => Ok(found),
            None if state.failed => Err(AuthError::KeysUnavailable),
            None => Err(AuthError::UnknownKey),
        }
    }

    /// Waits for the fetch under way, or for a new one; returns at once if one has just been.
    async fn refresh(&self) {
        if let Some(mut flight) = self.0.begin() {
            // The sender is dropped at the end; nothing is ever sent.
            while flight.changed().await.is_ok() {}
        }
    }
}

impl Shared {
    /// The fetch under way, or a new one unless the last began just before. It runs in a task of
    /// its own: a caller that goes away must not take the fetch, and everyone's turn, with it.
    fn begin(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut state = self.lock();
        if let Some(flight) = state.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return Some(flight.clone());
        }
        if state.began.is_some_and(|began| began.elapsed() < self.interval) {
            return None;
        }
        let (landed, flight) = watch::channel(());
        state.began = Some(Instant::now());
        state.flight = Some(flight.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let result = shared.fetch().await;
            shared.store(result);
            drop(landed);
        });
        Some(flight)
    }

    fn store(&self, result: Result<Vec<Named>, FetchError>) {
        let mut state = self.lock();
        state.failed = result.is_err();
        match result {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "JWKS fetched");
                state.keys = Some(Arc::new(keys));
                state.fetched = Some(Instant::now());
            }
            Err(error) => {
                let stale = state.keys.is_some();
                tracing::error!(%error, stale, "JWKS cannot be fetched; known keys stay good");
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Named>, FetchError> {
        let mut response = self.client.get(self.url.clone()).send().await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if answer.len() + chunk.len() > ANSWER_BYTES {
                return Err(FetchError::TooLarge);
            }
            answer.extend_from_slice(&chunk);
        }
        let document: Document = serde_json::from_slice(&answer)?;
        let offered = document.keys.len();
        let keys: Vec<_> = document.keys.into_iter().filter_map(named).collect();
        if keys.is_empty() { Err(FetchError::NoKeys(offered)) } else { Ok(keys) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is not understood is passed over: issuers publish others beside the one in use.
fn named(value: Value) -> Option<Named> {
    let jwk: Jwk = match serde_json::from_value(value) {
        Ok(jwk) => jwk,
        Err(error) => {
            tracing::warn!(%error, "a key of the JWKS is passed over");
            return None;
        }
    };
    let kid = jwk.common.key_id.clone();
    match Key::from_jwk(&jwk) {
        Ok(key) => Some(Named { kid, key: Arc::new(key) }),
        Err(reason) => {
            tracing::warn!(kid, reason, "a key of the JWKS is passed over");
            None
        }
    }
}

impl State {
    fn is_old(&self, ttl: Duration) -> bool {
        self.fetched.is_none_or(|fetched| fetched.elapsed() >= ttl)
    }

    /// Whether the keys are too old to use without asking first: yes, unless asking has just
    /// failed, for an issuer that is away must not slow everyone down.
    fn must_wait(&self, ttl: Duration) -> bool {
        self.is_old(ttl) && (self.keys.is_none() || !self.failed)
    }

    /// The key for this header; `None` if there is none.
    fn find(&self, header: &Header) -> Result<Option<Arc<Key>>, AuthError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        if let Some(kid) = &header.kid {
            let mut with_kid =
                keys.iter().filter(|named| named.kid.as_ref() == Some(kid)).peekable();
            if with_kid.peek().is_none() {
                return Ok(None);
            }
            let fits = with_kid.find(|named| named.key.algorithm() == header.alg);
            return fits.map(|named| Some(named.key.clone())).ok_or(AuthError::Algorithm);
        }
        // Without a name, only a single key of that kind is meant beyond doubt.
        let mut fitting = keys.iter().filter(|named| named.key.algorithm() == header.alg);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(Some(only.key.clone())),
            (Some(_), Some(_)) => Err(AuthError::UnknownKey),
            (None, _) => Err(AuthError::Algorithm),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
