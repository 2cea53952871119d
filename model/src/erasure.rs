//! Blanking: what is left of a command whose scope was erased, in copies of the log that are rewritten.
//!
//! The fold never looks into a content: it goes by hashes and versions, which stay, and by how many bytes there
//! were. So a log with blanked commands folds to the same cursors, outcomes, sums and digests.

use crate::{
    event::{Action, Change, Command, PushedChange},
    message::{Body, MessageType, Metadata},
};

const FILLER: &str = "-";
/// No log takes a larger record.
const BYTES_MAX: u64 = 8 << 20;

impl Body {
    /// As many bytes of nothing.
    #[must_use]
    pub fn blanked(&self) -> Self {
        Self::blank(self.content.len() as u64, self.metadata.as_str().len() as u64)
    }

    /// Nothing, in so many bytes; at most what a message may have, whatever a file says.
    pub fn blank(content_bytes: u64, metadata_bytes: u64) -> Self {
        let size = |bytes: u64| usize::try_from(bytes.min(BYTES_MAX)).unwrap_or_default();
        Self {
            message_type: MessageType::blank(),
            content: FILLER.repeat(size(content_bytes)),
            metadata: Metadata::from_canonical(blank_object(size(metadata_bytes))),
        }
    }
}

impl Command {
    /// The same command without content. What was said about refused messages stays: it names fields and limits.
    #[must_use]
    pub fn blanked(&self) -> Self {
        let mut blanked = self.clone();
        match &mut blanked.action {
            Action::MessagesPushed { changes, .. } => {
                for PushedChange { change, .. } in changes {
                    if let Change::Write(write) = change {
                        write.body = write.body.blanked();
                    }
                }
            }
            Action::RestoreChunk(chunk) => {
                chunk.puts.iter_mut().for_each(|put| put.body = put.body.blanked());
            }
            Action::ScopeCreated
            | Action::MemberSet { .. }
            | Action::MemberRemoved { .. }
            | Action::BackupRequested { .. }
            | Action::RestoreRequested { .. }
            | Action::RestoreCompleted { .. }
            | Action::RestoreFailed { .. }
            | Action::TombstonesExpired { .. }
            | Action::ScopeErased => {}
        }
        blanked
    }

    /// Whether it had content, all of which was blanked.
    pub fn is_blanked(&self) -> bool {
        let has_content = match &self.action {
            Action::MessagesPushed { changes, .. } => {
                changes.iter().any(|pushed| matches!(pushed.change, Change::Write(_)))
            }
            Action::RestoreChunk(chunk) => !chunk.puts.is_empty(),
            _ => false,
        };
        has_content && self.blanked() == *self
    }
}

/// A JSON object of so many bytes. None has 3 to 5, which no metadata has either.
fn blank_object(bytes: usize) -> String {
    match bytes.checked_sub(r#"{"":""}"#.len()) {
        Some(rest) => format!(r#"{{"":"{}"}}"#, FILLER.repeat(rest)),
        None if bytes == 6 => r#"{"":0}"#.to_owned(),
        None => "{}".to_owned(),
    }
}
