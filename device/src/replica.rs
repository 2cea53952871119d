//! What a device holds of a scope: the live messages, and the cursor that it has pulled to.
//!
//! Kept as lines of JSON: whose it is, the cursor and the epoch first, then the messages as pulls gave them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use model::{
    ContentHash, Cursor, Digest, Epoch, MessageId, PushResult, Status, UserId, reconcile::Claim,
};
use repair::{Held, Items};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::wire::Pulled;

/// The messages of a scope on a device.
#[derive(Clone, Default)]
pub struct Replica {
    pub cursor: Cursor,
    /// That the cursor is of; `None` before the first pull.
    pub epoch: Option<Epoch>,
    /// Of which user and scope it is; empty before it was saved.
    pub whose: String,
    messages: HashMap<MessageId, Message>,
}

/// A live message that was pulled, or pushed and acknowledged.
#[derive(Clone)]
pub struct Message {
    pub held: Held,
    /// Where it stood.
    pub cursor: Cursor,
    json: Box<RawValue>,
}

#[derive(Deserialize, Serialize)]
struct Header {
    whose: String,
    cursor: Cursor,
    epoch: Option<Epoch>,
}

/// Why a replica cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("{} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{}, line {line}, is not as it was written: {reason}; delete the file to pull everything anew",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize, reason: String },
    #[error("a message is not as the contract says: {0}")]
    Message(serde_json::Error),
}

