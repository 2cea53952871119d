//! Dead letters: shown, retried, discarded.
//!
//! A refused record is an outcome like any other, the same in every copy: its row stays. To retry it appends a new
//! event, to discard it says that somebody has looked; either is a mark beside the row. A parked event has been folded
//! by every other copy, the archiver's too: it can only be folded here as well, never discarded
//! (docs/decisions/0015-past-versions-and-dead-letters.md has the reasons).

use std::time::Duration;

use bytes::Bytes;
use eventlog::{AppendError, EventLog};
use model::{Command, CommandId, Event, Place, ScopeKey};
use projector::parked;
use readmodel::{
    Pool,
    dead_letters::{self, LetterQuery, Mark, StoredLetter},
    outcomes::{Decided, decided},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc::Sender, time::Instant};

use super::{Copies, Unasked, trace::verdict};

/// Letters read at once.
const PAGE: u32 = 500;
/// How long a retried event is waited for.
const DECIDED_WITHIN: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A dead letter, as it is shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Letter {
    /// Partition and offset, as 3-12345.
    pub place: String,
    /// `refused` or `parked`.
    pub kind: String,
    /// The record's key: `tenant/kind/name`, or whatever it is.
    pub key: String,
    pub append_time: String,
    pub bytes: u64,
    pub reason: String,
    pub mark: Option<LetterMark>,
    /// What is in it, in `show` alone.
    pub record: Option<LetterRecord>,
}

/// What was done about a refused record.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LetterMark {
    /// `retried` or `discarded`.
    pub mark: String,
    /// Where the new event stands.
    pub retried_as: Option<String>,
    pub note: String,
    pub at: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LetterRecord {
    /// The value's bytes, in hex.
    pub value: String,
    /// What this build makes of it: an event's kind, or why it is none.
    pub event: String,
    pub command_id: Option<String>,
    pub scope: Option<String>,
    pub actor: Option<String>,
    pub device: Option<String>,
}

/// Which dead letters.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Chosen {
    /// By their places.
    #[serde(default)]
    pub places: Vec<String>,
    /// All of a scope, `tenant/kind/name`.
    pub scope: Option<String>,
    #[serde(default)]
    pub all: bool,
    /// Why, for whoever comes after.
    #[serde(default)]
    pub note: String,
}

/// What retrying or discarding says, as it goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// Parked events of a scope folded so far.
    Folding {
        scope: String,
        events: u64,
    },
    /// All parked events of a scope are folded.
    Folded {
        scope: String,
        events: u64,
    },
    /// The database still refuses this one of them.
    StillParked {
        scope: String,
        folded: u64,
        place: String,
        reason: String,
    },
    /// A refused record was appended anew; what it came to.
    Appended {
        place: String,
        retried_as: String,
        outcome: String,
    },
    Discarded {
        place: String,
    },
    /// This one is left as it was.
    Left {
        place: String,
        why: String,
    },
    Done {
        handled: u64,
        left: u64,
    },
    /// It could not be done, or no further.
    Failed(String),
}

/// Dead letters to handle.
#[derive(Default)]
struct Resolved {
    refused: Vec<Place>,
    /// Scopes whose events are parked, and the place of the first one chosen.
    parked: Vec<(ScopeKey, Place)>,
}

impl Copies {
    fn letters(&self) -> Result<&Pool, Unasked> {
        self.rows.as_ref().map_err(|why| format!("the database: {why}"))
    }

