//! Two devices of one user that change the same message.

use std::time::{SystemTime, UNIX_EPOCH};

use model::{Cursor, MessageId, PushResult, Status, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    must,
    world::{World, pull_all},
};
use crate::{
    Failure,
    device::{client::Client, scope::Scope},
};

const SECOND_MICROS: i64 = 1_000_000;

/// A message that both devices have seen.
struct Shared {
    laptop: Client,
    phone: Client,
    id: MessageId,
    /// The cursor of the version that both have seen.
    seen: Cursor,
    /// When that version was written: ten seconds ago.
    written: Timestamp,
}

impl Shared {
    async fn new(world: &World<'_>, content: &str) -> Result<Self, Failure> {
        let user = world.owner()?;
        let (laptop, phone) = (world.device(user, "laptop")?, world.device(user, "phone")?);
        let id = MessageId(Uuid::new_v4());
        let written = now().plus_micros(-10 * SECOND_MICROS);
        let mut shared = Self { laptop, phone, id, seen: Cursor::ZERO, written };
        let created = push(&shared.laptop, &shared.edit(content, 0)).await?;
        must_be(&created, Status::Created)?;
        shared.seen = created.cursor.unwrap_or_default();
        Ok(shared)
    }

    /// An edit by a device that has seen no later version, so many seconds after the first one.
    fn edit(&self, content: &str, seconds: i64) -> Value {
        let updated_at = self.written.plus_micros(seconds * SECOND_MICROS);
        json!({ "id": self.id, "type": "decision", "content": content, "updated_at": updated_at,
                "base_cursor": self.seen })
    }

    /// What a device that pulls sees in the message; `None` if it is deleted.
    async fn content(&self) -> Result<Option<String>, Failure> {
        let (messages, _) = pull_all(&self.phone, &Scope::User, |_| {}).await?;
        let message = messages.into_iter().find(|message| message.id == self.id);
        Ok(message.ok_or("the message is gone")?.content)
    }
}

/// Whichever arrives first, the later edit stays.
pub async fn edits(world: &World<'_>) -> Result<String, Failure> {
    let shared = Shared::new(world, "Retry three times").await?;
    let later = shared.edit("Retry three times, with jitter", 5);
    let earlier = shared.edit("Retry for ever", 3);
    must_be(&push(&shared.phone, &later).await?, Status::Updated)?;
    must_be(&push(&shared.laptop, &earlier).await?, Status::Stale)?;
    must_say(&shared, "Retry three times, with jitter").await?;

    let shared = Shared::new(world, "Poll every second").await?;
    let (earlier, later) = (shared.edit("Poll every minute", 3), shared.edit("Long-poll", 5));
    let (first, second) = tokio::join!(push(&shared.laptop, &earlier), push(&shared.phone, &later));
    must_be(&second?, Status::Updated)?;
    let first = first?.status;
    must(matches!(first, Status::Updated | Status::Stale), || format!("it is {first:?}"))?;
    must_say(&shared, "Long-poll").await?;
    Ok("two devices edit one message: the later edit stays, the other is stale".to_owned())
}

/// A delete by a device that has not seen the update comes to nothing.
pub async fn delete(world: &World<'_>) -> Result<String, Failure> {
    let shared = Shared::new(world, "Deploy on Fridays").await?;
    let update = shared.edit("Deploy on Fridays, before noon", 5);
    must_be(&push(&shared.phone, &update).await?, Status::Updated)?;
    let delete = json!({ "id": shared.id, "deleted": true, "base_cursor": shared.seen });
    must_be(&push(&shared.laptop, &delete).await?, Status::Superseded)?;
    must_say(&shared, "Deploy on Fridays, before noon").await?;
    Ok("a delete that had not seen the update is superseded".to_owned())
}

async fn push(client: &Client, message: &Value) -> Result<PushResult, Failure> {
    let json = serde_json::value::to_raw_value(message)?;
    let answer = client.push(&Scope::User, [&*json]).await?;
    answer.results.into_iter().next().ok_or_else(|| "the push has no results".into())
}

fn must_be(result: &PushResult, status: Status) -> Result<(), Failure> {
    must(result.status == status, || format!("{:?} instead of {status:?}", result.status))
}

async fn must_say(shared: &Shared, content: &str) -> Result<(), Failure> {
    let pulled = shared.content().await?;
    must(pulled.as_deref() == Some(content), || format!("{pulled:?} instead of {content:?}"))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
