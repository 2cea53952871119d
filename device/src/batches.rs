//! Many messages cut into pushes.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Messages in a push.
pub const BATCH_MESSAGES: usize = 100;
/// Bytes of a push's messages: the contract takes 4 MiB with all that is around them.
pub const BATCH_BYTES: usize = 3 << 20;

/// A message on its way, and where it came from: a line, a commit.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub origin: String,
    pub json: Box<RawValue>,
}

impl Outgoing {
    /// Whether it deletes a message: that passes, however full a scope is.
    pub fn is_delete(&self) -> bool {
        #[derive(Deserialize)]
        struct Delete {
            deleted: bool,
        }
        serde_json::from_str(self.json.get()).is_ok_and(|Delete { deleted }| deleted)
    }
}

/// Collects messages until a push is full.
#[derive(Debug, Default)]
pub struct Batches {
    waiting: Vec<Outgoing>,
    bytes: usize,
}

impl Batches {
    /// Takes a message; hands out the push that is full without it, if it is.
    pub fn add(&mut self, message: Outgoing) -> Option<Vec<Outgoing>> {
        let bytes = message.json.get().len();
        let full = !self.waiting.is_empty()
            && (self.waiting.len() >= BATCH_MESSAGES || self.bytes + bytes > BATCH_BYTES);
        let batch = full.then(|| self.rest());
        self.bytes += bytes;
        self.waiting.push(message);
        batch
    }

    /// Hands out what waits; empty if nothing does.
    pub fn rest(&mut self) -> Vec<Outgoing> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Outgoing {
        let json = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
        Outgoing { origin: String::new(), json }
    }

    fn sizes(messages: impl IntoIterator<Item = Outgoing>) -> Vec<usize> {
        let mut batches = Batches::default();
        let mut sizes: Vec<usize> =
            messages.into_iter().filter_map(|m| batches.add(m)).map(|b| b.len()).collect();
        sizes.push(batches.rest().len());
        sizes
    }

    #[test]
    fn a_push_has_a_hundred_messages() {
        assert_eq!(sizes((0..250).map(|_| message(10))), [100, 100, 50]);
        assert_eq!(sizes((0..100).map(|_| message(10))), [100]);
        assert_eq!(sizes([]), [0]);
    }

    #[test]
    fn a_delete_says_so() {
        let is_delete = |json: &str| {
            let json = RawValue::from_string(json.to_owned()).unwrap();
            Outgoing { origin: String::new(), json }.is_delete()
        };
        assert!(is_delete(r#"{"id": "x", "deleted": true, "base_cursor": 1}"#));
        for other in [r#"{"deleted": false}"#, r#"{"deleted": null}"#, r#"{"type": "a"}"#, "7"] {
            assert!(!is_delete(other), "{other}");
        }
    }

    #[test]
    fn a_push_is_not_too_large() {
        assert_eq!(sizes((0..100).map(|_| message(64 << 10))), [48, 48, 4]);
        assert_eq!(sizes([message(10), message(BATCH_BYTES + 1), message(10)]), [1, 1, 1]);
    }
}