    /// Dead letters in the log's order; the last of them may be followed by more.
    pub async fn list_letters(
        &self,
        with_marked: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<Letter>, Unasked> {
        let query = LetterQuery { with_marked, after, limit };
        let letters = dead_letters::list(self.letters()?, query).await.map_err(in_database)?;
        Ok(letters.iter().map(shown).collect())
    }

    /// One dead letter, with its record.
    pub async fn show_letter(&self, place: Place) -> Result<Letter, Unasked> {
        let letter = dead_letters::get(self.letters()?, place).await.map_err(in_database)?;
        let letter = letter.ok_or_else(|| format!("there is no dead letter at {place}"))?;
        Ok(Letter { record: Some(record(&letter)), ..shown(&letter) })
    }

    /// Retries; the last thing said is `Done` or `Failed`.
    pub async fn retry_letters(&self, chosen: &Chosen, say: &Sender<Handling>) {
        let last = match self.retry(chosen, say).await {
            Ok((handled, left)) => Handling::Done { handled, left },
            Err(why) => Handling::Failed(why),
        };
        let _ = say.send(last).await; // nobody listens any more
    }

    /// As [`Self::retry_letters`], for those that are to be forgotten.
    pub async fn discard_letters(&self, chosen: &Chosen, say: &Sender<Handling>) {
        let last = match self.discard(chosen, say).await {
            Ok((handled, left)) => Handling::Done { handled, left },
            Err(why) => Handling::Failed(why),
        };
        let _ = say.send(last).await;
    }

    async fn retry(&self, chosen: &Chosen, say: &Sender<Handling>) -> Result<(u64, u64), Unasked> {
        // Before anything is folded or appended: it must be the log that these were found on.
        let (log, rows) = self.of_each_other().await?;
        let resolved = self.resolve(chosen).await?;
        let (mut handled, mut left) = (0, 0);
        for (scope, _) in &resolved.parked {
            let told = self.retry_parked(scope, say).await?;
            let done = matches!(told, Handling::Folded { .. });
            *(if done { &mut handled } else { &mut left }) += 1;
            let _ = say.send(told).await;
        }
        for place in resolved.refused {
            let told = append_anew(log.as_ref(), rows, place, &chosen.note).await?;
            let done = matches!(told, Handling::Appended { .. });
            *(if done { &mut handled } else { &mut left }) += 1;
            let _ = say.send(told).await;
        }
        Ok((handled, left))
    }

    async fn retry_parked(
        &self,
        scope: &ScopeKey,
        say: &Sender<Handling>,
    ) -> Result<Handling, Unasked> {
        let shown = scope.to_string();
        let step = |events| {
            let _ = say.try_send(Handling::Folding { scope: shown.clone(), events });
        };
        let feed = self.feed.as_deref();
        let retried = parked::retry(&self.database, feed, scope.reference(), step).await;
        let retried = retried.map_err(in_database)?;
        Ok(match retried.still_refused {
            None => Handling::Folded { scope: shown.clone(), events: retried.folded },
            Some((place, reason)) => Handling::StillParked {
                scope: shown.clone(),
                folded: retried.folded,
                place: place.to_string(),
                reason,
            },
        })
    }

    async fn discard(
        &self,
        chosen: &Chosen,
        say: &Sender<Handling>,
    ) -> Result<(u64, u64), Unasked> {
        // Of another log, they are somebody else's to discard.
        let (_, rows) = self.of_each_other().await?;
        let resolved = self.resolve(chosen).await?;
        let (mut handled, mut left) = (0, 0);
        for (scope, place) in resolved.parked {
            let why = format!(
                "it is parked: all other copies have folded it, so the rows of {scope} must too; retry it"
            );
            let _ = say.send(Handling::Left { place: place.to_string(), why }).await;
            left += 1;
        }
        for place in resolved.refused {
            let marked = dead_letters::mark(rows, place, &Mark::Discarded, &chosen.note).await;
            let place = place.to_string();
            let told = match marked.map_err(in_database)? {
                true => Handling::Discarded { place },
                false => Handling::Left { place, why: "it is marked already".to_owned() },
            };
            let done = matches!(told, Handling::Discarded { .. });
            *(if done { &mut handled } else { &mut left }) += 1;
            let _ = say.send(told).await;
        }
        Ok((handled, left))
    }

    async fn resolve(&self, chosen: &Chosen) -> Result<Resolved, Unasked> {
        let rows = self.letters()?;
        let mut resolved = Resolved::default();
        for text in &chosen.places {
            let place = place(text)?;
            let letter = dead_letters::get(rows, place).await.map_err(in_database)?;
            let letter = letter.ok_or_else(|| format!("there is no dead letter at {place}"))?;
            resolved.add(&letter)?;
        }
        let scope: Option<ScopeKey> = match &chosen.scope {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| format!("--scope: {error}"))?),
        };
        if scope.is_none() && !chosen.all {
            return Ok(resolved);
        }
        let mut after = None;
        loop {
            let query = LetterQuery { with_marked: false, after, limit: PAGE };
            let letters = dead_letters::list(rows, query).await.map_err(in_database)?;
            let Some(last) = letters.last() else { break };
            after = Some(last.place);
            let key = scope.as_ref().map(|scope| scope.to_string().into_bytes());
            for letter in
                letters.iter().filter(|letter| key.as_ref().is_none_or(|k| *k == letter.key))
            {
                resolved.add(letter)?;
            }
        }
        Ok(resolved)
    }
}

impl Resolved {
    fn add(&mut self, letter: &StoredLetter) -> Result<(), Unasked> {
        if !letter.is_parked {
            if !self.refused.contains(&letter.place) {
                self.refused.push(letter.place);
            }
            return Ok(());
        }
        let key = String::from_utf8_lossy(&letter.key);
        let scope: ScopeKey = key
            .parse()
            .map_err(|_| format!("the parked event at {} is of no scope", letter.place))?;
        if self.parked.iter().all(|(known, _)| *known != scope) {
            self.parked.push((scope, letter.place));
        }
        Ok(())
    }
}

