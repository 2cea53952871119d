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
    load::{Measured, Work, run},
    scenarios::Push,
    server::Server,
};

/// What a tenant may send here: a part of what one machine takes, as an operator would set it. What is measured is
/// what the limit leaves to the others, not what a tenant may take from them.
pub(crate) const RATES: [&str; 3] = [
    "--device-requests-per-second=50",
    "--user-requests-per-second=200",
    "--tenant-requests-per-second=500",
];

/// Devices of a quiet tenant, and how often each pushes.
const QUIET: usize = 16;
const QUIET_PACE: Duration = Duration::from_millis(100);
/// Devices of the other, a user each. Together they send four times what their tenant may.
const STORM: usize = 64;
const STORM_PACE: Duration = Duration::from_millis(32);

/// Pushes of a quiet tenant.
pub(crate) struct Felt {
    pub(crate) alone: Measured,
    pub(crate) in_storm: Measured,
    /// Which part of the storm was refused: without any it was none, and nothing was measured.
    pub(crate) refused: f64,
}

/// Pushes that may be too many.
struct Storm {
    push: Push,
    answers: Arc<Answers>,
}

/// What the storm was answered.
#[derive(Default)]
struct Answers {
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Work for Storm {
    async fn once(&mut self) -> Result<(), Failure> {
        let Answers { taken, refused } = &*self.answers;
        match self.push.send().await? {
            (200, _) => taken.fetch_add(1, Ordering::Relaxed),
            (429, _) => refused.fetch_add(1, Ordering::Relaxed),
            (status, body) => {
                return Err(format!("the storm was answered with {status}: {body}").into());
            }
        };
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

/// Measures a tenant alone, and then while another one sends too much.
pub(crate) async fn feel(server: &Server, time: Duration) -> Result<Felt, Failure> {
    let alone = run(quiet(server).await?, time, QUIET_PACE).await?;
    let (mut storm, answers) = (Vec::new(), Arc::<Answers>::default());
    for i in 0..STORM {
        let push = Push::of("storm", server, &format!("u{i}"), 1).await?;
        storm.push(Storm { push, answers: answers.clone() });
    }
    let quiet = quiet(server).await?;
    let (in_storm, _) =
        tokio::try_join!(run(quiet, time, QUIET_PACE), run(storm, time, STORM_PACE))?;
    Ok(Felt { alone, in_storm, refused: answers.refused()? })
}

async fn quiet(server: &Server) -> Result<Vec<Push>, Failure> {
    let mut workers = Vec::new();
    for i in 0..QUIET {
        workers.push(Push::of("quiet", server, &format!("u{i}"), 1).await?);
    }
    Ok(workers)
}
