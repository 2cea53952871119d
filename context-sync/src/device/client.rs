//! A device's requests to the API.

pub mod backups;
pub mod repair;

use std::{sync::Arc, time::Duration};

use device::{
    Requests,
    problem::{ClientError, Problem},
    retry::{self, RetryPolicy},
    wire::{Fetched, PullFrom, PullPage, PushBody, PushStatus, Reconciled},
};
use model::{CommandId, DeviceId, Epoch, Item, PushAnswer, reconcile::Claim};
use reqwest::{Method, Response, header};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use service::Secret;

use super::scope::Scope;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take, beyond what a long poll asks for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often the outcome of an accepted push is asked for, and for how long.
const OUTCOME_EVERY: Duration = Duration::from_millis(250);
const OUTCOME_WITHIN: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// Told what a person who waits should know.
pub type Notify = Arc<dyn Fn(&str) + Send + Sync>;

/// An API that devices talk to; they share its connections.
#[derive(Clone)]
pub struct Server {
    http: reqwest::Client,
    url: String,
    notify: Notify,
}

/// One device of one user.
#[derive(Clone)]
pub struct Client {
    server: Server,
    token: Secret,
    device: DeviceId,
    retry: RetryPolicy,
}

/// A device in one scope.
#[derive(Clone, Copy)]
pub struct InScope<'a> {
    client: &'a Client,
    scope: &'a Scope,
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Option<Vec<u8>>,
    /// What the body is.
    media: &'static str,
    key: Option<String>,
    within: Duration,
}

struct Answer {
    location: Option<String>,
    body: Vec<u8>,
}

impl Server {
    /// The API at a URL. `notify` hears of retries.
    pub fn new(url: &str, notify: Notify) -> Result<Self, ClientError> {
        let bad = |reason: String| ClientError::Url { url: url.to_owned(), reason };
        let parsed = reqwest::Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad("it does not begin with http:// or https://".to_owned()));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            // A token goes to the named host alone.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("context-sync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Setup(error.into()))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), notify })
    }

    /// A device of the user that the token names.
    pub fn client(&self, token: Secret, device: DeviceId) -> Client {
        Client { server: self.clone(), token, device, retry: RetryPolicy::CONTRACT }
    }
}

