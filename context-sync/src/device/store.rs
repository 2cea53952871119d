//! Where a device keeps a scope: its replica, and the messages that wait to be pushed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use device::{batches::Outgoing, drift::Left, replica::Replica};
use serde_json::value::RawValue;

use super::connection::ConnectionArgs;
use crate::Failure;

/// Which file.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// The file of this scope's messages; if not given, DATA_DIR/devices/TENANT/USER/DEVICE/SCOPE.jsonl
    #[arg(long, env = "CONTEXT_SYNC_REPLICA", value_name = "FILE")]
    pub replica: Option<PathBuf>,
}

/// The files of one scope on one device: `FILE.jsonl`, and beside it `FILE.outbox.jsonl`, which any tool may add
/// lines to.
#[derive(Clone, Debug)]
pub struct Store {
    pub replica: PathBuf,
    /// Of which user and scope the messages are.
    whose: String,
}

/// Messages that wait, taken out of the outbox so that others can be added meanwhile.
#[derive(Default)]
pub struct Waiting {
    pub messages: Vec<Outgoing>,
    /// What is wrong with each line that is no JSON.
    pub bad: Vec<String>,
}

impl Store {
    pub fn of(args: &StoreArgs, connection: &ConnectionArgs) -> Result<Self, Failure> {
        let (tenant, user) = connection.claims()?;
        let scope = connection.scope.to_string();
        let replica = match &args.replica {
            Some(path) => path.clone(),
            None => {
                let device = connection.device()?;
                let user =
                    connection.data_dir.join("devices").join(tenant.as_str()).join(user.as_str());
                user.join(device.as_str()).join(format!("{}.jsonl", scope.replace('/', "-")))
            }
        };
        Ok(Self { replica, whose: format!("{tenant}/{user} {scope}") })
    }

    /// Reads the replica.
    ///
    /// # Errors
    /// It cannot be read, or is another user's or scope's: that must not be mixed.
    pub fn load(&self) -> Result<Replica, Failure> {
        let mut replica = Replica::load(&self.replica)?;
        if !replica.whose.is_empty() && replica.whose != self.whose {
            let (file, found, whose) = (self.replica.display(), &replica.whose, &self.whose);
            return Err(format!(
                "{file} holds the messages of {found}, not of {whose}: name another file with --replica"
            )
            .into());
        }
        replica.whose.clone_from(&self.whose);
        Ok(replica)
    }

    /// Writes the replica.
    pub fn save(&self, replica: &Replica) -> Result<(), Failure> {
        Ok(replica.save(&self.replica)?)
    }

    /// Lines that wait to be pushed, and where they are added.
    pub fn outbox(&self) -> PathBuf {
        self.replica.with_extension("outbox.jsonl")
    }

    /// Lines that are being pushed: not acknowledged yet.
    fn sending(&self) -> PathBuf {
        self.replica.with_extension("sending.jsonl")
    }

    /// Lines that were rejected, for somebody to look at.
    pub fn rejected(&self) -> PathBuf {
        self.replica.with_extension("rejected.jsonl")
    }

    /// How many messages wait.
    pub fn waiting(&self) -> Result<u64, Failure> {
        let mut count = 0;
        for path in [self.sending(), self.outbox()] {
            count += lines(&read(&path)?).count() as u64;
        }
        Ok(count)
    }

    /// Takes what waits; it stays on disk until [`Store::acknowledged`]. What was taken before and never
    /// acknowledged comes first: pushed twice, it is kept once.
    pub fn take(&self) -> Result<Waiting, Failure> {
        let (outbox, sending) = (self.outbox(), self.sending());
        if outbox.exists() {
            if sending.exists() {
                append(&sending, &read(&outbox)?)?;
                remove(&outbox)?;
            } else {
                fs::rename(&outbox, &sending).map_err(|e| unusable(&outbox, &e))?;
            }
        }
        let mut waiting = Waiting::default();
        for (number, line) in lines(&read(&sending)?) {
            let origin = format!("line {number}");
            match serde_json::from_str::<&RawValue>(line) {
                Ok(json) => waiting.messages.push(Outgoing { origin, json: json.to_owned() }),
                Err(error) => waiting.bad.push(format!("{origin}: no JSON: {error}")),
            }
        }
        Ok(waiting)
    }

