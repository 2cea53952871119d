//! The ops port of a running instance.

use std::path::PathBuf;

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Failure, dev::data_dir::DataDir};

/// Which instance.
#[derive(Args, Debug)]
pub(super) struct PortArgs {
    /// The ops port of the process to ask, such as http://archiver:9090
    #[arg(long, env = "CONTEXT_SYNC_OPS_URL", value_name = "URL")]
    ops_url: Option<String>,

    /// Where the development instance is kept, if no --ops-url is named
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    data_dir: PathBuf,
}

/// An answer that comes line by line.
pub(super) struct Said {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl PortArgs {
    /// Whether an instance is named, other than the development one here.
    pub(super) fn is_named(&self) -> bool {
        self.ops_url.is_some()
    }

    fn url(&self) -> Result<String, Failure> {
        Ok(match &self.ops_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => DataDir::new(&self.data_dir).read_addresses()?.ops,
        })
    }

    /// As [`Self::ask`], of the copies.
    pub(super) async fn ask_of_copies<T: Serialize>(
        &self,
        path: &str,
        asked: &T,
    ) -> Result<Said, Failure> {
        let url = self.url()?;
        let asking = reqwest::Client::new().post(format!("{url}{path}")).json(asked);
        let response = asking.send().await.map_err(|error| unanswered(&url, &error))?;
        match response.status() {
            status if status.is_success() => Ok(Said { response, buffer: Vec::new() }),
            reqwest::StatusCode::NOT_FOUND => Err(format!(
                "the process on {url} does not answer this: name the one with the projector, or --log kafka://… and --database-url"
            )
            .into()),
            status => Err(format!("{url} answers {status}: {}", response.text().await?).into()),
        }
    }

    /// Asks the instance to do something that one of its roles does, and gives what it says.
    pub(super) async fn ask(&self, role: &str, path: &str) -> Result<Said, Failure> {
        let url = self.url()?;
        let asked = reqwest::Client::new().post(format!("{url}{path}")).send().await;
        let response = asked.map_err(|error| unanswered(&url, &error))?;
        match response.status() {
            status if status.is_success() => Ok(Said { response, buffer: Vec::new() }),
            reqwest::StatusCode::NOT_FOUND => {
                Err(format!("the process on {url} has no {role}: name another --ops-url").into())
            }
            status => Err(format!("{url} answers {status}: {}", response.text().await?).into()),
        }
    }
}

fn unanswered(url: &str, error: &reqwest::Error) -> String {
    format!(
        "no instance answers on {url} ({error}); start one, or name its --ops-url or --data-dir"
    )
}

impl Said {
    /// The next line; `None` at the end.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
