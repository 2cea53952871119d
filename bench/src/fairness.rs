//! What one tenant feels of another's storm.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Failure,
    http::{Connection, request},
    load::{Measured, Work, run},
    scenarios::Push,
    server::{Server, token_of},
};

/// What a tenant may send here: a part of what one machine takes, as an operator would set it. What is measured is
/// what the limit leaves to the others, not what a tenant may take from them.
pub(crate) const RATES: [&str; 3] = [
    "--device-requests-per-second=50",
    "--user-requests-per-second=200",
    "--tenant-requests-per-second=500",
];

/// Devices of a quiet tenant, and how often each asks.
const QUIET: usize = 16;
const QUIET_PACE: Duration = Duration::from_millis(100);
/// Devices of the other, a user each. Together they send four times what their tenant may; or, for what they may, a little
/// less than that.
const STORM: usize = 64;
const STORM_PACE: Duration = Duration::from_millis(32);
const ALLOWED_PACE: Duration = Duration::from_millis(140);
/// Messages of a page.
const PAGE: usize = 100;

/// What both tenants do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Pushes of one message.
    Push,
    /// Pulls of a hundred.
    Pull,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }
}

/// What a quiet tenant's requests took.
pub(crate) struct Felt {
    pub(crate) alone: Measured,
    /// Beside a tenant that sends what it may: the work is done, for whoever asked for it.
    pub(crate) beside_allowed: Measured,
    pub(crate) in_storm: Measured,
    /// Which part of the storm was refused: without any it was none, and nothing was measured.
    pub(crate) refused: f64,
}

/// Measures a tenant alone, while another one sends what it may, and while that sends too much.
pub(crate) async fn feel(server: &Server, kind: Kind, time: Duration) -> Result<Felt, Failure> {
    let answers = Arc::<Answers>::default();
    let quiet = async || devices("quiet", QUIET, server, kind, None).await;
    let others = async |answers| devices("storm", STORM, server, kind, answers).await;
    let alone = run(quiet().await?, time, QUIET_PACE).await?;
    let (own, allowed) = (quiet().await?, others(None).await?);
    let (beside_allowed, _) =
        tokio::try_join!(run(own, time, QUIET_PACE), run(allowed, time, ALLOWED_PACE))?;
    let (own, storm) = (quiet().await?, others(Some(answers.clone())).await?);
    let (in_storm, _) = tokio::try_join!(run(own, time, QUIET_PACE), run(storm, time, STORM_PACE))?;
    Ok(Felt { alone, beside_allowed, in_storm, refused: answers.refused()? })
}

async fn devices(
    tenant: &str,
    count: usize,
    server: &Server,
    kind: Kind,
    storm: Option<Arc<Answers>>,
) -> Result<Vec<Device>, Failure> {
    let mut devices = Vec::new();
    for i in 0..count {
        let user = format!("u{i}");
        let asks = match kind {
            Kind::Push => Asks::Push(Push::of(tenant, server, &user, 1).await?),
            Kind::Pull => {
                Push::of(tenant, server, &user, PAGE).await?.once().await?; // something to pull
                Asks::Pull(Page::of(tenant, server, &user).await?)
            }
        };
        devices.push(Device { asks, storm: storm.clone() });
    }
    Ok(devices)
}

struct Device {
    asks: Asks,
    /// It is part of one, and may be refused.
    storm: Option<Arc<Answers>>,
}

enum Asks {
    Push(Push),
    Pull(Page),
}

/// What the storm was answered.
#[derive(Default)]
struct Answers {
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Work for Device {
    async fn once(&mut self) -> Result<(), Failure> {
        let (status, said) = match &mut self.asks {
            Asks::Push(push) => push.send().await?,
            Asks::Pull(page) => page.pull().await?,
        };
        match (status, &self.storm) {
            (200, None) => {}
            (200, Some(answers)) => _ = answers.taken.fetch_add(1, Ordering::Relaxed),
            (429, Some(answers)) => _ = answers.refused.fetch_add(1, Ordering::Relaxed),
            (status, _) => {
                return Err(format!("a device was answered with {status}: {said}").into());
            }
        }
        Ok(())
    }
}

impl Answers {
    fn refused(&self) -> Result<f64, Failure> {
        let [taken, refused] =
            [&self.taken, &self.refused].map(|count| count.load(Ordering::Relaxed) as f64);
        match refused > 0.0 {
            true => Ok(refused / (taken + refused)),
            false => Err("the storm was none: nothing of it was too much".into()),
        }
    }
}

/// The first page of a user's scope, again and again.
struct Page {
    connection: Connection,
    request: Vec<u8>,
}

impl Page {
    async fn of(tenant: &str, server: &Server, user: &str) -> Result<Self, Failure> {
        let token = format!("Bearer {}", token_of(tenant, user)?);
        let headers = [("authorization", token.as_str()), ("x-device-id", "bench")];
        let path = format!("/api/v1/context/pull?cursor=0&limit={PAGE}");
        let connection = Connection::open(&server.api).await?;
        Ok(Self { connection, request: request("GET", &path, &headers, b"") })
    }

    /// The status and, of a refusal, what it says.
    async fn pull(&mut self) -> Result<(u16, String), Failure> {
        let answer = self.connection.send(&self.request).await?;
        match answer.status {
            200 if answer.body.starts_with(b"{\"messages\":[{") => Ok((200, String::new())),
            status => Ok((status, String::from_utf8_lossy(answer.body).into_owned())),
        }
    }
}
