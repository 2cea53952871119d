//! Reading a push's body. One bad message does not reject the others, so each is read by itself.

use std::fmt;

use contract::{path::parse_uuid, problems};
use model::{
    Change, Epoch, Limits, PushedChange, Rejected,
    draft::{Invalid, parse_change},
};
use readmodel::epochs::Kept;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use service::Problem;

use crate::gate::Added;

/// A push as it was sent: the valid messages, and the others with what is wrong with them.
#[derive(Debug)]
pub(crate) struct PushBody {
    pub(crate) changes: Vec<PushedChange>,
    pub(crate) rejected: Vec<Rejected>,
    /// The epoch that the device's cursors are of, if it says so.
    pub(crate) epoch: Option<Epoch>,
}

impl PushBody {
    /// Reads `{"messages": […], "epoch"?}`; other fields are ignored.
    ///
    /// # Errors
    /// 400 naming the field and what it takes; 413 for more messages than a push may have.
    pub(crate) fn parse(body: &[u8], limits: &Limits) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|e| not_a_push(format_args!("no UTF-8 from byte {} on", e.valid_up_to())))?;
        let outer = Outer::parse(text, limits.push_messages_max).map_err(not_a_push)?;
        if outer.messages.sent > limits.push_messages_max {
            let (max, sent) = (limits.push_messages_max as u64, outer.messages.sent as u64);
            return Err(Problem::payload_too_large("push_messages_max", max, Some(sent)));
        }
        let mut changes = Vec::with_capacity(outer.messages.kept.len());
        let mut rejected = Vec::new();
        for (index, message) in (0..).zip(&outer.messages.kept) {
            match parse_change(message.get(), limits) {
                Ok(change) => changes.push(PushedChange { index, change }),
                Err(Invalid { code, detail }) => {
                    let detail = format!("messages[{index}]: {detail}");
                    rejected.push(Rejected { index, code, detail });
                }
            }
        }
        let epoch = outer.epoch.map(parse_epoch).transpose()?.flatten();
        Ok(Self { changes, rejected, epoch })
    }

    /// The answer to a push of which every message is invalid: the first one's error.
    pub(crate) fn refusal(&self) -> Option<Problem> {
        let first = self.rejected.first().filter(|_| self.changes.is_empty())?;
        Some(problems::invalid_message(first.code, first.detail.clone()))
    }

    /// What its writes add to the scope, if none of them is there already.
    pub(crate) fn added(&self) -> Added {
        let writes = self.changes.iter().filter_map(|pushed| match &pushed.change {
            Change::Write(write) => Some(write.body.bytes()),
            Change::Delete { .. } => None,
        });
        writes.fold(Added::default(), |added, bytes| Added {
            messages: added.messages + 1,
            bytes: added.bytes + bytes,
        })
    }

    /// Whether a message says which version its writer had seen.
    pub(crate) fn names_bases(&self) -> bool {
        self.changes.iter().any(|pushed| pushed.change.base_cursor().is_some())
    }

    /// Cursors that the scope did not keep say nothing.
    pub(crate) fn forget_bases(&mut self, kept: Kept) {
        for pushed in &mut self.changes {
            pushed.change.forget_base(|base| kept.keeps(base));
        }
    }
}

fn not_a_push(reason: impl fmt::Display) -> Problem {
    Problem::invalid_request(format!(
        "messages takes an array of messages, in a JSON object: {reason}"
    ))
}

/// `null` counts as absent.
fn parse_epoch(raw: &RawValue) -> Result<Option<Epoch>, Problem> {
    let invalid = || Problem::invalid_request("epoch takes a UUID, as a pull gave it");
    let text: Option<String> = serde_json::from_str(raw.get()).map_err(|_| invalid())?;
    let epoch = |text: String| parse_uuid(&text).map(Epoch).ok_or_else(invalid);
    text.map(epoch).transpose()
}

/// The body's outer object; what is in a message is not looked at yet.
struct Outer<'a> {
    messages: Elements<'a>,
    epoch: Option<&'a RawValue>,
}

/// The elements of an array, up to a number; the others are only counted.
struct Elements<'a> {
    kept: Vec<&'a RawValue>,
    sent: usize,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Messages,
    Epoch,
    #[serde(other)]
    Other,
}

impl<'a> Outer<'a> {
    fn parse(text: &'a str, messages_max: usize) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let outer = deserializer.deserialize_map(OuterVisitor { messages_max })?;
        deserializer.end()?;
        Ok(outer)
    }
}

struct OuterVisitor {
    messages_max: usize,
}

impl<'de> Visitor<'de> for OuterVisitor {
    type Value = Outer<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with messages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outer<'de>, A::Error> {
        let (mut messages, mut epoch) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Messages if messages.is_some() => {
                    return Err(A::Error::duplicate_field("messages"));
                }
                Field::Messages => {
                    messages = Some(map.next_value_seed(ElementsUpTo(self.messages_max))?);
                }
                Field::Epoch => epoch = Some(map.next_value()?),
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let messages = messages.ok_or_else(|| A::Error::missing_field("messages"))?;
        Ok(Outer { messages, epoch })
    }
}

struct ElementsUpTo(usize);

impl<'de> DeserializeSeed<'de> for ElementsUpTo {
    type Value = Elements<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Elements<'de>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ElementsUpTo {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Elements<'de>, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < self.0
            && let Some(element) = sequence.next_element()?
        {
            kept.push(element);
        }
        let mut sent = kept.len();
        while kept.len() == self.0 && sequence.next_element::<IgnoredAny>()?.is_some() {
            sent += 1;
        }
        Ok(Elements { kept, sent })
    }
}

#[cfg(test)]
#[path = "push_body_tests.rs"]
mod tests;
