//! Messages for where there is no history to tell.

use super::{history::Told, people::People};
use device::batches::Outgoing;

use crate::Failure;

/// Author, type and content.
pub const MESSAGES: [(&str, &str, &str); 12] = [
    ("Ann", "decision", "Use PostgreSQL row level security for tenant isolation"),
    ("Ann", "decision", "The message log is the only truth; every table is derived from it"),
    ("Bob", "pattern", "Always validate input at API boundaries"),
    ("Cleo", "insight", "Most duplicate pushes come from retries after a broken connection"),
    ("Bob", "decision", "Cursors are dense per scope, and never come from a sequence"),
    ("Ann", "pattern", "Write data objects first and the manifest last, all create-only"),
    ("Cleo", "decision", "Deletes are soft: an update beats a delete"),
    ("Bob", "insight", "A long poll costs less than a poll a second from the third device on"),
    ("Ann", "pattern", "Commit the position together with the data that it stands for"),
    ("Cleo", "pattern", "Tell what a limit is, what its value is, and what was sent"),
    ("Bob", "decision", "Backups are kept in object storage: 7 days by the hour, 90 by the day"),
    ("Cleo", "insight", "The slowest step of the build is linking, not compiling"),
];

/// The messages and their authors.
pub fn told() -> Result<Told, Failure> {
    let mut people = People::default();
    for (place, (author, message_type, content)) in MESSAGES.iter().enumerate() {
        let metadata = serde_json::json!({ "source": "demo", "author": author });
        let message =
            serde_json::json!({ "type": message_type, "content": content, "metadata": metadata });
        let json = serde_json::value::to_raw_value(&message)?;
        let origin = format!("message {}", place + 1);
        people.add(author, &format!("{author}@example.org"), Outgoing { origin, json });
    }
    let source = format!("{} messages", MESSAGES.len());
    Ok(Told { people: people.all, source, empty: 0, dealt: false })
}
