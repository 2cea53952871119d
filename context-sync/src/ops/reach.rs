//! How a command reaches the copies: itself, where the log is Kafka; else through the process that holds it.

use archive::{ArchiveAddress, ArchiveConfig};
use clap::Args;
use eventlog::{LogAddress, LogConfig};
use readmodel::DatabaseConfig;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    asked::{CheckAsked, LettersAsked, ShowAsked, StatusAsked, TraceAsked},
    port::{PortArgs, Said},
};
use crate::{
    Failure,
    copies::{
        Copies, Unasked,
        check::Checking,
        dead_letters::{Chosen, Handling, Letter},
        status::Status,
        trace::Tracing,
    },
};

/// Log, database and archive.
#[derive(Args, Debug)]
pub(super) struct ReachArgs {
    #[command(flatten)]
    port: PortArgs,
    #[command(flatten)]
    database: DatabaseConfig,
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    archive: ArchiveConfig,
}

pub(super) enum Reach {
    Here(Box<Copies>),
    Port(PortArgs),
}

/// Answers that come one after the other.
pub(super) enum Told<T> {
    Here(mpsc::Receiver<T>),
    Port(Said),
}

impl<T: DeserializeOwned> Told<T> {
    /// The next; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Failure> {
        match self {
            Self::Here(told) => Ok(told.recv().await),
            Self::Port(said) => said.next().await,
        }
    }
}

impl ReachArgs {
    pub(super) async fn reach(self) -> Reach {
        let is_kafka = matches!(self.log.log, LogAddress::Kafka { .. });
        if self.port.is_named() || !is_kafka {
            return Reach::Port(self.port);
        }
        let mut copies = Copies::open(&self.log, &self.database, &self.archive).await;
        if let Some(ArchiveAddress::File(folder)) = &self.archive.archive {
            copies.disks.push(("archive".to_owned(), folder.clone()));
        }
        Reach::Here(Box::new(copies))
    }
}

impl Reach {
    pub(super) async fn status(&self, asked: StatusAsked) -> Result<Status, Failure> {
        match self {
            Self::Here(copies) => Ok(copies.status(asked.limits()).await),
            Self::Port(port) => one(port, "/copies/status", &asked).await,
        }
    }

    pub(super) async fn check(self, asked: CheckAsked) -> Result<Told<Checking>, Failure> {
        let query = asked.query()?;
        match self {
            Self::Here(copies) => Ok(here(async move |say| copies.check(&query, &say).await)),
            Self::Port(port) => Ok(Told::Port(port.ask_of_copies("/copies/check", &asked).await?)),
        }
    }

    pub(super) async fn trace(self, asked: TraceAsked) -> Result<Told<Tracing>, Failure> {
        match self {
            Self::Here(copies) => Ok(here(async move |say| copies.trace(asked.id, &say).await)),
            Self::Port(port) => Ok(Told::Port(port.ask_of_copies("/copies/trace", &asked).await?)),
        }
    }

    pub(super) async fn letters(&self, asked: &LettersAsked) -> Result<Vec<Letter>, Failure> {
        let listed: Result<Vec<Letter>, Unasked> = match self {
            Self::Here(copies) => asked.list(copies).await,
            Self::Port(port) => one(port, "/dead-letters/list", asked).await?,
        };
        Ok(listed?)
    }

    pub(super) async fn letter(&self, asked: &ShowAsked) -> Result<Letter, Failure> {
        let shown: Result<Letter, Unasked> = match self {
            Self::Here(copies) => asked.show(copies).await,
            Self::Port(port) => one(port, "/dead-letters/show", asked).await?,
        };
        Ok(shown?)
    }

    pub(super) async fn retry(self, chosen: Chosen) -> Result<Told<Handling>, Failure> {
        match self {
            Self::Here(copies) => {
                Ok(here(async move |say| copies.retry_letters(&chosen, &say).await))
            }
            Self::Port(port) => {
                Ok(Told::Port(port.ask_of_copies("/dead-letters/retry", &chosen).await?))
            }
        }
    }

    pub(super) async fn discard(self, chosen: Chosen) -> Result<Told<Handling>, Failure> {
        match self {
            Self::Here(copies) => {
                Ok(here(async move |say| copies.discard_letters(&chosen, &say).await))
            }
            Self::Port(port) => {
                Ok(Told::Port(port.ask_of_copies("/dead-letters/discard", &chosen).await?))
            }
        }
    }
}

fn here<T, F>(asked: impl FnOnce(mpsc::Sender<T>) -> F) -> Told<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (say, told) = mpsc::channel(16);
    tokio::spawn(asked(say));
    Told::Here(told)
}

async fn one<T: DeserializeOwned>(
    port: &PortArgs,
    path: &str,
    asked: &impl Serialize,
) -> Result<T, Failure> {
    let mut said = port.ask_of_copies(path, asked).await?;
    said.next().await?.ok_or_else(|| "the process stopped before it answered".into())
}
