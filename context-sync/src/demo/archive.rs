//! The team is backed up, lost, and restored; the archive proves itself.

use std::{collections::BTreeMap, time::Duration};

use archive::{
    Archive, ArchiveConfig,
    manifest::ManifestReader,
    table::{EventFiles, RecordVerdict, StoredEvent},
    verify::{Sample, verify},
};
use device::wire::{self, Pulled};
use model::{Digest, RestoreMode, Status, UserId, Verdict};
use serde_json::{json, value::RawValue};

use super::{
    must,
    world::{World, pull_all},
};
use crate::{
    Failure,
    dev::data_dir::DataDir,
    device::{
        client::{Client, backups::Backup},
        progress::Progress,
    },
};

/// Messages deleted by one push.
const DELETED_AT_ONCE: usize = 500;
const BACKUP_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A backup on demand, and what the team's messages came to then.
pub struct Saved {
    owner: Client,
    backup: Backup,
    digest: Digest,
    count: u64,
}

impl Saved {
    /// Backs the team up.
    pub async fn new(world: &World<'_>) -> Result<(Self, String), Failure> {
        let owner = world.device(world.owner()?, "laptop")?;
        let (_, page) = pull_all(&owner, &world.team, |_| {}).await?;
        let backup = tokio::time::timeout(BACKUP_WITHIN, owner.back_up(&world.team))
            .await
            .map_err(|_| format!("there was no backup within {BACKUP_WITHIN:?}"))??;
        must(backup.digest == Some(page.digest), || {
            format!("the backup's digest is {:?}, the team's {}", backup.digest, page.digest)
        })?;
        let (records, bytes) = (backup.record_count.unwrap_or(0), backup.size_bytes.unwrap_or(0));
        let shown = format!("{records} messages in {} KB, read back, digest equal", bytes / 1024);
        Ok((Self { owner, backup, digest: page.digest, count: page.count }, shown))
    }

    /// Everything is deleted; a replace brings it back.
    pub async fn replace(&self, world: &World<'_>, progress: &Progress) -> Result<String, Failure> {
        let messages = self.messages(world).await?;
        self.delete(world, &messages, progress).await?;
        let (_, page) = pull_all(&self.owner, &world.team, |_| {}).await?;
        must(page.count == 0, || format!("{} messages are left", page.count))?;
        let came = self.restore(world, RestoreMode::Replace).await?;
        must(came == self.count, || format!("{came} of {} came back", self.count))?;
        self.must_be_as_saved(world, "replace").await?;
        Ok(format!("{came} deleted; restored by replace: count and digest equal"))
    }

    /// Everything is deleted and something new is there; a merge brings everything back, and what is new stays.
    ///
    /// What comes back has new cursors. The digest is of ids and versions, which are the backup's: that of what came
    /// back is equal.
    pub async fn merge(&self, world: &World<'_>, progress: &Progress) -> Result<String, Failure> {
        let messages = self.messages(world).await?;
        self.delete(world, &messages, progress).await?;
        let news = json!({ "type": "insight", "content": "Written after the backup" });
        let news = serde_json::value::to_raw_value(&news)?;
        let pushed = self.owner.push(&world.team, [&*news]).await?;
        let new = pushed.results.first().filter(|result| result.status == Status::Created);
        let new = new.and_then(|result| result.id).ok_or("the new message was not created")?;
        let came = self.restore(world, RestoreMode::Merge).await?;
        must(came == self.count, || format!("{came} of {} came back", self.count))?;
        let after = self.messages(world).await?;
        let (news, back): (Vec<_>, Vec<_>) = after.iter().partition(|message| message.id == new);
        must(news.len() == 1, || "what was new is gone".to_owned())?;
        let digest = wire::digest(back.iter().copied());
        must((back.len() as u64, digest) == (self.count, self.digest), || {
            format!("{} messages with digest {digest} came back", back.len())
        })?;
        Ok(format!("{came} deleted; restored by merge: digest of these equal, what was new stayed"))
    }

    async fn restore(&self, world: &World<'_>, mode: RestoreMode) -> Result<u64, Failure> {
        let restored = self.owner.restore(&world.team, self.backup.id, mode).await??;
        must(restored.restored + restored.skipped == self.count, || format!("{restored:?}"))?;
        Ok(restored.restored)
    }

    /// The live messages of the team.
    async fn messages(&self, world: &World<'_>) -> Result<Vec<Pulled>, Failure> {
        let (messages, _) = pull_all(&self.owner, &world.team, |_| {}).await?;
        Ok(messages.into_iter().filter(|message| !message.deleted).collect())
    }

