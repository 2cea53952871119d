//! Standard output, which may be a pipe that its reader closes early.

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
};

use crate::Failure;

/// Whether the reader still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    Reads,
    /// As `head` does when it has seen enough: no error, but nothing more is worth writing.
    Gone,
}

/// Whether a person looks at standard output.
pub fn is_for_people() -> bool {
    io::stdout().is_terminal()
}

/// Prints lines to standard output.
pub fn print<T: Display>(lines: impl IntoIterator<Item = T>) -> Result<Reader, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = lines.into_iter().try_for_each(|line| writeln!(out, "{line}"));
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(format!("standard output cannot be written: {error}").into()),
    }
}

/// Prints a line to standard error; a closed one is no reason to stop.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
