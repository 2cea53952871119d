//! Which epoch is in force, looked up seldom: it changes with a recovery, a loss of the read model, or a rebuild.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use contract::problems;
use model::{Epoch, ScopeKey};
use readmodel::{
    Pool,
    epochs::{self, Kept},
    pull,
};
use service::Problem;

/// How long an epoch is taken as it was.
const KNOWN_FOR: Duration = Duration::from_secs(10);

pub(crate) struct CurrentEpoch {
    pool: Pool,
    known: Mutex<Option<(Epoch, Instant)>>,
}

impl CurrentEpoch {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, known: Mutex::new(None) }
    }

    /// What the scope kept of an epoch: all, if it is the one in force.
    ///
    /// # Errors
    /// 503 if the read model cannot be asked.
    pub(crate) async fn kept(&self, scope: &ScopeKey, epoch: Epoch) -> Result<Kept, Problem> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|(current, at)| current == epoch && at.elapsed() < KNOWN_FOR) {
            return Ok(Kept::ALL);
        }
        // Another one than remembered is asked anew: the device may know better.
        let current = pull::epoch(&self.pool).await.map_err(|e| problems::of_read_model(&e))?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((current, Instant::now()));
        epochs::kept(&self.pool, scope.reference(), Some(epoch), current)
            .await
            .map_err(|e| problems::of_read_model(&e))
    }
}
