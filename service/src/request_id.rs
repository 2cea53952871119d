//! The name of one request, in its answer, its errors and every log line about it.

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that carries it, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id taken from a caller, in bytes; a longer one is replaced.
const MAX_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// A request's id: the caller's `X-Request-ID` where that is 1 to 128 printable ASCII, else a
/// new UUIDv7. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's id, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(value) if is_acceptable(value.as_bytes()) => Self(value.clone()),
            _ => Self::make(),
        }
    }

    fn make() -> Self {
        let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
        // A UUID's text is always a header value; the fallback only spares a panic path.
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown")))
    }

    /// The id of the request that this task answers; `None` outside the envelope and in tasks
    /// spawned from a handler (hand it over there).
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `future` as part of this request.
    pub(crate) async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_acceptable(value: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&value.len()) && value.iter().all(|b| (0x20..=0x7e).contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn an_acceptable_id_is_kept() {
        assert_eq!(of(b"abc-1").as_str(), "abc-1");
        assert_eq!(of(&[b'x'; 128]).as_str(), "x".repeat(128));
    }

    #[test]
    fn any_other_is_replaced_by_a_uuid() {
        for bad in [&b""[..], &[b'x'; 129], b"caf\xc3\xa9", b"a\tb"] {
            let id = of(bad);
            assert_eq!(Uuid::parse_str(id.as_str()).unwrap().get_version_num(), 7);
        }
        assert!(Uuid::parse_str(RequestId::of(&HeaderMap::new()).as_str()).is_ok());
    }
}
