//! What a client of the XML API needs before fake-gcs-server, which takes no upload of that API.
//!
//! Each upload becomes one of the JSON API, whose precondition the stand-in keeps: one writer of many wins. Checksums
//! are compared, what is missing is answered with the real one's codes. And a front misbehaves as it is told, as
//! networks and stores do.

mod xml;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::LOOPBACK;
use xml::XmlApi;

/// How one request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, and nothing is done.
    Status(u16),
    /// The connection is closed, and nothing is done.
    Closed,
    /// It is done, but the connection is closed before the answer.
    AnswerLost,
    /// It is done, but the connection is closed in the middle of the answer's body.
    AnswerCut,
    /// It is done after so long.
    Slow(Duration),
    /// A bit of its body is flipped on the way.
    Garbled,
}

type Faults = Box<dyn Fn(&Parts) -> Option<Fault> + Send + Sync>;
type Body = BoxBody<Bytes, io::Error>;

/// A front. Dropped, it takes no more connections.
pub struct Front {
    url: String,
    api: Arc<XmlApi>,
    faults: Arc<Mutex<Option<Faults>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Front {
    /// Starts one before the stand-in at `http://host:port`.
    ///
    /// # Errors
    /// Where it gets no port.
    pub async fn start(stand_in: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((LOOPBACK, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let faults = Arc::new(Mutex::new(None));
        let api = Arc::new(XmlApi::new(stand_in));
        let accepting = tokio::spawn(accept(listener, api.clone(), faults.clone()));
        Ok(Self { url, api, faults, accepting })
    }

    /// Makes a bucket that no other test has. Returns its name.
    ///
    /// # Errors
    /// Where the stand-in does not answer.
    pub async fn make_bucket(&self) -> io::Result<String> {
        let name = format!("bucket-{}", uuid::Uuid::new_v4());
        self.api.make_bucket(&name).await.map_err(io::Error::other)?;
        Ok(name)
    }

    /// `http://host:port`, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on `faults` says what goes wrong with each request.
    pub fn misbehave(&self, faults: impl Fn(&Parts) -> Option<Fault> + Send + Sync + 'static) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(faults));
    }

    /// From now on nothing goes wrong.
    pub fn behave(&self) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn accept(listener: TcpListener, api: Arc<XmlApi>, faults: Arc<Mutex<Option<Faults>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, api.clone(), faults.clone()));
    }
}

/// Serves a connection until its end, which an error brings about.
async fn serve(stream: TcpStream, api: Arc<XmlApi>, faults: Arc<Mutex<Option<Faults>>>) {
    let service = service_fn(move |request| {
        let (api, faults) = (api.clone(), faults.clone());
        async move { answer(request, &api, &faults).await }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A client that goes away, or a fault: both are what tests are about.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    api: &XmlApi,
    faults: &Mutex<Option<Faults>>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let fault = {
        let faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.as_ref().and_then(|faults| faults(&parts))
    };
    match fault {
        Some(Fault::Status(status)) => return Ok(whole(xml::error(status, "Injected"))),
        Some(Fault::Closed) => return Err(closed()),
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Garbled) => body = garbled(&body),
        Some(Fault::AnswerLost | Fault::AnswerCut) | None => {}
    }
    let answer = api.answer(&parts, body).await.map_err(io::Error::other)?;
    match fault {
        Some(Fault::AnswerLost) => Err(closed()),
        Some(Fault::AnswerCut) => Ok(cut(answer)),
        _ => Ok(whole(answer)),
    }
}

fn garbled(body: &[u8]) -> Bytes {
    let mut garbled = body.to_vec();
    if let Some(byte) = garbled.last_mut() {
        *byte ^= 1;
    }
    garbled.into()
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn whole(answer: Response<Bytes>) -> Response<Body> {
    answer.map(|body| Full::new(body).map_err(|never: Infallible| match never {}).boxed())
}

/// The first half of the body, as if the rest would follow.
fn cut(answer: Response<Bytes>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    parts.headers.insert(http::header::CONTENT_LENGTH, body.len().into());
    let half = body.slice(..body.len() / 2);
    let frames = [Ok(Frame::data(half)), Err(closed())];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Response::from_parts(parts, BodyExt::boxed(body))
}
