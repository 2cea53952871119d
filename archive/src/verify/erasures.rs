//! What was erased: it is written down before the hour's manifest, and what a fold goes on from is left.

use std::collections::HashSet;

use model::{Cursor, LogId, Partition, ScopeKey};

use crate::{
    erasure::{Erasure, REQUEST},
    error::ArchiveError,
    manifest::{BackupObject, ScopeLine},
    path,
    verify::{Verifier, course::Course},
};

/// The erasures that the manifests of a partition show.
#[derive(Default)]
pub(super) struct Shown {
    /// The hour's manifest, the scope, and the cursor that the erasure took.
    requested: Vec<(String, ScopeKey, Cursor)>,
    /// The fulls from before, of scopes that have no later one: a fold goes on from what is left of them.
    gone_on_from: Vec<(ScopeKey, BackupObject)>,
}

impl Shown {
    /// An hour shows an erasure; `before`: what the scope was up to it.
    pub(super) fn push(&mut self, manifest: &str, line: &ScopeLine, before: Option<&Course>) {
        self.requested.push((manifest.to_owned(), line.scope.clone(), line.erased));
        let full = before.and_then(Course::full).cloned();
        self.gone_on_from.extend(full.map(|full| (line.scope.clone(), full)));
    }

    /// A later full: a fold goes on from that.
    pub(super) fn forget(&mut self, scope: &ScopeKey) {
        self.gone_on_from.retain(|(own, _)| own != scope);
    }
}

impl Verifier<'_> {
    /// Once all manifests were read: what they show has its request, and what is left where its backups are deleted.
    pub(super) async fn check_erasures(
        &mut self,
        log: LogId,
        partition: Partition,
        shown: Shown,
    ) -> Result<(), ArchiveError> {
        let requests = self.read_requests(log, partition).await?;
        for (manifest, scope, cursor) in shown.requested {
            if !requests.contains(&(scope.clone(), cursor)) {
                self.problem(
                    &manifest,
                    format!("{scope} was erased at {cursor}: no request says so"),
                );
            }
        }
        for (_, full) in shown.gone_on_from {
            if !self.stored.contains_key(&full.path) && !self.left.contains(&full.sha256) {
                let path = path::redacted_full(&full.sha256);
                self.problem(&path, format!("it is missing: what was left of {}", full.path));
            }
        }
        Ok(())
    }

    async fn read_requests(
        &mut self,
        log: LogId,
        partition: Partition,
    ) -> Result<HashSet<(ScopeKey, Cursor)>, ArchiveError> {
        let mut requests = HashSet::new();
        for (path, _) in self.archive.list(&path::erasures(log, partition)).await? {
            if !path.ends_with(REQUEST) {
                continue;
            }
            let read = match self.archive.fetch(&path).await {
                Ok(object) => Erasure::read(object, &path),
                Err(error) => Err(error),
            };
            let request = self.keep(read)?;
            requests.extend(request.map(|request| (request.scope, request.cursor)));
        }
        Ok(requests)
    }
}
