//! A commit as a context message.

use model::Limits;
use serde_json::json;

use device::batches::Outgoing;

/// The type of the messages that commits become.
pub const MESSAGE_TYPE: &str = "decision";
/// Bytes of an author's name: longer ones are no names, and metadata has a limit.
const AUTHOR_BYTES_MAX: usize = 256;

/// What git says of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The full hash.
    pub hash: String,
    /// The hash as people write it.
    pub short_hash: String,
    /// The author date, RFC 3339.
    pub authored_at: String,
    pub author: String,
    pub email: String,
    /// Subject and body.
    pub text: String,
}

impl Commit {
    /// The message to push; `None` if the commit says nothing.
    pub fn message(&self) -> Result<Option<Outgoing>, serde_json::Error> {
        let whole = self.text.trim_end().replace('\0', "\u{FFFD}");
        if whole.trim().is_empty() {
            return Ok(None);
        }
        let content = cut(&whole, Limits::CONTRACT.content_bytes_max);
        let mut metadata = json!({
            "source": format!("git:{}", self.short_hash),
            "commit": self.hash,
            "timestamp": self.authored_at,
            "author": cut(&self.author, AUTHOR_BYTES_MAX),
        });
        if content.len() < whole.len() {
            metadata["truncated"] = true.into();
            metadata["original_bytes"] = whole.len().into();
        }
        let message = json!({ "type": MESSAGE_TYPE, "content": content, "metadata": metadata });
        let json = serde_json::value::to_raw_value(&message)?;
        Ok(Some(Outgoing { origin: format!("commit {}", self.short_hash), json }))
    }
}

/// The longest beginning of at most so many bytes that is still text.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn commit(text: &str) -> Commit {
        Commit {
            hash: "1234567890123456789012345678901234567890".to_owned(),
            short_hash: "1234567".to_owned(),
            authored_at: "2025-12-30T10:00:00+01:00".to_owned(),
            author: "Ann".to_owned(),
            email: "ann@example.org".to_owned(),
            text: text.to_owned(),
        }
    }

    fn message(text: &str) -> Value {
        let message = commit(text).message().unwrap().unwrap();
        assert_eq!(message.origin, "commit 1234567");
        serde_json::from_str(message.json.get()).unwrap()
    }

    #[test]
    fn subject_and_body_are_the_content() {
        assert_eq!(
            message("Use RLS\n\nIt isolates tenants.\n"),
            json!({
                "type": "decision",
                "content": "Use RLS\n\nIt isolates tenants.",
                "metadata": {
                    "source": "git:1234567",
                    "commit": "1234567890123456789012345678901234567890",
                    "timestamp": "2025-12-30T10:00:00+01:00",
                    "author": "Ann",
                },
            })
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_says_so() {
        // 3 bytes each: the limit falls inside one.
        let long = message(&"€".repeat(30_000));
        let content = long["content"].as_str().unwrap();
        assert_eq!(content.len(), (64 << 10) / 3 * 3);
        assert_eq!(long["metadata"]["truncated"], true);
        assert_eq!(long["metadata"]["original_bytes"], 90_000);
        let fits = message(&"x".repeat(64 << 10));
        assert!(fits["metadata"].get("truncated").is_none());
    }

    #[test]
    fn cutting_keeps_text_whole() {
        assert_eq!([cut("aé", 1), cut("aé", 2), cut("aé", 3), cut("", 5)], ["a", "a", "aé", ""]);
    }

    #[test]
    fn nuls_are_replaced_and_nothing_is_left_out_but_nothing() {
        assert_eq!(message("a\0b")["content"], "a\u{FFFD}b");
        for empty in ["", "\n", " \n\t"] {
            assert!(commit(empty).message().unwrap().is_none());
        }
    }

    #[test]
    fn the_api_takes_it() {
        let message = commit(&"€".repeat(30_000)).message().unwrap().unwrap();
        model::draft::parse_change(message.json.get(), &Limits::CONTRACT).unwrap();
    }
}