impl Replica {
    /// Reads the file; an empty replica, if there is none.
    pub fn load(path: &Path) -> Result<Self, ReplicaError> {
        let failed = |source| ReplicaError::Io { path: path.to_path_buf(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let damaged = |line, error: &dyn std::error::Error| {
            let (path, reason) = (path.to_path_buf(), error.to_string());
            ReplicaError::Damaged { path, line, reason }
        };
        let mut lines = BufReader::new(file).lines();
        let first = lines.next().transpose().map_err(failed)?.unwrap_or_default();
        let header: Header = serde_json::from_str(&first).map_err(|e| damaged(1, &e))?;
        let Header { whose, cursor, epoch } = header;
        let mut replica = Self { cursor, epoch, whose, messages: HashMap::new() };
        for (line, text) in (2..).zip(lines) {
            let json =
                RawValue::from_string(text.map_err(failed)?).map_err(|e| damaged(line, &e))?;
            replica.apply(json).map_err(|e| damaged(line, &e))?;
        }
        Ok(replica)
    }

    /// Writes the file: all of it, or nothing.
    pub fn save(&self, path: &Path) -> Result<(), ReplicaError> {
        let failed = |source| ReplicaError::Io { path: path.to_path_buf(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let written = path.with_extension("new");
        self.write(&written).and_then(|()| fs::rename(&written, path)).map_err(failed)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let (whose, cursor, epoch) = (self.whose.clone(), self.cursor, self.epoch);
        let header = Header { whose, cursor, epoch };
        writeln!(file, "{}", serde_json::to_string(&header)?)?;
        for message in self.messages.values() {
            writeln!(file, "{}", message.json.get().replace(['\n', '\r'], " "))?;
        }
        file.into_inner()?.sync_all()
    }

    /// Takes a message as the API gave it, without comparing versions: what comes later counts. Says what is
    /// held now; `None`: it was a tombstone.
    ///
    /// # Errors
    /// It is no message.
    pub fn apply(&mut self, json: Box<RawValue>) -> Result<Option<Held>, ReplicaError> {
        let pulled: Pulled = serde_json::from_str(json.get()).map_err(ReplicaError::Message)?;
        let held = pulled.version().map(|version| Held::new(pulled.id, version));
        match held {
            Some(held) => {
                self.messages.insert(held.id, Message { held, cursor: pulled.cursor, json });
            }
            None => _ = self.messages.remove(&pulled.id),
        }
        Ok(held)
    }

    /// Takes what a push came to ([`acknowledged`]), which a pull has not brought yet. Until it does, a recovery that has lost it
    /// finds it here.
    ///
    /// # Errors
    /// It is no message.
    pub fn acknowledge(&mut self, json: Box<RawValue>) -> Result<(), ReplicaError> {
        let pulled: Pulled = serde_json::from_str(json.get()).map_err(ReplicaError::Message)?;
        let held = self.messages.get(&pulled.id).map(|held| held.cursor);
        if pulled.cursor > held.unwrap_or_default().max(self.cursor) {
            self.apply(json)?;
        }
        Ok(())
    }

    /// Whether it holds this version.
    pub fn holds(&self, held: &Held) -> bool {
        self.messages.get(&held.id).is_some_and(|message| message.held == *held)
    }

    /// The messages, in the order of their cursors.
    pub fn messages(&self) -> Vec<&Message> {
        let mut messages: Vec<&Message> = self.messages.values().collect();
        messages.sort_unstable_by_key(|message| (message.cursor, message.held.id.0));
        messages
    }

    /// Lets go of all messages, to begin again; what it was before.
    pub fn begin_anew(&mut self, epoch: Epoch) -> Self {
        let whose = self.whose.clone();
        std::mem::replace(self, Self { epoch: Some(epoch), whose, ..Self::default() })
    }

    /// The versions that another one does not hold, in the order in which they stood.
    pub fn without(self, other: &Self) -> Vec<Message> {
        let gone = |message: &Message| {
            other.messages.get(&message.held.id).is_none_or(|there| there.held != message.held)
        };
        in_order(self.messages.into_values().filter(gone))
    }

    /// Lets go of these versions, in the order in which they stood: what is pushed again is pushed in that order.
    pub fn remove(&mut self, is_gone: impl Fn(&Message) -> bool) -> Vec<Message> {
        in_order(self.messages.extract_if(|_, message| is_gone(message)).map(|(_, m)| m))
    }

    pub fn count(&self) -> u64 {
        self.messages.len() as u64
    }

    pub fn digest(&self) -> Digest {
        let mut digest = Digest::EMPTY;
        self.messages.values().for_each(|message| digest.add(message.held.item));
        digest
    }

    /// What is compared with the scope.
    pub fn items(&self) -> Items {
        Items::new(self.messages.values().map(|message| message.held).collect())
    }

    /// What the device says of itself.
    pub fn claim(&self) -> Claim {
        Claim { cursor: self.cursor, count: Some(self.count()), digest: Some(self.digest()) }
    }
}

/// A message as a pull will give it, by the answer to its push; `None` if that does not say what is there now: a later version
/// stands, say, or somebody else's message has the content.
pub fn acknowledged(
    pushed: &RawValue,
    result: &PushResult,
    user: &UserId,
) -> Option<Box<RawValue>> {
    let (id, cursor, updated_at) = (result.id?, result.cursor?, result.updated_at?);
    // As ingest reads it: of two fields of one name the last one counts.
    let pushed: Value = serde_json::from_str(pushed.get()).ok()?;
    let is_live = match result.status {
        Status::Created | Status::Updated | Status::Revived => true,
        // An edit that changes nothing: it is that version already.
        Status::Duplicate if pushed["id"] == json!(id) => true,
        Status::Deleted => false,
        Status::Duplicate
        | Status::Stale
        | Status::Superseded
        | Status::Absent
        | Status::Invalid => return None,
    };
    let content = pushed["content"].as_str().filter(|_| is_live);
    let metadata = || Some(&pushed["metadata"]).filter(|metadata| metadata.is_object()).cloned();
    // Only of one that is new it is known when that was.
    let created_at = (result.status == Status::Created).then_some(updated_at);
    let message = json!({
        "id": id, "type": pushed["type"].as_str().filter(|_| is_live),
        "content": content, "content_hash": content.map(ContentHash::of),
        "metadata": is_live.then(|| metadata().unwrap_or_else(|| json!({}))),
        "created_at": created_at, "updated_at": updated_at, "contributed_by": user, "device_id": null,
        "cursor": cursor, "deleted": !is_live,
    });
    serde_json::value::to_raw_value(&message).ok()
}

fn in_order(messages: impl Iterator<Item = Message>) -> Vec<Message> {
    let mut messages: Vec<Message> = messages.collect();
    messages.sort_unstable_by_key(|message| (message.cursor, message.held.id.0));
    messages
}

impl Message {
    /// As a pull gave it.
    pub fn json(&self) -> &RawValue {
        &self.json
    }

    /// The message as it is pushed again, at the version that it had.
    ///
    /// # Errors
    /// It is not as the contract says.
    pub fn to_push(&self) -> Result<Box<RawValue>, ReplicaError> {
        let pulled: Pulled =
            serde_json::from_str(self.json.get()).map_err(ReplicaError::Message)?;
        let message = json!({
            "id": pulled.id, "type": pulled.message_type, "content": pulled.content,
            "metadata": pulled.metadata, "updated_at": pulled.updated_at,
        });
        serde_json::value::to_raw_value(&message).map_err(ReplicaError::Message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u8, cursor: u64, content: &str) -> Box<RawValue> {
        let deleted = content.is_empty();
        let text = |text: &str| if deleted { json!(null) } else { json!(text) };
        let metadata = if deleted { json!(null) } else { json!({ "n": 1 }) };
        let message = json!({
            "id": format!("01940f2e-7c00-7000-8000-0000000000{id:02}"), "type": text("decision"),
            "content": text(content), "content_hash": text("…"), "metadata": metadata,
            "created_at": "2025-12-30T10:00:00Z", "updated_at": "2025-12-30T10:00:00.5Z",
            "contributed_by": "ann", "device_id": null, "cursor": cursor, "deleted": deleted,
        });
        serde_json::value::to_raw_value(&message).unwrap()
    }

    fn replica() -> Replica {
        let mut replica = Replica::default();
        for json in [message(1, 1, "x"), message(2, 2, "y"), message(1, 3, "z")] {
            replica.apply(json).unwrap();
        }
        replica.cursor = Cursor::from_i64(3);
        replica.epoch = Some(Epoch(uuid::Uuid::nil()));
        replica
    }

    #[test]
    fn a_replica_is_what_was_saved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/down/user.jsonl");
        assert_eq!(Replica::load(&path).unwrap().claim(), Replica::default().claim());
        let replica = replica();
        replica.save(&path).unwrap();
        replica.save(&path).unwrap();
        let loaded = Replica::load(&path).unwrap();
        assert_eq!((loaded.claim(), loaded.epoch), (replica.claim(), replica.epoch));
        assert_eq!((loaded.count(), fs::read_dir(path.parent().unwrap()).unwrap().count()), (2, 1));
    }

    #[test]
    fn what_was_acknowledged_is_held_until_a_pull_brings_it() {
        let pushed = json!({"type": "decision", "content": "x", "base_cursor": 2});
        let pushed = serde_json::value::to_raw_value(&pushed).unwrap();
        let user = UserId::new("ann").unwrap();
        let result = |status: Status, cursor: u64| PushResult {
            index: 0,
            status,
            id: Some(MessageId(uuid::Uuid::from_u128(7))),
            cursor: Cursor::new(cursor).ok(),
            updated_at: Some(model::Timestamp::from_micros(5)),
            code: None,
            detail: None,
        };
        let held = |result: &PushResult| acknowledged(&pushed, result, &user);
        let mut replica = replica();
        // A pull has passed it: what it gave stands.
        replica.acknowledge(held(&result(Status::Created, 3)).unwrap()).unwrap();
        assert_eq!(replica.count(), 2);
        replica.acknowledge(held(&result(Status::Updated, 5)).unwrap()).unwrap();
        replica.acknowledge(held(&result(Status::Deleted, 4)).unwrap()).unwrap();
        assert_eq!((replica.count(), replica.cursor.get()), (3, 3));
        let lost = replica.remove(|message| message.cursor.get() > 3);
        let again: serde_json::Value =
            serde_json::from_str(lost[0].to_push().unwrap().get()).unwrap();
        assert_eq!(
            again,
            json!({"id": uuid::Uuid::from_u128(7), "type": "decision", "content": "x", "metadata": {},
                "updated_at": "1970-01-01T00:00:00.000005Z"})
        );
        replica.acknowledge(held(&result(Status::Created, 6)).unwrap()).unwrap();
        replica.acknowledge(held(&result(Status::Deleted, 7)).unwrap()).unwrap();
        assert_eq!(replica.count(), 2);
        // Somebody else's, of whatever type; and one's own, of which nothing was changed.
        assert!(held(&result(Status::Duplicate, 9)).is_none());
        let edit = |more: &str| {
            let id = uuid::Uuid::from_u128(7);
            let text =
                format!(r#"{{"id": "{id}", "type": "x", "content": "y", "content": "z"{more}}}"#);
            let edit = RawValue::from_string(text).unwrap();
            acknowledged(&edit, &result(Status::Duplicate, 9), &user).unwrap().get().to_owned()
        };
        assert!(edit("").contains(r#""content":"z""#) && edit("").contains(r#""metadata":{}"#));
        for status in [Status::Stale, Status::Superseded, Status::Absent, Status::Invalid] {
            assert!(held(&result(status, 9)).is_none());
        }
    }

    #[test]
    fn what_is_damaged_is_named_by_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("user.jsonl");
        let header = |cursor: i64| format!("{}\n", json!({ "whose": "ann", "cursor": cursor }));
        for (text, line) in [(String::new(), 1), (header(-1), 1), (header(1) + "{}\n", 2)] {
            fs::write(&path, text).unwrap();
            let error = Replica::load(&path).err().unwrap().to_string();
            assert!(error.contains(&format!("line {line}, ")), "{error}");
        }
    }

    #[test]
    fn a_later_message_takes_the_place_of_an_earlier_one() {
        let mut replica = replica();
        assert_eq!((replica.count(), replica.digest()), (2, replica.items().digest()));
        replica.apply(message(1, 4, "")).unwrap();
        assert_eq!(replica.count(), 1);
        let left = replica.remove(|_| true);
        assert_eq!((left.len(), left[0].cursor.get(), replica.digest()), (1, 2, Digest::EMPTY));
        let again: serde_json::Value =
            serde_json::from_str(left[0].to_push().unwrap().get()).unwrap();
        assert_eq!(
            (&again["content"], &again["updated_at"]),
            (&json!("y"), &json!("2025-12-30T10:00:00.500Z"))
        );
    }
}