impl Client {
    /// The same device, as patient as the policy says.
    pub fn retrying(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// Its requests about one scope.
    pub fn in_scope<'a>(&'a self, scope: &'a Scope) -> InScope<'a> {
        InScope { client: self, scope }
    }

    /// Pushes messages, each the JSON text of one, and waits for their outcome. However often it is
    /// retried, nothing is applied twice.
    pub async fn push(
        &self,
        scope: &Scope,
        messages: impl IntoIterator<Item = &RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        self.push_under(uuid::Uuid::new_v4().to_string(), None, scope, messages).await
    }

    /// As [`Client::push`]; nothing is applied twice for a day, whoever sends it again under this Idempotency-Key.
    /// `epoch`: that of the messages' base cursors.
    pub async fn push_under(
        &self,
        key: String,
        epoch: Option<Epoch>,
        scope: &Scope,
        messages: impl IntoIterator<Item = &RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        let body = PushBody { messages: messages.into_iter().collect(), epoch };
        let path = format!("{}/push", scope.context_path());
        let answer = self
            .send(Call {
                method: Method::POST,
                path: &path,
                body: Some(serde_json::to_vec(&body).map_err(ClientError::Request)?),
                media: JSON,
                key: Some(key),
                within: ANSWER_WITHIN,
            })
            .await?;
        match answer.read(&path)? {
            PushStatus::Completed(outcome) => Ok(outcome),
            PushStatus::Accepted { push_id } => {
                let default = format!("/api/v1/pushes/{push_id}");
                self.outcome(push_id, answer.location.unwrap_or(default)).await
            }
        }
    }

    /// Asks for the outcome of a push that was accepted until it is known.
    async fn outcome(
        &self,
        push_id: CommandId,
        location: String,
    ) -> Result<PushAnswer, ClientError> {
        let ask = async {
            loop {
                match self.get(&location, ANSWER_WITHIN).await? {
                    PushStatus::Completed(outcome) => return Ok(outcome),
                    PushStatus::Accepted { .. } => tokio::time::sleep(OUTCOME_EVERY).await,
                }
            }
        };
        match tokio::time::timeout(OUTCOME_WITHIN, ask).await {
            Ok(known) => known,
            Err(_) => {
                let waited_seconds = OUTCOME_WITHIN.as_secs();
                Err(ClientError::Outstanding { push_id, location, waited_seconds })
            }
        }
    }

    /// Pulls one page.
    pub async fn pull(&self, scope: &Scope, from: PullFrom) -> Result<PullPage, ClientError> {
        let PullFrom { cursor, limit, wait, epoch } = from;
        let mut path = format!("{}/pull?cursor={cursor}&limit={limit}", scope.context_path());
        if wait > 0 {
            path.push_str(&format!("&wait={wait}"));
        }
        if let Some(epoch) = epoch {
            path.push_str(&format!("&epoch={epoch}"));
        }
        self.get(&path, ANSWER_WITHIN + Duration::from_secs(wait)).await
    }

    /// Creates a team or a project, and becomes its owner.
    pub async fn create(&self, scope: &Scope) -> Result<(), ClientError> {
        self.change(Method::PUT, &scope.path(), None).await
    }

    /// Makes a user a member, or gives a member another role.
    pub async fn set_member(
        &self,
        scope: &Scope,
        user: &str,
        role: model::Role,
    ) -> Result<(), ClientError> {
        let body = serde_json::json!({ "role": role.as_str() }).to_string().into_bytes();
        self.change(Method::PUT, &scope.member_path(user), Some(body)).await
    }

    /// Takes a member out.
    pub async fn remove_member(&self, scope: &Scope, user: &str) -> Result<(), ClientError> {
        self.change(Method::DELETE, &scope.member_path(user), None).await
    }

    async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(), ClientError> {
        let call = Call { method, path, body, media: JSON, key: None, within: ANSWER_WITHIN };
        self.send(call).await.map(|_| ())
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<T, ClientError> {
        let call = Call { method: Method::GET, path, body: None, media: JSON, key: None, within };
        self.send(call).await?.read(path)
    }

    /// Sends a request until it is answered for good, or it is no use.
    async fn send(&self, call: Call<'_>) -> Result<Answer, ClientError> {
        let mut retry = 0;
        loop {
            let error = match self.send_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let delay = self.retry.delay(retry, error.retry_after(), retry::jitter());
            let Some(delay) = delay.filter(|_| error.is_temporary()) else { return Err(error) };
            let (seconds, left) = (delay.as_secs_f64(), self.retry.retries_max - retry);
            (self.server.notify)(&format!("{error}; again in {seconds:.1} s ({left} left)"));
            tokio::time::sleep(delay).await;
            retry += 1;
        }
    }

    async fn send_once(&self, call: &Call<'_>) -> Result<Answer, ClientError> {
        let url = format!("{}{}", self.server.url, call.path);
        let mut request = self
            .server
            .http
            .request(call.method.clone(), url)
            .bearer_auth(self.token.expose())
            .header("X-Device-ID", self.device.as_str())
            .timeout(call.within);
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, call.media).body(body.clone());
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        let broken = |error| self.unreachable(error);
        Answer::of(request.send().await.map_err(broken)?, broken).await
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        if error.is_builder() {
            return ClientError::Setup(error.without_url().into());
        }
        ClientError::Unreachable { url: self.server.url.clone(), cause: innermost(&error) }
    }
}

impl Requests for InScope<'_> {
    async fn push(
        &self,
        key: String,
        epoch: Option<Epoch>,
        messages: Vec<&RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        self.client.push_under(key, epoch, self.scope, messages).await
    }

    async fn pull(&self, from: PullFrom) -> Result<PullPage, ClientError> {
        self.client.pull(self.scope, from).await
    }

    async fn reconcile(
        &self,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> Result<Reconciled, ClientError> {
        self.client.reconcile(self.scope, claim, epoch).await
    }

    async fn compare(&self, frame: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.client.compare(self.scope, frame).await
    }

    async fn fetch(&self, items: &[Item]) -> Result<Fetched, ClientError> {
        self.client.fetch(self.scope, items).await
    }
}

/// What really went wrong: the outer errors only say that sending failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

impl Answer {
    async fn of(
        response: Response,
        broken: impl Fn(reqwest::Error) -> ClientError,
    ) -> Result<Self, ClientError> {
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let retry_after =
            header(header::RETRY_AFTER).and_then(|s| s.parse().ok()).map(Duration::from_secs);
        let location = header(header::LOCATION);
        let body = response.bytes().await.map_err(broken)?.to_vec();
        if status.is_success() {
            return Ok(Self { location, body });
        }
        Err(ClientError::Problem(Box::new(Problem::of(status.as_u16(), retry_after, &body))))
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|source| ClientError::Answer { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests;
