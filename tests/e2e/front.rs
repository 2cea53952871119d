//! What stands between devices and a node, and goes wrong: requests and answers are lost, come twice, or late.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use simulation::random::Random;

const BODY_BYTES_MAX: usize = 16 << 20;
/// Of the answers' headers, what a client looks at.
const PASSED_ON: [&str; 3] = ["content-type", "location", "retry-after"];

#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

struct Inner {
    client: reqwest::Client,
    now: Mutex<Now>,
}

struct Now {
    /// The node's; another one after each restart.
    node: String,
    /// Of a hundred requests, so many go wrong.
    faults: u32,
    random: Random,
}

enum Fate {
    Answered,
    Lost,
    AnswerLost,
    Twice,
    /// Once more, a little later.
    Late(u64),
}

impl Front {
    pub(crate) async fn start(node: &str) -> Self {
        let now = Now { node: node.to_owned(), faults: 0, random: Random::new(0) };
        let inner = Arc::new(Inner { client: reqwest::Client::new(), now: Mutex::new(now) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(pass).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, inner }
    }

    /// What goes wrong from now on.
    pub(crate) fn faults(&self, faults: u32, seed: u64) {
        self.inner.change(|now| (now.faults, now.random) = (faults, Random::new(seed)));
    }

    pub(crate) fn leads_to(&self, node: &str) {
        self.inner.change(|now| node.clone_into(&mut now.node));
    }
}

impl Inner {
    fn change<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fate(&self) -> Fate {
        self.change(|now| {
            if !now.random.chance(now.faults) {
                return Fate::Answered;
            }
            match now.random.below(4) {
                0 => Fate::Lost,
                1 => Fate::AnswerLost,
                2 => Fate::Twice,
                _ => Fate::Late(now.random.below(300) as u64),
            }
        })
    }

    async fn forward(&self, asked: &Asked) -> Result<Response, reqwest::Error> {
        let node = self.change(|now| now.node.clone());
        let request = self.client.request(asked.method.clone(), format!("{node}{}", asked.path));
        let request = request.headers(asked.headers.clone()).body(asked.body.clone());
        let answer = request.send().await?;
        let mut response = Response::builder().status(answer.status());
        for name in PASSED_ON {
            if let Some(value) = answer.headers().get(name) {
                response = response.header(name, value);
            }
        }
        Ok(response.body(Body::from(answer.bytes().await?)).unwrap())
    }
}

struct Asked {
    method: reqwest::Method,
    path: String,
    headers: reqwest::header::HeaderMap,
    body: Bytes,
}

async fn pass(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else { return broken() };
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut headers = parts.headers;
    headers.remove("host");
    headers.remove("content-length");
    let asked = Arc::new(Asked { method: parts.method, path, headers, body });
    let answer = match inner.fate() {
        Fate::Lost => return broken(),
        Fate::Twice => tokio::join!(inner.forward(&asked), inner.forward(&asked)).0,
        Fate::Late(millis) => {
            let (inner, asked) = (inner.clone(), asked.clone());
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
                drop(inner.forward(&asked).await);
            });
            return broken();
        }
        Fate::AnswerLost => {
            drop(inner.forward(&asked).await);
            return broken();
        }
        Fate::Answered => inner.forward(&asked).await,
    };
    answer.unwrap_or_else(|_| broken())
}

/// The connection breaks off in the answer.
fn broken() -> Response {
    let cut = stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    Response::new(Body::from_stream(cut))
}
