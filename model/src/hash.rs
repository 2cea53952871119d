//! Hashes, versions and the digest of a scope. The bytes are a contract: `schemas/vectors/digest.json`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::{ids::MessageId, time::Timestamp};

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0u8; 64];
    for (i, byte) in bytes.iter().take(32).enumerate() {
        text[2 * i] = DIGITS[usize::from(byte >> 4)];
        text[2 * i + 1] = DIGITS[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&text[..2 * bytes.len().min(32)]).unwrap_or_default())
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Reads 64 lower-case hex digits.
            pub fn parse(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| D::Error::custom("expected 64 lower-case hex digits"))
            }
        }
    };
}

hash!(
    /// SHA-256 of a message's content in UTF-8.
    ContentHash
);
hash!(
    /// SHA-256 of the RFC 8785 JSON of `{"content", "metadata", "type"}`.
    BodyHash
);
hash!(
    /// SHA-256 of a request, to tell a retry from another request under the same Idempotency-Key.
    RequestHash
);
hash!(
    /// SHA-256 of a message's id and version: what the digest sums and repair compares.
    Item
);

impl ContentHash {
    pub fn of(content: &str) -> Self {
        Self(sha256(&[content.as_bytes()]))
    }
}

impl BodyHash {
    /// `metadata` is RFC 8785 JSON already. Its strings and serde_json's are escaped alike.
    pub fn of(message_type: &str, content: &str, metadata: &str) -> Self {
        let content = serde_json::to_string(content).unwrap_or_default();
        let message_type = serde_json::to_string(message_type).unwrap_or_default();
        Self(sha256(&[
            b"{\"content\":",
            content.as_bytes(),
            b",\"metadata\":",
            metadata.as_bytes(),
            b",\"type\":",
            message_type.as_bytes(),
            b"}",
        ]))
    }
}

impl RequestHash {
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(sha256(parts))
    }
}

/// What orders two versions of one message: first the time, then the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub updated_at: Timestamp,
    pub body: BodyHash,
}

impl Version {
    /// The 40 bytes of the contract; comparing them is comparing versions, since no time is negative.
    pub fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.updated_at.as_micros().to_be_bytes());
        bytes[8..].copy_from_slice(&self.body.0);
        bytes
    }

    pub fn item(self, id: MessageId) -> Item {
        Item(sha256(&[id.0.as_bytes(), &self.to_bytes()]))
    }
}

/// The sum of the items of all live messages modulo 2^256: the same whatever the order they came in.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    pub const EMPTY: Self = Self([0; 4]);

    /// Reads 32 bytes, the most significant first.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().rev().zip(bytes.chunks_exact(8)) {
            *limb = chunk.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        }
        Self(limbs)
    }

    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(|bytes| Self::from_bytes(&bytes))
    }

    pub fn add(&mut self, item: Item) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(Self::from_bytes(&item.0).0) {
            let (sum, first) = limb.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    pub fn remove(&mut self, item: Item) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(Self::from_bytes(&item.0).0) {
            let (difference, first) = limb.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (difference, first || second);
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.to_bytes(), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("expected 64 lower-case hex digits"))
    }
}
