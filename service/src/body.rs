//! Reading a request's body within bounds.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::problem::Problem;

/// Room reserved at first for a body that announces its size, in bytes: the announcement alone
/// must not make the server take memory.
const RESERVE_BYTES: u64 = 64 * 1024;

/// Reads a whole body of at most `max_bytes` within `timeout`. `limit_name` stands in the error.
///
/// # Errors
/// 413 if it is larger (judged by `Content-Length` before anything is read, and by counting);
/// 400 if it does not arrive in time or breaks off.
pub async fn read_body(
    body: Body,
    limit_name: &str,
    max_bytes: u64,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    let announced = body.size_hint().lower();
    if announced > max_bytes {
        return Err(Problem::payload_too_large(limit_name, max_bytes, Some(announced)));
    }
    match tokio::time::timeout(timeout, collect(body, limit_name, max_bytes)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::invalid_request(format!(
            "The body did not arrive within {} s",
            timeout.as_secs_f64()
        ))
        .resolution("Retry on a faster connection, or send less at once")),
    }
}

async fn collect(mut body: Body, limit_name: &str, max_bytes: u64) -> Result<Bytes, Problem> {
    // Most bodies are one frame: those are handed on without a copy.
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() as u64 > max_bytes {
        return Err(Problem::payload_too_large(limit_name, max_bytes, None));
    }
    let Some(second) = next(&mut body).await? else { return Ok(first) };
    let reserve = (body.size_hint().lower().min(RESERVE_BYTES)) as usize;
    let mut whole = BytesMut::with_capacity(first.len() + second.len() + reserve);
    whole.extend_from_slice(&first);
    let mut frame = Some(second);
    while let Some(data) = frame {
        if (whole.len() + data.len()) as u64 > max_bytes {
            return Err(Problem::payload_too_large(limit_name, max_bytes, None));
        }
        whole.extend_from_slice(&data);
        frame = next(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next data frame that is not empty; trailers are passed over.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
            Some(Err(error)) => {
                return Err(Problem::invalid_request("The body broke off").cause(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    const SECOND: Duration = Duration::from_secs(1);

    fn chunked(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok::<_, std::io::Error>(*c)).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn whole_bodies_are_read() {
        for (body, whole) in [
            (Body::empty(), ""),
            (Body::from("abc"), "abc"),
            (chunked(&["ab", "", "c", "def"]), "abcdef"),
        ] {
            assert_eq!(read_body(body, "b", 6, SECOND).await.unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn more_than_the_limit_is_refused_announced_or_not() {
        let announced = read_body(Body::from("abcd"), "b", 3, SECOND).await.unwrap_err();
        assert_eq!(announced.detail(), "b is 3, sent was 4");
        for chunks in [&["abcd"][..], &["ab", "c", "d"]] {
            let counted = read_body(chunked(chunks), "b", 3, SECOND).await.unwrap_err();
            assert_eq!(
                (counted.status().as_u16(), counted.detail()),
                (413, "b is 3, sent was more")
            );
        }
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_a_bad_request() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = read_body(body, "b", 3, Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(problem.status().as_u16(), 400);
    }

    #[tokio::test]
    async fn a_broken_body_is_a_bad_request() {
        let broken = std::io::Error::other("reset");
        let body = Body::from_stream(stream::iter([Ok("a"), Err(broken)]));
        let problem = read_body(body, "b", 3, SECOND).await.unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.detail()), (400, "The body broke off"));
    }
}
