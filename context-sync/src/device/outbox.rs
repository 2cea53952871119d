//! Messages that wait to be pushed: a file that any tool adds lines to, and what of it is on its way.
//!
//! What is on its way is taken out of the tools' reach by renaming the file, and cut into pushes in the same way however
//! often it is sent, each under its own Idempotency-Key: a push whose answer was lost is not applied again when it
//! is repeated, so that it does not undo what others wrote meanwhile. The new name says of which epoch its base cursors
//! are: that of the replica that the tools looked at, whatever the replica's has become until they are pushed.
//!
//! What was acknowledged is written down as the message that a pull will give, until one has come after it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use device::batches::{BATCH_BYTES, BATCH_MESSAGES, Outgoing};
use model::Epoch;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::Failure;

/// The files beside a replica.
#[derive(Clone, Debug)]
pub struct Outbox {
    replica: PathBuf,
}

/// Lines that are being pushed.
pub struct Sending {
    path: PathBuf,
    rejected: PathBuf,
    /// Names the pushes that it is cut into.
    id: Uuid,
    epoch: Option<Epoch>,
    lines: BufReader<File>,
    ahead: Option<Line>,
    read: Place,
    /// Up to where it was cut into pushes.
    cut: Place,
    /// Lines from before `cut` for which there was no room.
    held: Vec<String>,
}

/// One push of them.
pub struct Push {
    pub messages: Vec<Outgoing>,
    pub bad: Vec<BadLine>,
    /// The same whenever the same lines are sent.
    pub key: String,
    /// That the messages' base cursors are of.
    pub epoch: Option<Epoch>,
    end: Place,
}

/// A line that is no JSON.
pub struct BadLine {
    pub why: String,
    text: String,
}

/// What of a file was acknowledged.
#[derive(Default)]
struct Done {
    up_to: Place,
    /// But for these lines, which come before all others.
    held: Vec<String>,
}

/// Up to where a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    bytes: u64,
    lines: u64,
}

struct Line {
    text: String,
    end: Place,
}

impl Outbox {
    pub fn beside(replica: &Path) -> Self {
        Self { replica: replica.to_owned() }
    }

    /// Where lines are added.
    pub fn path(&self) -> PathBuf {
        self.replica.with_extension("outbox.jsonl")
    }

    /// Lines that were rejected, for somebody to look at.
    pub fn rejected(&self) -> PathBuf {
        self.replica.with_extension("rejected.jsonl")
    }

    /// What was acknowledged since the last pull that came to its end.
    fn acknowledged(&self) -> PathBuf {
        self.replica.with_extension("acknowledged.jsonl")
    }

    /// Writes down what was acknowledged, as pulls will give it: from here on it is not sent again.
    pub fn note_acknowledged(&self, acknowledged: &[Box<RawValue>]) -> Result<(), Failure> {
        append(&self.acknowledged(), acknowledged.iter().map(|message| message.get()))
    }

    /// What was written down so. A line that was being written when the machine went down is of a push that is sent again.
    pub fn read_acknowledged(&self) -> Result<Vec<Box<RawValue>>, Failure> {
        let text = read(&self.acknowledged())?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// A pull has come after it, or the replica is gone.
    pub fn forget_acknowledged(&self) -> Result<(), Failure> {
        remove(&self.acknowledged())
    }

    /// How many messages wait.
    pub fn waiting(&self) -> Result<u64, Failure> {
        let mut waiting = lines(&read(&self.path())?);
        for Taken { path, .. } in self.on_their_way()? {
            let (text, Done { up_to, held }) = (read(&path)?, done(&path)?);
            let up_to = usize::try_from(up_to.bytes).unwrap_or(usize::MAX);
            waiting += held.len() as u64 + lines(text.get(up_to..).unwrap_or_default());
        }
        Ok(waiting)
    }

    /// Takes what waits; it stays on disk until it is acknowledged. What was taken before comes first. `epoch`: the
    /// replica's, since it was written.
    pub fn take(&self, epoch: Option<Epoch>) -> Result<Vec<Sending>, Failure> {
        self.set_aside(epoch)?;
        let taken = self.on_their_way()?;
        taken.into_iter().map(|taken| Sending::open(taken, self.rejected())).collect()
    }

    /// Whatever waits was written while the replica was of this epoch.
    pub fn set_aside(&self, epoch: Option<Epoch>) -> Result<(), Failure> {
        let id = Uuid::now_v7();
        let name = match epoch {
            Some(Epoch(epoch)) => format!("sending-{id}.{epoch}.jsonl"),
            None => format!("sending-{id}.jsonl"),
        };
        match fs::rename(self.path(), self.replica.with_extension(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(unusable(&self.path(), &error))
            }
            _ => Ok(()),
        }
    }

    /// In the order in which they were taken.
    fn on_their_way(&self) -> Result<Vec<Taken>, Failure> {
        let (Some(directory), Some(stem)) = (self.replica.parent(), self.replica.file_stem())
        else {
            return Ok(Vec::new());
        };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let prefix = format!("{}.sending-", stem.to_string_lossy());
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unusable(directory, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| unusable(directory, &error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let named = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".jsonl"));
            found.extend(named.and_then(|named| Taken::named(named, path)));
        }
        found.sort_by_key(|taken| taken.id);
        Ok(found)
    }