/// Reads a place, as `3-12345`.
pub fn place(text: &str) -> Result<Place, Unasked> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

fn in_database(error: readmodel::ReadModelError) -> Unasked {
    format!("the database: {error}")
}

/// Appends a refused record's event under its scope's key, if this build can make one of it.
async fn append_anew(
    log: &dyn EventLog,
    rows: &Pool,
    place: Place,
    note: &str,
) -> Result<Handling, Unasked> {
    let left = |why: String| Ok(Handling::Left { place: place.to_string(), why });
    let letter = dead_letters::get(rows, place).await.map_err(in_database)?;
    let Some(letter) = letter else { return left("it is gone".to_owned()) };
    match &letter.mark {
        Some((Mark::Retried(at), ..)) => return left(format!("it was retried already, as {at}")),
        Some((Mark::Discarded, ..)) => return left("it was discarded".to_owned()),
        None => {}
    }
    let command = match command_in(&letter.value) {
        Ok(command) => command,
        Err(why) => return left(format!("it would be refused again: {why}")),
    };
    let key = Bytes::from(command.scope.to_string());
    let appended = match log.append(key, Bytes::from(letter.value)).await {
        Ok(appended) => appended.place,
        Err(error @ AppendError::Unknown { .. }) => {
            // Its id makes a second one harmless for a day.
            return left(format!("{error}; retry it again within a day"));
        }
        Err(error) => return Err(format!("the log: {error}")),
    };
    let mark = Mark::Retried(appended.to_string());
    dead_letters::mark(rows, place, &mark, note).await.map_err(in_database)?;
    let outcome = wait_for(rows, command.id, appended).await?;
    Ok(Handling::Appended { place: place.to_string(), retried_as: appended.to_string(), outcome })
}

/// The command in a record, if the fold would take it.
fn command_in(value: &[u8]) -> Result<Command, String> {
    match schemas::decode(value).map_err(|error| error.to_string())? {
        Event::Command(command) => {
            command.check().map_err(|error| error.to_string())?;
            Ok(command)
        }
        other => Err(format!("{} is of no scope", other.kind())),
    }
}

async fn wait_for(rows: &Pool, id: CommandId, at: Place) -> Result<String, Unasked> {
    let deadline = Instant::now() + DECIDED_WITHIN;
    loop {
        let decided = decided(rows, &[(id, at)]).await.map_err(in_database)?.pop();
        match decided {
            Some(Decided::Outcome(outcome)) => return Ok(verdict(&outcome.verdict)),
            Some(Decided::Nothing) => return Ok("a dead letter again".to_owned()),
            Some(Decided::NotYet) | None if Instant::now() > deadline => {
                return Ok("not projected yet".to_owned());
            }
            Some(Decided::NotYet) | None => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

fn shown(letter: &StoredLetter) -> Letter {
    Letter {
        place: letter.place.to_string(),
        kind: if letter.is_parked { "parked" } else { "refused" }.to_owned(),
        key: String::from_utf8_lossy(&letter.key).into_owned(),
        append_time: letter.append_time.to_string(),
        bytes: letter.value_bytes,
        reason: letter.reason.clone(),
        mark: letter.mark.as_ref().map(|(mark, note, at)| {
            let (mark, retried_as) = match mark {
                Mark::Retried(place) => ("retried", Some(place.clone())),
                Mark::Discarded => ("discarded", None),
            };
            LetterMark { mark: mark.to_owned(), retried_as, note: note.clone(), at: at.to_string() }
        }),
        record: None,
    }
}

fn record(letter: &StoredLetter) -> LetterRecord {
    let value = letter.value.iter().map(|byte| format!("{byte:02x}")).collect();
    let none = LetterRecord {
        value,
        event: String::new(),
        command_id: None,
        scope: None,
        actor: None,
        device: None,
    };
    match schemas::decode(&letter.value) {
        Ok(Event::Command(command)) => LetterRecord {
            event: command.action.kind().to_owned(),
            command_id: Some(command.id.to_string()),
            scope: Some(command.scope.to_string()),
            actor: Some(command.actor.to_string()),
            device: command.device.as_ref().map(ToString::to_string),
            ..none
        },
        Ok(event) => LetterRecord { event: event.kind().to_owned(), ..none },
        Err(error) => LetterRecord { event: format!("none: {error}"), ..none },
    }
}
