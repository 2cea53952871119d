//! Where a device keeps a scope: its replica, and the messages that wait to be pushed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
};

use clap::Args;
use device::{drift::Left, replica::Replica};
use model::UserId;

use super::{connection::ConnectionArgs, outbox::Outbox, scope::Scope};
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
    pub outbox: Outbox,
    pub user: UserId,
    /// Of which user and scope the messages are.
    whose: String,
}

/// Held while one process brings the files to what the scope is.
pub struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is not yet another program has it open too.
        let _ = self.0.unlock();
    }
}

impl Store {
    pub fn of(args: &StoreArgs, connection: &ConnectionArgs) -> Result<Self, Failure> {
        let (tenant, user) = connection.claims()?;
        let replica = match &args.replica {
            Some(path) => path.clone(),
            None => {
                let device = connection.device()?;
                let users = connection.data_dir.join("devices").join(tenant.as_str());
                users.join(user.as_str()).join(device.as_str()).join(file_name(&connection.scope))
            }
        };
        let whose = format!("{tenant}/{user} {}", connection.scope);
        Ok(Self { outbox: Outbox::beside(&replica), replica, user, whose })
    }

    /// Keeps other processes from the files.
    ///
    /// # Errors
    /// One has them already.
    pub fn hold(&self) -> Result<Held, Failure> {
        let path = self.replica.with_extension("lock");
        let unusable = |error: io::Error| -> Failure {
            format!("{} cannot be used: {error}", path.display()).into()
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(unusable)?;
        }
        let file = File::create(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Held(file)),
            Err(TryLockError::WouldBlock) => {
                let file = self.replica.display();
                Err(format!("another sync of {file} is at work: let it end, then try again").into())
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
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
        self.take_acknowledged(&mut replica)?;
        Ok(replica)
    }

    /// Takes what was acknowledged into the replica: a recovery may lose it before a pull brings it. One that was never
    /// pulled to has pushed nothing: what there is is of a file that was removed, who knows whose.
    pub fn take_acknowledged(&self, replica: &mut Replica) -> Result<(), Failure> {
        if replica.epoch.is_some() {
            for message in self.outbox.read_acknowledged()? {
                replica.acknowledge(message)?;
            }
        }
        Ok(())
    }

    /// Writes the replica.
    pub fn save(&self, replica: &Replica) -> Result<(), Failure> {
        Ok(replica.save(&self.replica)?)
    }

    /// Keeps what a mending left: what is owed waits to be pushed, what was refused is for somebody to look at.
    pub fn keep(&self, left: &Left) -> Result<(), Failure> {
        self.outbox.add(&left.owed)?;
        self.outbox.reject(&left.refused)
    }

    /// Forgets the messages: the user is no member any more.
    pub fn purge(&self) -> Result<(), Failure> {
        self.outbox.forget_acknowledged()?;
        match fs::remove_file(&self.replica) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{} cannot be deleted: {error}", self.replica.display()).into())
            }
            _ => Ok(()),
        }
    }
}

/// A file of its own for each scope: a dot in the name would make it one of those beside another's.
fn file_name(scope: &Scope) -> String {
    format!("{}.jsonl", scope.to_string().replace('/', "-").replace('.', "%2E"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::value::RawValue;

    use super::*;

    fn store(directory: &Path, whose: &str) -> Store {
        let replica = directory.join("user.jsonl");
        let (outbox, user) = (Outbox::beside(&replica), UserId::new("ann").unwrap());
        Store { outbox, replica, user, whose: whose.to_owned() }
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
    fn no_scope_s_files_are_those_beside_another_s() {
        let file = |scope: &str| file_name(&scope.parse().unwrap());
        assert_eq!(
            (file("user"), file("team/web")),
            ("user.jsonl".into(), "team-web.jsonl".into())
        );
        assert_eq!(file("team/web.outbox"), "team-web%2Eoutbox.jsonl");
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("deep"), "acme/ann user");
        let held = store.hold().unwrap();
        let error = store.hold().err().unwrap().to_string();
        assert!(error.contains("another sync of"), "{error}");
        drop(held);
        store.hold().unwrap();
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
        assert!(!store.outbox.path().exists() && !store.outbox.rejected().exists());
        fs::write(store.outbox.path(), "{\"n\": 1}").unwrap();
        store.keep(&Left { owed: messages(&[2, 3]), refused: messages(&[4]) }).unwrap();
        assert_eq!(store.outbox.waiting().unwrap(), 3);
        let refused = fs::read_to_string(store.outbox.rejected()).unwrap();
        assert_eq!(refused.trim(), "{\"n\": 4}");
    }
}