    /// Adds lines that wait.
    pub fn add(&self, messages: &[Box<RawValue>]) -> Result<(), Failure> {
        append(&self.path(), messages.iter().map(|message| message.get()))
    }

    /// Adds lines for somebody to look at.
    pub fn reject(&self, messages: &[Box<RawValue>]) -> Result<(), Failure> {
        append(&self.rejected(), messages.iter().map(|message| message.get()))
    }
}

/// A file that was taken.
struct Taken {
    path: PathBuf,
    id: Uuid,
    epoch: Option<Epoch>,
}

impl Taken {
    fn named(name: &str, path: PathBuf) -> Option<Self> {
        let (id, epoch) = match name.split_once('.') {
            Some((id, epoch)) => (id, Some(Epoch(epoch.parse().ok()?))),
            None => (name, None),
        };
        Some(Self { path, id: id.parse().ok()?, epoch })
    }
}

impl Sending {
    fn open(taken: Taken, rejected: PathBuf) -> Result<Self, Failure> {
        let Taken { path, id, epoch } = taken;
        let Done { up_to: read, held } = done(&path)?;
        let open = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(read.bytes))?;
            Ok(BufReader::new(file))
        };
        let lines = open().map_err(|error| unusable(&path, &error))?;
        Ok(Self { path, rejected, id, epoch, lines, ahead: None, read, cut: read, held })
    }

    /// What is to be pushed next; `None` where the file ends. Who had it open before it was taken may still add
    /// a line.
    pub fn next_push(&mut self) -> Result<Option<Push>, Failure> {
        if !self.held.is_empty() {
            return self.push_of_held().map(Some);
        }
        let (mut messages, mut bad, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut end = self.cut;
        while let Some(line) = self.line()? {
            let json = serde_json::from_str::<&RawValue>(&line.text);
            let more = json.as_ref().map_or(0, |json| json.get().len());
            let full = messages.len() >= BATCH_MESSAGES || bytes + more > BATCH_BYTES;
            if full && !messages.is_empty() {
                self.ahead = Some(line);
                break;
            }
            bytes += more;
            end = line.end;
            let origin = format!("line {}", line.end.lines);
            match json {
                _ if line.text.is_empty() => {}
                Ok(json) => messages.push(Outgoing { origin, json: json.to_owned() }),
                Err(error) => {
                    let why = format!("{origin}: no JSON: {error}");
                    bad.push(BadLine { why, text: line.text });
                }
            }
        }
        if end == self.cut {
            return Ok(None);
        }
        let key = self.key("", &messages);
        self.cut = end;
        Ok(Some(Push { messages, bad, key, epoch: self.epoch, end }))
    }

    fn push_of_held(&mut self) -> Result<Push, Failure> {
        let mut messages = Vec::with_capacity(self.held.len());
        for line in self.held.drain(..) {
            let json = RawValue::from_string(line);
            let json = json.map_err(|e| unusable(&mark(&self.path), &e.into()))?;
            messages.push(Outgoing { origin: "an earlier line".to_owned(), json });
        }
        let (key, bad) = (self.key("held ", &messages), Vec::new());
        Ok(Push { messages, bad, key, epoch: self.epoch, end: self.cut })
    }

    fn line(&mut self) -> Result<Option<Line>, Failure> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let read = self.lines.read_until(b'\n', &mut bytes);
        if read.map_err(|error| unusable(&self.path, &error))? == 0 {
            return Ok(None);
        }
        self.read.bytes += bytes.len() as u64;
        self.read.lines += 1;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok(Some(Line { text, end: self.read }))
    }

    fn key(&self, kind: &str, messages: &[Outgoing]) -> String {
        let mut name = format!("{kind}{}", self.cut.bytes);
        for message in messages {
            name.push('\n');
            name.push_str(message.json.get());
        }
        Uuid::new_v5(&self.id, name.as_bytes()).to_string()
    }

    /// All of the push has an outcome; `rejected` are the places of those messages that were not taken, `held` of those
    /// that are to be pushed again, before all others.
    pub fn acknowledged(
        &self,
        push: &Push,
        rejected: &[usize],
        held: &[usize],
    ) -> Result<(), Failure> {
        let at = |place: &usize| push.messages.get(*place).map(|message| message.json.get());
        let bad = push.bad.iter().map(|bad| bad.text.as_str());
        append(&self.rejected, bad.chain(rejected.iter().filter_map(at)))?;
        let Place { bytes, lines } = push.end;
        let mut text = format!("{bytes} {lines}\n");
        held.iter().filter_map(at).for_each(|line| text.extend([line, "\n"]));
        let (mark, written) = (mark(&self.path), self.path.with_extension("done.new"));
        let write = || {
            let mut file = File::create(&written)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&written, &mark)
        };
        write().map_err(|error| unusable(&mark, &error))
    }

    /// All of it was acknowledged.
    pub fn end(self) -> Result<(), Failure> {
        remove(&self.path)?;
        remove(&mark(&self.path))
    }
}

