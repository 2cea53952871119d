//! One connection, from its first byte to its close.
//!
//! hyper knows one timer for all waiting on a header, idle keep-alive included, and none for
//! writing. Both are needed apart (a load balancer idles for a minute; a header that takes a
//! minute is an attack), so the time is kept here, around the socket.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::{Request, Response};
use axum::Router;
use axum::body::Body;
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::limits::{HttpLimits, seconds};

/// How long a closing connection still reads what the client sends: closing with unread bytes
/// resets the connection, and the client would lose the answer that says why.
const LINGER: Duration = Duration::from_secs(2);

/// hyper stops reading a header at this multiple of the limit. Up to there the envelope answers
/// with a problem; beyond, hyper with a bare 431.
const HARD_HEADER_FACTOR: usize = 2;

/// Serves the requests of one connection; ends when it is closed, by either side.
pub(crate) async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: Arc<HttpLimits>,
    shutdown: CancellationToken,
) {
    let phase = Arc::new(Phase::default());
    let io = TimedIo::new(stream, phase.clone(), &limits);
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes as usize * HARD_HEADER_FACTOR)
        .serve_connection(TokioIo::new(io), Routed { router, phase });
    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = shutdown.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    let answered = match ended {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "connection ended");
            error.is_parse()
        }
    };
    if answered {
        linger(connection.into_parts().io.into_inner().stream).await;
    }
}

/// Closes our side, then takes what is still on its way, for a bounded time.
async fn linger(mut stream: TcpStream) {
    let discard = async {
        stream.shutdown().await?;
        let mut sink = [0u8; 8 * 1024];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // The connection is over either way.
    let _ = tokio::time::timeout(LINGER, discard).await;
}

/// What a connection is waiting for. The count in the upper bits tells one wait from the next of
/// the same kind.
#[derive(Default)]
struct Phase(AtomicU64);

/// Connected, nothing received.
const FRESH: u64 = 0;
/// Part of a header received.
const HEAD: u64 = 1;
/// A request is being answered.
const BUSY: u64 = 2;
/// Between requests.
const IDLE: u64 = 3;

const KIND_BITS: u32 = 2;

impl Phase {
    // Relaxed: a connection is polled by one task at a time.
    fn word(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn kind(word: u64) -> u64 {
        word & ((1 << KIND_BITS) - 1)
    }

    fn enter(&self, kind: u64) {
        let count = self.word() >> KIND_BITS;
        self.0.store((count.wrapping_add(1) << KIND_BITS) | kind, Ordering::Relaxed);
    }
}

/// A socket whose waits end: for a header, between requests, and for a client that does not read.
struct TimedIo {
    stream: TcpStream,
    phase: Arc<Phase>,
    header: Duration,
    keep_alive: Duration,
    write: Duration,
    reading: Timer,
    /// The phase that `reading` was set for.
    timed: Option<u64>,
    writing: Timer,
    stalled: bool,
}

impl TimedIo {
    fn new(stream: TcpStream, phase: Arc<Phase>, limits: &HttpLimits) -> Self {
        Self {
            stream,
            phase,
            header: seconds(limits.header_seconds),
            keep_alive: seconds(limits.keep_alive_seconds),
            write: seconds(limits.write_seconds),
            reading: Timer::default(),
            timed: None,
            writing: Timer::default(),
            stalled: false,
        }
    }

    /// Nothing to read: is the time for this wait over?
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let word = self.phase.word();
        let time = match Phase::kind(word) {
            FRESH | HEAD => self.header,
            IDLE => self.keep_alive,
            _ => return Poll::Pending,
        };
        if self.timed != Some(word) {
            // The first header is timed from the connection's start.
            let goes_on = self.timed == Some(FRESH) && Phase::kind(word) == HEAD;
            if !goes_on {
                self.reading.set(time);
            }
            self.timed = Some(word);
        }
        self.reading.poll(cx, "the client sent no whole request in time")
    }

    fn poll_write_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stalled {
            self.stalled = true;
            self.writing.set(self.write);
        }
        self.writing.poll(cx, "the client did not read its answer in time")
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        self.poll_write_deadline(cx).map_ok(|()| 0)
    }
}

/// A deadline that mostly moves on before it is reached. Moving it later costs a comparison: the
/// runtime's timer is left as it is, and set again if it fires early.
#[derive(Default)]
struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn set(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        self.deadline = Some(deadline);
        match &mut self.sleep {
            Some(sleep) if sleep.deadline() > deadline => sleep.as_mut().reset(deadline),
            Some(_) => {}
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }

    /// Pending until the deadline, then an error.
    fn poll(&mut self, cx: &mut Context<'_>, what: &'static str) -> Poll<io::Result<()>> {
        let (Some(deadline), Some(sleep)) = (self.deadline, &mut self.sleep) else {
            return Poll::Pending;
        };
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl AsyncRead for TimedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.poll_read_deadline(cx),
            ready => {
                let word = self.phase.word();
                if buf.filled().len() > before && matches!(Phase::kind(word), FRESH | IDLE) {
                    self.phase.enter(HEAD);
                }
                ready
            }
        }
    }
}

impl AsyncWrite for TimedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Once an answer is out, hyper reads again only when the socket wakes it: the idle time
        // is set here, and found over by the read that follows its end.
        if Phase::kind(self.phase.word()) == IDLE && self.poll_read_deadline(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The router as hyper calls it, noting when a request begins and when its answer is out.
struct Routed {
    router: Router,
    phase: Arc<Phase>,
}

impl hyper::service::Service<Request<Incoming>> for Routed {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.phase.enter(BUSY);
        let done = Done(self.phase.clone());
        Answering { inner: self.router.clone().call(request), done: Some(done) }
    }
}

struct Answering {
    inner: RouteFuture<Infallible>,
    done: Option<Done>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match ready!(Pin::new(&mut self.inner).poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let done = self.done.take();
        Poll::Ready(Ok(response.map(|body| Answer { body, _done: done })))
    }
}

/// A response body; its end is the end of the request.
struct Answer {
    body: Body,
    _done: Option<Done>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Done(Arc<Phase>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.enter(IDLE);
    }
}