    async fn delete(
        &self,
        world: &World<'_>,
        messages: &[Pulled],
        progress: &Progress,
    ) -> Result<(), Failure> {
        progress.set_total(messages.len() as u64);
        for part in messages.chunks(DELETED_AT_ONCE) {
            let delete = |message: &Pulled| {
                let delete =
                    json!({ "id": message.id, "deleted": true, "base_cursor": message.cursor });
                serde_json::value::to_raw_value(&delete)
            };
            let deletes: Vec<Box<RawValue>> = part.iter().map(delete).collect::<Result<_, _>>()?;
            let answer = self.owner.push(&world.team, deletes.iter().map(|d| &**d)).await?;
            let left = answer.results.iter().find(|result| result.status != Status::Deleted);
            must(left.is_none(), || format!("{left:?} instead of deleted"))?;
            progress.add(part.len() as u64);
        }
        Ok(())
    }

    async fn must_be_as_saved(&self, world: &World<'_>, mode: &str) -> Result<(), Failure> {
        let (_, page) = pull_all(&self.owner, &world.team, |_| {}).await?;
        must((page.count, page.digest) == (self.count, self.digest), || {
            format!("after {mode} it is {} messages with digest {}", page.count, page.digest)
        })
    }
}

/// What `context-sync ops verify` does: every manifest, every object, every state, once an hour is sealed.
pub async fn verified(world: &World<'_>, data_dir: &DataDir) -> Result<String, Failure> {
    let owner = world.device(world.owner()?, "laptop")?;
    let sealed = async {
        loop {
            let backups = owner.backups(&world.team).await?;
            if backups.iter().any(is_of_an_hour) {
                return Ok::<_, Failure>(());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(BACKUP_WITHIN, sealed)
        .await
        .map_err(|_| format!("no hour was sealed within {BACKUP_WITHIN:?}"))??;
    let archive = Archive::open(&ArchiveConfig::new(data_dir.archive()))?;
    let report = verify(&archive, Sample::ALL, |_, _| {}).await?;
    let problem = report.problems.first();
    must(problem.is_none(), || {
        problem.map(|p| format!("{}: {}", p.path, p.problem)).unwrap_or_default()
    })?;
    Ok(format!(
        "{} manifests and {} objects read whole, {} states recomputed: well",
        report.manifests, report.objects_read, report.states_read
    ))
}

fn is_of_an_hour(backup: &Backup) -> bool {
    backup.gcs_path.as_ref().is_some_and(|path| path.contains("/incremental/"))
}

/// An analyst's question: who contributed how much to the team? It is counted by this program, with the archive's own
/// reader: from the manifests of the hours and the Parquet files of events that they list, and nothing else.
/// docs/analytics.md asks it of the Parquet of messages, in SQL.
pub async fn contributions(world: &World<'_>, data_dir: &DataDir) -> Result<String, Failure> {
    let archive = Archive::open(&ArchiveConfig::new(data_dir.archive()))?;
    // Each was created once, by whoever said it first.
    let contents = world.contents()?.len() as u64;
    let all = async {
        loop {
            let contributed = contributed(world, &archive).await?;
            if contributed.values().sum::<u64>() >= contents {
                return Ok::<_, Failure>(contributed);
            }
            tokio::time::sleep(ASK_EVERY).await; // their hour is open
        }
    };
    let contributed = tokio::time::timeout(BACKUP_WITHIN, all)
        .await
        .map_err(|_| format!("not all messages were sealed within {BACKUP_WITHIN:?}"))??;
    let mut people: Vec<_> = contributed.into_iter().collect();
    people.sort_by_key(|(_, messages)| std::cmp::Reverse(*messages));
    let most = people.iter().take(3).map(|(user, messages)| format!("{user} {messages}"));
    let most: Vec<_> = most.collect();
    Ok(format!("counted by this program from the Parquet of events: {}", most.join(", ")))
}

/// What each person contributed in the hours that are sealed.
async fn contributed(
    world: &World<'_>,
    archive: &Archive,
) -> Result<BTreeMap<UserId, u64>, Failure> {
    let mut files = EventFiles::new(archive);
    let mut contributed = BTreeMap::new();
    for (path, _) in archive.list("manifests").await? {
        if path.contains("/hour/") {
            let hour = ManifestReader::new(archive.fetch(&path).await?, &path)?.header;
            for event in files.open(&hour).await? {
                if let Some((user, messages)) = contribution(world, &event?) {
                    *contributed.entry(user).or_default() += messages;
                }
            }
        }
    }
    Ok(contributed)
}

/// Who pushed to the team, and how many messages were new or changed by it: to delete is not to contribute.
fn contribution(world: &World<'_>, event: &StoredEvent) -> Option<(UserId, u64)> {
    let is_the_team = event.key == world.team_key().as_bytes();
    if !is_the_team || event.verdict != Some(RecordVerdict::Accepted) {
        return None;
    }
    let outcome = event.outcome.as_ref()?;
    match &outcome.verdict {
        Verdict::Pushed(answer) => {
            let contributed =
                |status| matches!(status, Status::Created | Status::Updated | Status::Revived);
            let results = answer.results.iter().filter(|result| contributed(result.status));
            Some((outcome.actor.clone(), results.count() as u64))
        }
        _ => None,
    }
}
