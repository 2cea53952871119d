//! What can go wrong between a device and the API, in the words that people are shown.

use std::{fmt, time::Duration};

use model::CommandId;
use serde::Deserialize;

use crate::retry;

/// The API's `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub detail: String,
    pub resolution: String,
    pub request_id: Option<String>,
    /// The caller was a member once: their devices drop what they have of the scope.
    pub purge: bool,
    /// How long to wait before asking again, where the answer said so.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Reads an answer that is no success; one that is no problem+json becomes one.
    pub fn of(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let problem: Option<Self> = serde_json::from_slice(body).ok();
        let problem = problem.filter(|problem| !problem.code.is_empty()).unwrap_or_else(|| Self {
            code: format!("HTTP {status}"),
            detail: "The answer is not Context Sync's".to_owned(),
            resolution: "Check the URL and what stands before it".to_owned(),
            ..Self::default()
        });
        Self { status, retry_after, ..problem }
    }

    /// There is no room for what is written. Deletes pass.
    pub fn is_no_room(&self) -> bool {
        self.code == "SYNC_007"
    }

    /// The caller's role does not let them, whatever the messages are.
    pub fn is_not_allowed(&self) -> bool {
        self.code == "SYNC_005"
    }

    /// One that is about the messages, not about the caller or the scope.
    pub fn is_about_messages(&self) -> bool {
        matches!(self.code.as_str(), "INVALID_REQUEST" | "PAYLOAD_TOO_LARGE" | "SYNC_002")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, detail, resolution, .. } = self;
        write!(f, "{code}: {}. {resolution}", detail.trim_end_matches('.'))?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

/// Why a request brought no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0}")]
    Problem(Box<Problem>),
    #[error(
        "{url} cannot be reached: {cause}; is it running? `context-sync dev` starts an instance"
    )]
    Unreachable { url: String, cause: String },
    #[error("{path} was answered with something else than the contract says: {source}")]
    Answer { path: String, source: serde_json::Error },
    #[error("a message cannot be written as JSON: {0}")]
    Request(serde_json::Error),
    #[error(
        "push {push_id} is on the log, but its outcome is not known after {waited_seconds} s: ask {location}"
    )]
    Outstanding { push_id: CommandId, location: String, waited_seconds: u64 },
    #[error("{url:?} is no URL: {reason}; write for instance http://127.0.0.1:8080")]
    Url { url: String, reason: String },
    #[error("HTTP cannot be set up: {0}")]
    Setup(Box<dyn std::error::Error + Send + Sync>),
}

impl ClientError {
    /// Whether another try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => retry::is_temporary(problem.status, &problem.code),
            _ => false,
        }
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.problem().and_then(|problem| problem.retry_after)
    }

    /// The API's own word, if there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_as_code_detail_resolution_and_request() {
        let body = br#"{"type": "about:blank", "title": "Permission denied", "status": 403,
            "detail": "There is no such scope", "code": "SYNC_005",
            "resolution": "Check role/membership", "request_id": "r-1", "purge": true}"#;
        let problem = Problem::of(403, None, body);
        assert_eq!(
            problem.to_string(),
            "SYNC_005: There is no such scope. Check role/membership (request r-1)"
        );
        assert!(problem.purge && !problem.is_about_messages());
    }

    #[test]
    fn any_other_answer_becomes_a_problem() {
        for body in [&b"<html>"[..], b"", b"{}", b"[1]", br#"{"code": 7}"#] {
            let problem = Problem::of(502, Some(Duration::from_secs(1)), body);
            assert!(problem.to_string().starts_with("HTTP 502: The answer is not"), "{problem}");
            let error = ClientError::Problem(Box::new(problem));
            assert!(error.is_temporary());
            assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
        }
    }
}
