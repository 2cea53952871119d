//! What scopes kept of the epochs that devices name.

use contract::problems;
use model::{Epoch, ScopeKey};
use readmodel::{
    Pool,
    epochs::{self, Kept},
    pull,
};
use service::Problem;

/// What the scope kept of an epoch: all, if it is the one in force. Asked anew each time: by an epoch that has ended a
/// base cursor would count as seen that says something else now.
///
/// # Errors
/// 503 if the read model cannot be asked.
pub(crate) async fn kept(pool: &Pool, scope: &ScopeKey, epoch: Epoch) -> Result<Kept, Problem> {
    let current = pull::epoch(pool).await.map_err(|e| problems::of_read_model(&e))?;
    epochs::kept(pool, scope.reference(), Some(epoch), current)
        .await
        .map_err(|e| problems::of_read_model(&e))
}
