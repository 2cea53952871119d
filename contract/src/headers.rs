//! The contract's request headers.

use http::{HeaderMap, HeaderValue};
use model::{DeviceId, limits::IDEMPOTENCY_KEY_BYTES_MAX};
use service::Problem;

/// Names the device that pushes or pulls.
pub const DEVICE_ID: &str = "x-device-id";
/// Names a request, so that its retry is told from another one.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The device of a push or a pull.
///
/// # Errors
/// 400 if the header is missing or its value is no name.
pub fn device(headers: &HeaderMap) -> Result<DeviceId, Problem> {
    device_if_any(headers)?
        .ok_or_else(|| Problem::invalid_request("X-Device-ID is required: the id of this device"))
}

/// The device, where a request need not name one.
///
/// # Errors
/// 400 if the header's value is no name.
pub fn device_if_any(headers: &HeaderMap) -> Result<Option<DeviceId>, Problem> {
    let Some(value) = single(headers, DEVICE_ID, "X-Device-ID")? else { return Ok(None) };
    // Bytes that are no ASCII are no name either.
    DeviceId::new(value.to_str().unwrap_or_default())
        .map(Some)
        .map_err(|e| Problem::invalid_request(format!("X-Device-ID {e}")))
}

/// The request's Idempotency-Key, if it has one.
///
/// # Errors
/// 400 if it is not 1 to 128 printable ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = single(headers, IDEMPOTENCY_KEY, "Idempotency-Key")? else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&bytes.len());
    let printable = bytes.iter().all(|b| (0x20..=0x7e).contains(b));
    match value.to_str() {
        Ok(key) if fits && printable => Ok(Some(key)),
        _ => Err(Problem::invalid_request(format!(
            "Idempotency-Key takes 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        ))),
    }
}

/// Whether the caller wants no wait for the outcome: `Prefer: respond-async` (RFC 7240).
pub fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|preference| {
        let token = preference.split(';').next().unwrap_or_default();
        token.trim().eq_ignore_ascii_case("respond-async")
    })
}

/// A header that may stand once: of two, which one counts is anyone's guess.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &str,
    shown: &str,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => {
            Err(Problem::invalid_request(format!("{shown} takes one value, sent were several")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_device_is_a_name() {
        assert_eq!(device(&with(DEVICE_ID, &[b"laptop-1"])).unwrap().as_str(), "laptop-1");
        let bad: [&[&[u8]]; 7] =
            [&[], &[b""], &[b"a/b"], &[b".."], &[b"a%00"], &[b"caf\xe9"], &[b"a", b"b"]];
        for bad in bad {
            let problem = device(&with(DEVICE_ID, bad)).unwrap_err();
            assert_eq!(problem.code(), "INVALID_REQUEST");
            assert!(problem.detail().starts_with("X-Device-ID "), "{}", problem.detail());
        }
        assert_eq!(device_if_any(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn an_idempotency_key_is_printable_ascii() {
        let long = [b'k'; IDEMPOTENCY_KEY_BYTES_MAX];
        for good in [&b"k"[..], b"a/b c~!", &long] {
            assert!(idempotency_key(&with(IDEMPOTENCY_KEY, &[good])).unwrap().is_some());
        }
        let longer = [b'k'; IDEMPOTENCY_KEY_BYTES_MAX + 1];
        let bad: [&[&[u8]]; 5] = [&[b""], &[&longer], &[b"a\tb"], &[b"\xc3\xa9"], &[b"a", b"a"]];
        for bad in bad {
            let problem = idempotency_key(&with(IDEMPOTENCY_KEY, bad)).unwrap_err();
            assert!(problem.detail().starts_with("Idempotency-Key takes"), "{}", problem.detail());
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn respond_async_is_one_of_the_preferences() {
        let prefers = |value: &[u8]| prefers_async(&with("prefer", &[value]));
        assert!(prefers(b"respond-async") && prefers(b"wait=3, Respond-Async;x=1"));
        assert!(!prefers(b"wait=3") && !prefers_async(&HeaderMap::new()));
    }
}