    /// All that was taken has an outcome. If some of it was rejected, the lines are kept for somebody to look at.
    pub fn acknowledged(&self, some_rejected: bool) -> Result<(), Failure> {
        let sending = self.sending();
        if some_rejected {
            append(&self.rejected(), &read(&sending)?)?;
        }
        remove(&sending)
    }

    /// Keeps what a mending left: what is owed waits to be pushed, what was refused is for somebody to look at.
    pub fn keep(&self, left: &Left) -> Result<(), Failure> {
        for (path, messages) in [(self.outbox(), &left.owed), (self.rejected(), &left.refused)] {
            if !messages.is_empty() {
                let lines: Vec<&str> = messages.iter().map(|message| message.get()).collect();
                append(&path, &lines.join("\n"))?;
            }
        }
        Ok(())
    }

    /// Forgets the messages: the user is no member any more.
    pub fn purge(&self) -> Result<(), Failure> {
        remove(&self.replica)
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.trim()))
        .filter(|(_, line)| !line.is_empty())
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    format!("{} cannot be used: {error}", path.display()).into()
}

/// Nothing, if there is no file.
fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    match fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(text),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn append(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    // The last line there may have no end; empty lines are passed over.
    let text = format!("\n{}\n", text.trim_end());
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

    fn store(directory: &Path, whose: &str) -> Store {
        Store { replica: directory.join("user.jsonl"), whose: whose.to_owned() }
    }

    #[test]
    fn another_user_s_messages_are_not_mixed_with_one_s_own() {
        let directory = tempfile::tempdir().unwrap();
        let anns = store(directory.path(), "acme/ann user");
        let replica = anns.load().unwrap();
        anns.save(&replica).unwrap();
        anns.load().unwrap();
        let error = store(directory.path(), "acme/bob user").load().err().unwrap().to_string();
        assert!(error.contains("holds the messages of acme/ann user"), "{error}");
    }

    #[test]
    fn what_waits_stays_until_it_is_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), "acme/ann user");
        assert_eq!((store.waiting().unwrap(), store.take().unwrap().messages.len()), (0, 0));
        fs::write(store.outbox(), "{\"n\": 1}\n\n{\"n\": 2}").unwrap();
        assert_eq!(store.waiting().unwrap(), 2);
        assert_eq!(store.take().unwrap().messages.len(), 2);
        // It was not acknowledged, and more was added meanwhile.
        fs::write(store.outbox(), "{\"n\": 3}\nnonsense\n").unwrap();
        let waiting = store.take().unwrap();
        let texts: Vec<&str> = waiting.messages.iter().map(|m| m.json.get()).collect();
        assert_eq!(texts, ["{\"n\": 1}", "{\"n\": 2}", "{\"n\": 3}"]);
        assert!(waiting.bad[0].starts_with("line 5: no JSON"), "{:?}", waiting.bad);
        store.acknowledged(true).unwrap();
        assert_eq!(store.waiting().unwrap(), 0);
        assert_eq!(lines(&read(&store.rejected()).unwrap()).count(), 4);
        store.acknowledged(false).unwrap();
    }

    #[test]
    fn what_a_mending_left_waits_or_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), "acme/ann user");
        let messages = |numbers: &[u32]| {
            let json = |n| RawValue::from_string(format!("{{\"n\": {n}}}")).unwrap();
            numbers.iter().map(json).collect()
        };
        store.keep(&Left::default()).unwrap();
        assert!(!store.outbox().exists() && !store.rejected().exists());
        fs::write(store.outbox(), "{\"n\": 1}").unwrap();
        store.keep(&Left { owed: messages(&[2, 3]), refused: messages(&[4]) }).unwrap();
        let waiting: Vec<String> =
            store.take().unwrap().messages.iter().map(|m| m.json.get().to_owned()).collect();
        assert_eq!(waiting, ["{\"n\": 1}", "{\"n\": 2}", "{\"n\": 3}"]);
        assert_eq!(read(&store.rejected()).unwrap().trim(), "{\"n\": 4}");
    }
}
