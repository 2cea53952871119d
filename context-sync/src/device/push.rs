//! `context-sync push`: messages from standard input to a scope.

use std::io::{self, BufRead, IsTerminal, stdin};

use clap::Args;
use device::{
    batches::Outgoing,
    upload::{Delivered, Upload},
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    connection::ConnectionArgs,
    output::{self, Reader, print},
    progress::Progress,
    table::of_tally,
};
use crate::Failure;

/// Rejected messages that are named; the rest is counted.
const NAMED_REJECTIONS: u64 = 10;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 256;

#[derive(Args, Debug)]
pub struct PushArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Push one message of this type instead of reading standard input
    #[arg(long = "type", value_name = "TYPE", requires = "content")]
    pub message_type: Option<String>,

    /// The content of that message
    #[arg(long, value_name = "TEXT", requires = "message_type")]
    pub content: Option<String>,

    /// Print the answer to each push as a line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Where messages come from.
enum Source {
    One(Option<Outgoing>),
    Lines { lines: mpsc::Receiver<io::Result<String>>, number: u64 },
}

/// What came of a line.
enum Line {
    Message(Outgoing),
    Bad(String),
    End,
}

/// Pushes, shows what became of it, and fails if a message was rejected.
pub async fn run(args: PushArgs) -> Result<(), Failure> {
    let mut source = Source::of(&args)?;
    let total = matches!(source, Source::One(_)).then_some(1);
    let progress = Progress::new("pushing", "messages", total);
    let client = args.connection.client(progress.notify())?;
    let mut shown = Shown { progress: &progress, json: args.json, rejections: 0 };
    let requests = client.in_scope(&args.connection.scope);
    let mut upload = Upload::new(&requests);
    let mut bad_lines = 0;
    loop {
        match source.next().await? {
            Line::Message(message) => shown.show(upload.add(message).await?)?,
            Line::Bad(why) => {
                bad_lines += 1;
                shown.reject(&why);
            }
            Line::End => break,
        }
    }
    shown.show(upload.finish().await?)?;
    let mut tally = upload.tally;
    tally.rejected += bad_lines;
    progress.finish(format!("sent {} messages", tally.messages()));
    if !args.json {
        let _ = print([of_tally(&tally)])?;
    }
    match tally.not_taken() {
        0 => Ok(()),
        not_taken => {
            Err(format!("{not_taken} of {} messages were rejected", tally.messages()).into())
        }
    }
}

struct Shown<'a> {
    progress: &'a Progress,
    json: bool,
    rejections: u64,
}

impl Shown<'_> {
    fn show(&mut self, delivered: Option<Delivered>) -> Result<(), Failure> {
        let Some(delivered) = delivered else { return Ok(()) };
        self.progress.add(delivered.messages);
        for why in delivered.rejections.iter().chain(&delivered.no_room) {
            self.reject(why);
        }
        if let Some(answer) = delivered.answer.filter(|_| self.json) {
            // Whether anyone reads the answers or not, the messages are to be pushed.
            let (Reader::Reads | Reader::Gone) = print([serde_json::to_string(&answer)?])?;
        }
        Ok(())
    }

    fn reject(&mut self, why: &str) {
        self.rejections += 1;
        if self.rejections <= NAMED_REJECTIONS {
            self.progress.note(why);
        } else if self.rejections == NAMED_REJECTIONS + 1 {
            self.progress.note("… further rejected messages are counted, not named");
        }
    }
}

impl Source {
    fn of(args: &PushArgs) -> Result<Self, Failure> {
        if let (Some(message_type), Some(content)) = (&args.message_type, &args.content) {
            let message = serde_json::json!({ "type": message_type, "content": content });
            let json = serde_json::value::to_raw_value(&message)?;
            return Ok(Self::One(Some(Outgoing { origin: "the message".to_owned(), json })));
        }
        if stdin().is_terminal() {
            output::note(
                "Reading messages from standard input, a JSON object a line; Ctrl-D ends.",
            );
        }
        // Reading standard input blocks: a thread of its own does it, a little ahead.
        let (sender, lines) = mpsc::channel(LINES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut lines = stdin().lock().lines();
            while lines.next().is_some_and(|line| sender.blocking_send(line).is_ok()) {}
        });
        Ok(Self::Lines { lines, number: 0 })
    }

    async fn next(&mut self) -> Result<Line, Failure> {
        let (lines, number) = match self {
            Self::One(message) => return Ok(message.take().map_or(Line::End, Line::Message)),
            Self::Lines { lines, number } => (lines, number),
        };
        loop {
            let Some(line) = lines.recv().await else { return Ok(Line::End) };
            *number += 1;
            let line = line.map_err(|error| format!("standard input, line {number}: {error}"))?;
            if !line.trim().is_empty() {
                return Ok(read(*number, &line));
            }
        }
    }
}

/// Whether it is a message is the API's to say; whether it is JSON must be known here, for else it
/// would spoil the push it goes in.
fn read(number: u64, line: &str) -> Line {
    let origin = format!("line {number}");
    match serde_json::from_str::<&RawValue>(line.trim()) {
        Ok(json) => Line::Message(Outgoing { origin, json: json.to_owned() }),
        Err(error) => {
            // Its own "at line 1" would be taken for the first line read.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            Line::Bad(format!("{origin}, column {}: no JSON: {reason}", error.column()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_as_it_is_or_not_at_all() {
        let Line::Message(message) = read(3, " {\"n\": 1e400, \"type\":\"x\"} ") else {
            panic!("refused");
        };
        assert_eq!(
            (message.origin.as_str(), message.json.get()),
            ("line 3", "{\"n\": 1e400, \"type\":\"x\"}")
        );
        for bad in ["{", "{} {}", "nonsense", "{\"a\":}"] {
            let Line::Bad(why) = read(7, bad) else { panic!("{bad} taken") };
            assert!(why.starts_with("line 7, column ") && !why.contains("line 1"), "{why}");
        }
    }
}
