//! What is a frame, and what only looks like one.
//!
//! A frame is a version byte and then ranges: each an upper bound, a mode, and what the mode brings. Whatever
//! comes from the other side is read through once before it is worked on, so that nothing in it is taken at
//! its word: no count, no length, no order.

use negentropy::{FINGERPRINT_SIZE, ID_SIZE, PROTOCOL_VERSION};

const VERSION: u8 = PROTOCOL_VERSION as u8;
/// Bytes of the longest number: 64 bits, seven a byte.
const NUMBER_BYTES_MAX: usize = 10;

const SKIP: u64 = 0;
const FINGERPRINT: u64 = 1;
const ID_LIST: u64 = 2;

/// Why bytes are no frame of protocol version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("it is empty")]
    Empty,
    #[error("it begins with byte {0:#04x}, version 1 begins with {VERSION:#04x}")]
    Version(u8),
    #[error("it breaks off within range {range}")]
    Truncated { range: usize },
    #[error("a number in range {range} is longer than 64 bits")]
    NumberTooLong { range: usize },
    #[error("the bound of range {range} has {bytes} bytes of an id, {ID_SIZE} is all of it")]
    BoundTooLong { range: usize, bytes: u64 },
    #[error("the bound of range {range} is before that of the range before it")]
    BoundsDescend { range: usize },
    #[error("range {range} has mode {mode}, the modes are 0 to 2")]
    Mode { range: usize, mode: u64 },
    #[error("it cannot be worked on: {0}")]
    Protocol(&'static str),
}

impl From<negentropy::Error> for BadFrame {
    /// What is read through before gives none of these.
    fn from(error: negentropy::Error) -> Self {
        use negentropy::Error;
        Self::Protocol(match error {
            Error::ParseEndsPrematurely => "it breaks off",
            Error::UnexpectedMode(_) => "a mode is none",
            Error::FrameSizeLimitTooSmall => "the limit of frames is too small",
            Error::BadRange => "a range is none",
            _ => "the protocol does not allow it",
        })
    }
}

/// Reads a frame through.
///
/// # Errors
/// What is wrong with it, and in which range (the first is 0).
pub fn check(frame: &[u8]) -> Result<(), BadFrame> {
    let (version, rest) = frame.split_first().ok_or(BadFrame::Empty)?;
    if *version != VERSION {
        return Err(BadFrame::Version(*version));
    }
    let mut reader = Reader { rest, range: 0, time: 0 };
    let mut before = (0, [0; ID_SIZE]);
    while !reader.rest.is_empty() {
        let bound = reader.bound()?;
        if bound < before {
            return Err(BadFrame::BoundsDescend { range: reader.range });
        }
        before = bound;
        reader.contents()?;
        reader.range += 1;
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
    range: usize,
    /// The time of the bound before: times are written as differences.
    time: u64,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], BadFrame> {
        let truncated = BadFrame::Truncated { range: self.range };
        let count = usize::try_from(count).map_err(|_| truncated)?;
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Seven bits a byte, the most significant first; the last one has its high bit clear.
    fn number(&mut self) -> Result<u64, BadFrame> {
        let mut number: u64 = 0;
        for _ in 0..NUMBER_BYTES_MAX {
            let byte = self.bytes(1)?[0];
            let too_long = BadFrame::NumberTooLong { range: self.range };
            number = number.checked_mul(128).ok_or(too_long)? | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(BadFrame::NumberTooLong { range: self.range })
    }

    fn bound(&mut self) -> Result<(u64, [u8; ID_SIZE]), BadFrame> {
        // 0 stands for the end of time.
        self.time = match self.number()? {
            0 => u64::MAX,
            later => self.time.saturating_add(later - 1),
        };
        let bytes = self.number()?;
        if bytes > ID_SIZE as u64 {
            return Err(BadFrame::BoundTooLong { range: self.range, bytes });
        }
        let mut id = [0; ID_SIZE];
        let prefix = self.bytes(bytes)?;
        id[..prefix.len()].copy_from_slice(prefix);
        Ok((self.time, id))
    }

    fn contents(&mut self) -> Result<(), BadFrame> {
        let bytes = match self.number()? {
            SKIP => 0,
            FINGERPRINT => FINGERPRINT_SIZE as u64,
            ID_LIST => self.number()?.saturating_mul(ID_SIZE as u64),
            mode => return Err(BadFrame::Mode { range: self.range, mode }),
        };
        self.bytes(bytes).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_frame_is_told_why() {
        let id_list = |count: &[u8]| [&[0x61, 0, 0, 2][..], count].concat();
        let table: &[(Vec<u8>, Result<(), BadFrame>)] = &[
            (vec![], Err(BadFrame::Empty)),
            (vec![0x60], Err(BadFrame::Version(0x60))),
            (vec![0x62, 0, 0, 0], Err(BadFrame::Version(0x62))),
            (b"not a frame".to_vec(), Err(BadFrame::Version(b'n'))),
            (vec![0x61], Ok(())),
            (vec![0x61, 0, 0, 0], Ok(())),
            (vec![0x61, 0], Err(BadFrame::Truncated { range: 0 })),
            (vec![0x61, 0, 0], Err(BadFrame::Truncated { range: 0 })),
            (vec![0x61, 0x81], Err(BadFrame::Truncated { range: 0 })),
            (vec![0x61, 0, 0, 1, 7, 7], Err(BadFrame::Truncated { range: 0 })),
            (vec![0x61, 0, 0, 3], Err(BadFrame::Mode { range: 0, mode: 3 })),
            (vec![0x61, 0, 33], Err(BadFrame::BoundTooLong { range: 0, bytes: 33 })),
            (vec![0x61, 1, 2, 9], Err(BadFrame::Truncated { range: 0 })),
            (vec![0x61, 5, 1, 9, 0, 1, 1, 8, 0], Err(BadFrame::BoundsDescend { range: 1 })),
            (vec![0x61, 5, 1, 9, 0, 1, 1, 9, 0], Ok(())),
            ([&[0x61][..], &[0xff; 100]].concat(), Err(BadFrame::NumberTooLong { range: 0 })),
            (id_list(&[0]), Ok(())),
            (id_list(&[1]), Err(BadFrame::Truncated { range: 0 })),
            // 2^60 ids are announced, none sent.
            (
                id_list(&[0x90, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]),
                Err(BadFrame::Truncated { range: 0 }),
            ),
            (
                id_list(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
                Err(BadFrame::Truncated { range: 0 }),
            ),
            (
                id_list(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
                Err(BadFrame::NumberTooLong { range: 0 }),
            ),
        ];
        for (frame, checked) in table {
            assert_eq!(check(frame), *checked, "{frame:02x?}");
        }
    }
}
