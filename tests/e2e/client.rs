//! A device, as one would write it with any HTTP client.

use std::time::Duration;

use model::{ScopeKey, ScopeKind};
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
};

use crate::cluster::SECRET;

pub(crate) const USER: &str = "/api/v1/context";

pub(crate) fn team(id: &str) -> String {
    format!("/api/v1/teams/{id}/context")
}

pub(crate) fn project(id: &str) -> String {
    format!("/api/v1/projects/{id}/context")
}

pub(crate) fn org(id: &str) -> String {
    format!("/api/v1/orgs/{id}/context")
}

/// The path of a scope.
pub(crate) fn prefix(key: &ScopeKey) -> String {
    let name = key.name.as_str().replace('|', "%7C");
    match key.kind {
        ScopeKind::User => USER.to_owned(),
        ScopeKind::Team => team(&name),
        ScopeKind::Project => project(&name),
        ScopeKind::Org => org(&name),
    }
}

pub(crate) fn say(content: &str) -> Value {
    json!({"type": "decision", "content": content})
}

pub(crate) fn token(tenant: &str, user: &str, org_role: OrgRole) -> String {
    let hour = Duration::from_secs(3_600);
    sign_hs256(&Secret::new(SECRET), user, tenant, org_role, hour).unwrap()
}

#[derive(Clone)]
pub(crate) struct Device {
    client: Client,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) device: String,
}

impl Device {
    pub(crate) fn new(client: &Client, url: &str, tenant: &str, user: &str, role: OrgRole) -> Self {
        Self {
            client: client.clone(),
            url: url.to_owned(),
            token: token(tenant, user, role),
            device: format!("{user}-laptop"),
        }
    }

    /// The same user's other device.
    pub(crate) fn named(&self, device: &str) -> Self {
        Self { device: device.to_owned(), ..self.clone() }
    }

    /// The same device, at another node.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .header("X-Device-ID", &self.device)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Reply {
        Reply::of(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) fn pushing(&self, scope: &str, messages: &[Value]) -> RequestBuilder {
        let body = json!({"messages": messages});
        self.request(Method::POST, &format!("{scope}/push")).json(&body)
    }

    pub(crate) async fn push(&self, scope: &str, messages: &[Value]) -> Reply {
        Reply::of(self.pushing(scope, messages)).await
    }

    /// Pushes under an Idempotency-Key.
    pub(crate) async fn push_once(&self, scope: &str, key: &str, messages: &[Value]) -> Reply {
        Reply::of(self.pushing(scope, messages).header("Idempotency-Key", key)).await
    }

    pub(crate) async fn pull(&self, scope: &str, query: &str) -> Reply {
        self.get(&format!("{scope}/pull?{query}")).await
    }

    /// Creates a team with these members.
    pub(crate) async fn create_team(&self, id: &str, members: &[(&str, &str)]) {
        self.create(&format!("/api/v1/teams/{id}"), members).await;
    }

    pub(crate) async fn create(&self, path: &str, members: &[(&str, &str)]) {
        self.put(path, Value::Null).await.is(201);
        for (user, role) in members {
            self.put(&format!("{path}/members/{user}"), json!({"role": role})).await.is(200);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.unwrap()
    }

    /// An error where no answer came.
    pub(crate) async fn try_of(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Self { status, headers, body })
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        self.is(200)
    }

    /// The body of a problem, whose members are all there.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, &self.body["code"]), (status, &json!(code)), "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        for member in ["type", "title", "detail", "resolution", "request_id"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}");
        }
        assert_eq!(self.headers["x-request-id"], self.body["request_id"].as_str().unwrap());
        self.body
    }
}

/// The status of each result of a push.
pub(crate) fn statuses(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|result| result["status"].as_str().unwrap()).collect()
}

/// The contents of a pull's messages, in their order.
pub(crate) fn contents(answer: &Value) -> Vec<&str> {
    let messages = answer["messages"].as_array().unwrap();
    messages.iter().map(|message| message["content"].as_str().unwrap_or("(deleted)")).collect()
}

#[track_caller]
pub(crate) fn assert_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys = keys.to_vec();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
}