/// Where it is written down how much of a file was acknowledged.
fn mark(sending: &Path) -> PathBuf {
    sending.with_extension("done")
}

/// How much was acknowledged; all of it is sent again where that cannot be told.
fn done(sending: &Path) -> Result<Done, Failure> {
    let text = read(&mark(sending))?;
    let mut lines = text.lines();
    let mut numbers = lines.next().unwrap_or_default().split(' ').map(|number| number.parse().ok());
    Ok(match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(bytes), Some(count)) => {
            let held = lines.map(str::to_owned).collect();
            Done { up_to: Place { bytes, lines: count }, held }
        }
        _ => Done::default(),
    })
}

/// Those that are not empty.
fn lines(text: &str) -> u64 {
    text.lines().filter(|line| !line.trim().is_empty()).count() as u64
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    format!("{} cannot be used: {error}", path.display()).into()
}

/// Nothing, if there is no file.
fn read(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn append<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    // The last line there may have no end; empty lines are passed over.
    let text: String =
        lines.map(|line| format!("\n{}\n", line.replace(['\n', '\r'], " "))).collect();
    if text.is_empty() {
        return Ok(());
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| unusable(path, &error))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(directory: &Path) -> Outbox {
        Outbox::beside(&directory.join("user.jsonl"))
    }

    fn texts(push: &Push) -> Vec<&str> {
        push.messages.iter().map(|message| message.json.get()).collect()
    }

    fn rejected(outbox: &Outbox) -> Vec<String> {
        let text = read(&outbox.rejected()).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn what_waits_stays_until_it_is_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        assert_eq!((outbox.waiting().unwrap(), outbox.take(None).unwrap().len()), (0, 0));
        fs::write(outbox.path(), "{\"n\": 1}\n\n{\"n\": 2}").unwrap();
        assert_eq!(outbox.waiting().unwrap(), 2);
        let first = outbox.take(None).unwrap().remove(0).next_push().unwrap().unwrap();
        assert_eq!(
            (texts(&first), outbox.waiting().unwrap()),
            (vec!["{\"n\": 1}", "{\"n\": 2}"], 2)
        );
        // It was not acknowledged, and more was added meanwhile: the first push is the same one again.
        fs::write(outbox.path(), "{\"n\": 3}\nnonsense\n").unwrap();
        let mut taken = outbox.take(None).unwrap();
        assert_eq!((taken.len(), outbox.waiting().unwrap()), (2, 4));
        let (mut later, mut earlier) = (taken.pop().unwrap(), taken.pop().unwrap());
        let again = earlier.next_push().unwrap().unwrap();
        assert_eq!((texts(&again), &again.key), (texts(&first), &first.key));
        earlier.acknowledged(&again, &[1], &[]).unwrap();
        assert!(earlier.next_push().unwrap().is_none());
        earlier.end().unwrap();
        let last = later.next_push().unwrap().unwrap();
        assert_eq!(texts(&last), ["{\"n\": 3}"]);
        assert!(last.bad[0].why.starts_with("line 2: no JSON") && last.key != first.key);
        later.acknowledged(&last, &[], &[]).unwrap();
        later.end().unwrap();
        assert_eq!(rejected(&outbox), ["{\"n\": 2}", "nonsense"]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_acknowledged_is_not_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let line = |n: usize| format!("{{\"n\": {n}}}\n");
        fs::write(outbox.path(), (1..=BATCH_MESSAGES + 50).map(line).collect::<String>()).unwrap();
        let mut sending = outbox.take(None).unwrap().remove(0);
        let first = sending.next_push().unwrap().unwrap();
        assert_eq!(first.messages.len(), BATCH_MESSAGES);
        sending.acknowledged(&first, &[], &[]).unwrap();
        let second = sending.next_push().unwrap().unwrap();
        drop(sending);
        assert_eq!(outbox.waiting().unwrap(), 50);
        let again = outbox.take(None).unwrap().remove(0).next_push().unwrap().unwrap();
        assert_eq!((texts(&again), &again.key), (texts(&second), &second.key));
        assert_eq!(again.messages[0].origin, format!("line {}", BATCH_MESSAGES + 1));
    }

    #[test]
    fn what_had_no_room_comes_first_and_under_another_key() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        fs::write(outbox.path(), "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n").unwrap();
        let mut sending = outbox.take(None).unwrap().remove(0);
        let first = sending.next_push().unwrap().unwrap();
        sending.acknowledged(&first, &[1], &[0, 2]).unwrap();
        assert_eq!(
            (outbox.waiting().unwrap(), rejected(&outbox)),
            (2, vec!["{\"n\": 2}".to_owned()])
        );
        fs::write(outbox.path(), "{\"n\": 1}\n").unwrap();
        let mut keys = vec![first.key];
        for _ in 0..2 {
            let mut taken = outbox.take(None).unwrap();
            assert_eq!((taken.len(), outbox.waiting().unwrap()), (2, 3));
            let again = taken[0].next_push().unwrap().unwrap();
            assert_eq!(texts(&again), ["{\"n\": 1}", "{\"n\": 3}"]);
            assert!(taken[0].next_push().unwrap().is_none());
            keys.push(again.key);
        }
        assert!(keys[0] != keys[1] && keys[1] == keys[2], "{keys:?}");
        let mut taken = outbox.take(None).unwrap();
        let again = taken[0].next_push().unwrap().unwrap();
        taken[0].acknowledged(&again, &[], &[]).unwrap();
        assert_eq!(outbox.waiting().unwrap(), 1);
        taken.remove(0).end().unwrap();
        assert_eq!(outbox.take(None).unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_comes_late_is_sent_too() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        outbox.add(&[]).unwrap();
        assert!(!outbox.path().exists());
        fs::write(outbox.path(), "{\"n\": 1}\n").unwrap();
        let mut open = OpenOptions::new().append(true).open(outbox.path()).unwrap();
        let mut sending = outbox.take(None).unwrap().remove(0);
        let first = sending.next_push().unwrap().unwrap();
        sending.acknowledged(&first, &[], &[]).unwrap();
        open.write_all(b"{\"n\": 2}\n").unwrap();
        assert_eq!(texts(&sending.next_push().unwrap().unwrap()), ["{\"n\": 2}"]);
    }

    #[test]
    fn a_push_keeps_the_epoch_in_which_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let [older, newer] = [1, 2].map(|n| Some(Epoch(Uuid::from_u128(n))));
        let write = |n: u32| fs::write(outbox.path(), format!("{{\"n\": {n}}}\n")).unwrap();
        write(1);
        let first = outbox.take(older).unwrap().remove(0).next_push().unwrap().unwrap();
        // Written while the replica became another epoch's: it was still the older one that was looked at.
        write(2);
        outbox.set_aside(older).unwrap();
        outbox.set_aside(older).unwrap();
        write(3);
        let mut taken = outbox.take(newer).unwrap();
        let pushes: Vec<Push> =
            taken.iter_mut().map(|sending| sending.next_push().unwrap().unwrap()).collect();
        let epochs: Vec<_> = pushes.iter().map(|push| push.epoch).collect();
        assert_eq!(epochs, [older, older, newer]);
        assert_eq!((&pushes[0].key, texts(&pushes[0])), (&first.key, texts(&first)));
        taken[0].acknowledged(&pushes[0], &[], &[0]).unwrap();
        let held = outbox.take(newer).unwrap().remove(0).next_push().unwrap().unwrap();
        assert_eq!((held.epoch, outbox.waiting().unwrap()), (older, 3));
    }

    #[test]
    fn what_was_taken_before_epochs_were_named_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let name = format!("user.sending-{}.jsonl", Uuid::now_v7());
        fs::write(directory.path().join(name), "{\"n\": 1}\n").unwrap();
        for other in ["user.sending-x.jsonl", "user.sending-x.y.jsonl"] {
            fs::write(directory.path().join(other), "{\"n\": 2}\n").unwrap();
        }
        let epoch = Some(Epoch(Uuid::from_u128(1)));
        let mut taken = outbox.take(epoch).unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].next_push().unwrap().unwrap().epoch, None);
    }

    #[test]
    fn a_push_is_not_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let sizes = [10, BATCH_BYTES + 1, BATCH_BYTES / 2, BATCH_BYTES / 2 + 2, 10];
        let line = |size: &usize| format!("\"{}\"\n", "x".repeat(size - 2));
        fs::write(outbox.path(), sizes.iter().map(line).collect::<String>()).unwrap();
        let mut sending = outbox.take(None).unwrap().remove(0);
        let mut pushes = Vec::new();
        while let Some(push) = sending.next_push().unwrap() {
            pushes.push(push.messages.len());
        }
        assert_eq!(pushes, [1, 1, 1, 2]);
    }
}
