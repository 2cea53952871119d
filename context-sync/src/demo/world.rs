//! Who takes part in the demonstration, and where.

use std::{collections::HashSet, sync::Arc};

use device::wire::{PullFrom, PullPage, Pulled};
use model::{ContentHash, DeviceId};
use serde::Deserialize;
use service::{Secret, auth::OrgRole};

use super::people::Person;
use crate::{
    Failure,
    dev::Instance,
    device::{
        client::{Client, Server},
        output,
        scope::Scope,
    },
};

/// The tenant that everything happens in.
pub const TENANT: &str = "demo";
/// The team, within the tenant.
const TEAM: &str = "team/demo-team";
/// Messages in a page of a pull: the most that the contract has.
const PAGE: u32 = 1000;

/// An instance, its people and their team.
pub struct World<'a> {
    instance: &'a Instance,
    server: Server,
    pub people: Vec<Person>,
    pub team: Scope,
}

impl<'a> World<'a> {
    pub fn new(instance: &'a Instance, people: Vec<Person>) -> Result<Self, Failure> {
        let server = Server::new(&instance.url, Arc::new(|line| output::note(line)))?;
        Ok(Self { instance, server, people, team: TEAM.parse()? })
    }

    /// A device of a user of the tenant.
    pub fn device(&self, user: &str, device: &str) -> Result<Client, Failure> {
        let token = self.instance.token(TENANT, user, OrgRole::Member)?;
        Ok(self.server.client(Secret::new(token), DeviceId::new(device)?))
    }

    /// The key of the team's records on the log.
    pub fn team_key(&self) -> String {
        format!("{TENANT}/{TEAM}")
    }

    /// The one who owns the team: the first author.
    pub fn owner(&self) -> Result<&str, Failure> {
        self.people.first().map(|p| p.user.as_str()).ok_or_else(|| "there is nobody".into())
    }

    /// All messages, author by author.
    pub fn messages(&self) -> usize {
        self.people.iter().map(|person| person.messages.len()).sum()
    }

    /// What the messages say, each content once: the API keeps it once.
    pub fn contents(&self) -> Result<HashSet<ContentHash>, Failure> {
        #[derive(Deserialize)]
        struct Message {
            content: String,
        }
        let mut contents = HashSet::new();
        for message in self.people.iter().flat_map(|person| &person.messages) {
            let message: Message = serde_json::from_str(message.json.get())?;
            contents.insert(ContentHash::of(&message.content));
        }
        Ok(contents)
    }
}

/// Pulls all of a scope from the beginning. The page is the last one.
pub async fn pull_all(
    client: &Client,
    scope: &Scope,
    pulled: impl Fn(u64),
) -> Result<(Vec<Pulled>, PullPage), Failure> {
    let mut messages = Vec::new();
    let mut cursor = 0;
    loop {
        let page =
            client.pull(scope, PullFrom { cursor, limit: PAGE, ..PullFrom::default() }).await?;
        for message in &page.messages {
            messages.push(serde_json::from_str(message.get())?);
        }
        pulled(page.messages.len() as u64);
        cursor = page.cursor.get();
        if !page.has_more {
            return Ok((messages, page));
        }
    }
}
