//! Tombstones that are over their time: an event for each scope says so, and every copy of the fold forgets them.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{Action, Command, CommandId, OrgRole, Partition, RequestHash, Timestamp, UserId};

use crate::{
    cache::{OldPart, OldTombstones},
    error::ArchiverError,
    expiry::{Expiry, Told},
    measure::TOMBSTONES,
    workers::blocking,
};

/// Scopes whose events are appended at the same time.
const AT_ONCE: usize = 16;

impl Expiry {
    /// Says of each scope which tombstones have expired; with `dry_run` only to whoever is told. Said twice, or by two
    /// archivers, it is the same event.
    pub(crate) async fn expire_tombstones(
        &self,
        now: Timestamp,
        dry_run: bool,
        told: &mut Told,
    ) -> Result<(), ArchiverError> {
        let Some(before) = self.retention.tombstones_before(now) else { return Ok(()) };
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let mut after = None;
            loop {
                let cache = self.cache.clone();
                let find =
                    move || Ok(cache.read(partition)?.old_tombstones(partition, after, before)?);
                let (old, next) = blocking(find).await?;
                let said = stream::iter(old).map(|old| async {
                    if !dry_run {
                        self.say(&old).await?;
                    }
                    Ok::<_, ArchiverError>(old)
                });
                let mut said = std::pin::pin!(said.buffered(AT_ONCE));
                while let Some(old) = said.try_next().await? {
                    told.tell_tombstones(&old).await;
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn say(&self, old: &OldTombstones) -> Result<(), ArchiverError> {
        let scope = &old.scope;
        // In their order: each lets go of no more than its own.
        for OldPart { up_to, count } in old.parts.iter().copied() {
            let command = Command {
                id: CommandId::of_expiry(scope, up_to),
                scope: scope.clone(),
                actor: UserId::archiver(),
                org_role: OrgRole::Member,
                device: None,
                request_hash: RequestHash::of(&[]),
                action: Action::TombstonesExpired { up_to },
            };
            let value = schemas::encode_command(&command)
                .map_err(|error| ArchiverError::Unencodable(error.to_string()))?;
            self.log.append(Bytes::from(scope.to_string()), Bytes::from(value)).await?;
            metrics::counter!(TOMBSTONES).increment(count);
            tracing::info!(%scope, %up_to, count, "tombstones have expired");
        }
        Ok(())
    }
}
