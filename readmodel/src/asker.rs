//! The asker: asks the database for all who wait in this process.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::{
    DatabaseConfig, DatabaseRole, ReadModelError, connect,
    feed::{ASK_EVERY, Feed},
    outcomes::{Decided, decided},
    pool::Pool,
    pull::moved,
};

/// The channel on which projectors say that they have committed.
pub(crate) const CHANNEL: &str = "context_sync";

/// How long to wait before trying again after the database could not be asked.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the database may take until it tells what projectors say.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);

/// What this process has waiters for, and whether projectors elsewhere may move the read model.
pub struct Asker {
    pub feed: Arc<Feed>,
    pub config: DatabaseConfig,
    /// No other process can move the read model: what the feed is told is all there is, but for
    /// dead letters.
    pub exclusive: bool,
}

impl Asker {
    /// Asks until shutdown. A database that cannot be asked is asked again: waiters have deadlines
    /// of their own.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ReadModelError> {
        let small = DatabaseConfig { database_connections: 2, ..self.config.clone() };
        let outcomes = connect::pool(&small, DatabaseRole::Ingest)?;
        let heads = connect::pool(&small, DatabaseRole::Watcher)?;
        let mut listener = None;
        while !shutdown.is_cancelled() {
            if listener.is_none() && !self.exclusive {
                listener = listen(&self.config).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = notified(&mut listener) => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            if let Err(error) = self.ask(&outcomes, &heads).await {
                tracing::debug!(%error, "cannot ask the read model for those who wait");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        }
        drop(listener);
        outcomes.close().await;
        heads.close().await;
        Ok(())
    }

    async fn ask(&self, outcomes: &Pool, heads: &Pool) -> Result<(), ReadModelError> {
        let commands = self.feed.awaited_commands();
        if !commands.is_empty() {
            for ((id, _), decided) in commands.iter().zip(decided(outcomes, &commands).await?) {
                match decided {
                    Decided::NotYet => {}
                    Decided::Outcome(outcome) => self.feed.decided(*id, Some(&outcome)),
                    Decided::Nothing => self.feed.decided(*id, None),
                }
            }
        }
        let unheard = self.feed.heads_are_unsure() || !self.exclusive;
        let scopes = if unheard { self.feed.awaited_scopes() } else { Vec::new() };
        if !scopes.is_empty() {
            let heads = moved(heads, &scopes).await.inspect_err(|_| self.feed.doubt_heads())?;
            for (scope, head) in heads {
                self.feed.moved(scope, head);
            }
        }
        Ok(())
    }
}

async fn listen(config: &DatabaseConfig) -> Option<PgListener> {
    let listening = async {
        let mut listener = connect::listener(config).await.ok()?;
        listener.listen(CHANNEL).await.ok()?;
        Some(listener)
    };
    tokio::time::timeout(LISTEN_WITHIN, listening).await.unwrap_or(None)
}

/// Waits for a notification; for ever, if nobody listens.
async fn notified(listener: &mut Option<PgListener>) {
    let heard = match listener {
        Some(listener) => listener.recv().await,
        None => std::future::pending().await,
    };
    if heard.is_err() {
        *listener = None; // the connection broke: listen anew
    }
}
