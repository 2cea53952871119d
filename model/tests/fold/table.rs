//! A small language for cases of the fold. A line is a command, or a question, and what it comes to:
//!
//! ```text
//! case TITLE                     starts anew: an empty log at 2025-12-30 12:00:00
//! scope team t1                  whom the following lines are about (of tenant acme)
//! at 12:00:01.000001             the append time from here on (31T12:00:00 a day later)
//! ann create                     => ok
//! ann set bob admin              => ok
//! ann remove bob                 => refused
//! ann backup name=late           => ok                   what restores restore; the name may be left out
//! ann restore replace            => ok
//! ann chunk max=2 of=late        => ok restored=1 skipped=0 deleted=1    without a name, of the last backup
//! ann chunk ts=31T12:00:00       => ok restored=1        as if that were the times of all that is put
//! ann complete                   => ok
//! ann expire 7                   => ok floor=7           tombstones up to that cursor
//! bob:owner push "x" key=k1      => created 1            bob is an org owner; the Idempotency-Key is k1
//! ann push "y" id=A base=1 ts=12:00:00 type=insight meta={"a":1} + delete A base=2 + invalid
//!                                => updated 2, superseded 2, invalid
//! repeat                         => repeated updated 2, … the last command once more
//! ann pull 0 limit=2             => 1 of("x"), 2 A, more
//! message A                      => live 2 "y" ts=12:00:00 created=12:00:00 by=ann
//! member bob                     => admin since=12:00:00
//! state                          => head=2 count=2 owners=1
//! ```
//!
//! Ids are capital letters; `of("x")` is the id derived from a content, `again("x")` the last one derived
//! from it once more. What is expected names what matters: the first word (where it has no `=`) and
//! any others of the got ones. A line that starts with `=>` belongs to the line before it.

use std::collections::HashMap;

use model::{
    Action, BackupId, Body, BodyHash, Change, Command, CommandId, ContentHash, Cursor, Event,
    InvalidCode, MessageId, MessageType, Metadata, Offset, OrgRole, Outcome, Partition, Place,
    PushResult, PushedChange, Refusal, Rejected, RequestHash, RestoreChunk, RestoreFailure,
    RestoreId, RestoreMode, RestorePlace, Role, ScopeKey, Standing, Status, Timestamp, UserId,
    Verdict, Write,
    log_fold::{FoldedScope, LogFold},
};
use uuid::Uuid;

use crate::{
    partial::{gist, part},
    pull::pull,
    restoring::next_chunk,
    sums,
};

/// Runs every case of a file; panics with all lines that came out otherwise.
pub(crate) fn check(file: &str, text: &str) {
    let (mut failures, mut title, mut table) = (Vec::new(), "", Table::new());
    let mut lines = text.lines().map(str::trim).zip(1..).peekable();
    while let Some((first, number)) = lines.next() {
        let mut line = first.to_owned();
        while let Some((more, _)) = lines.next_if(|(next, _)| next.starts_with("=>")) {
            line = format!("{line} {more}");
        }
        if let Some(name) = first.strip_prefix("case ") {
            (title, table) = (name, Table::new());
        } else if !line.is_empty()
            && !line.starts_with('#')
            && let Err(problem) = table.line(&line)
        {
            failures.push(format!("{file}:{number}: {title}\n    {line}\n    {problem}"));
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// Splits at a character outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn unquote(word: &str) -> Option<&str> {
    word.strip_prefix('"')?.strip_suffix('"')
}

fn time(text: &str) -> Timestamp {
    let whole = match text.len() {
        _ if text.matches('-').count() >= 2 => text.to_owned(),
        _ if text.contains('T') => format!("2025-12-{text}Z"),
        _ => format!("2025-12-30T{text}Z"),
    };
    Timestamp::parse_rfc3339(&whole).unwrap_or_else(|| panic!("no time: {text}"))
}

fn show_time(time: Timestamp) -> String {
    let text = time.to_string();
    let Some(day) = text.strip_prefix("2025-12-").and_then(|t| t.strip_suffix('Z')) else {
        return text;
    };
    day.strip_prefix("30T").unwrap_or(day).to_owned()
}

struct Table {
    log: LogFold,
    time: Timestamp,
    scope: ScopeKey,
    /// Commands so far; each without a key gets the next id.
    commands: u64,
    last: Option<Command>,
    /// The scope at each `backup`, by its name; the last one's has no name too.
    saved: HashMap<String, Option<FoldedScope>>,
    names: HashMap<MessageId, String>,
    ids: HashMap<String, MessageId>,
}

impl Table {
    fn new() -> Self {
        Self {
            log: LogFold::default(),
            time: time("12:00:00"),
            scope: "acme/user/ann".parse().unwrap(),
            commands: 0,
            last: None,
            saved: HashMap::new(),
            names: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (asked, expected) = line.split_once("=>").unwrap_or((line, ""));
        let words = split(asked, ' ');
        let got = match words[..] {
            ["scope", kind, name] => {
                self.scope = format!("acme/{kind}/{name}").parse().unwrap();
                return Ok(());
            }
            ["at", at] => {
                self.time = time(at);
                return Ok(());
            }
            ["state"] => vec![self.state()],
            ["message", id] => vec![self.message(id)],
            ["member", user] => vec![self.member(user)],
            ["repeat"] => {
                let command = self.last.clone().unwrap();
                self.apply(command)?
            }
            [actor, "pull", cursor, ref rest @ ..] => self.pull(actor, cursor, rest),
            [actor, verb, ref rest @ ..] => {
                let command = self.command(actor, verb, rest, asked);
                self.apply(command)?
            }
            _ => panic!("not of the language: {line}"),
        };
        let fits = |expected: &&str, got: &String| {
            let (expected, got) = (split(expected, ' '), split(got, ' '));
            let first = expected.first();
            let first_fits = first == got.first() || first.is_some_and(|word| word.contains('='));
            first_fits && expected.iter().all(|word| got.contains(word))
        };
        let expected = split(expected, ',');
        let same =
            expected.len() == got.len() && expected.iter().zip(&got).all(|(e, g)| fits(e, g));
        if same { Ok(()) } else { Err(format!("got: {}", got.join(", "))) }
    }

    fn command(&mut self, actor: &str, verb: &str, rest: &[&str], asked: &str) -> Command {
        let (actor, org_role) = self.actor(actor);
        self.commands += 1;
        let id = match rest.iter().find_map(|word| word.strip_prefix("key=")) {
            Some(key) => CommandId::of_key(&self.scope, "push", &actor, key),
            None => CommandId(Uuid::from_u128(self.commands.into())),
        };
        let user = |n: usize| UserId::new(rest[n]).unwrap();
        let action = match verb {
            "create" => Action::ScopeCreated,
            "set" => Action::MemberSet { user: user(0), role: Role::parse(rest[1]).unwrap() },
            "remove" => Action::MemberRemoved { user: user(0) },
            "backup" => {
                let saved = self.log.scopes.get(&self.scope).cloned();
                let name = rest.iter().find_map(|word| word.strip_prefix("name="));
                for name in [name.unwrap_or_default(), ""] {
                    self.saved.insert(name.to_owned(), saved.clone());
                }
                Action::BackupRequested { backup: BackupId(id.0) }
            }
            "restore" => Action::RestoreRequested {
                restore: RestoreId(id.0),
                mode: RestoreMode::ALL.into_iter().find(|mode| mode.as_str() == rest[0]).unwrap(),
                backup: BackupId(Uuid::nil()),
                source: Box::new(self.scope.clone()),
            },
            "chunk" => {
                let option =
                    |name: &str| rest.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
                let max = option("max").map_or(1_000, |max| max.parse().unwrap());
                let mut chunk = self.chunk(max, option("of").unwrap_or_default());
                if let Some(lines) = option("from") {
                    chunk.from = RestorePlace::Puts(lines.parse().unwrap());
                }
                if let Some(ts) = option("ts").map(time) {
                    for put in &mut chunk.puts {
                        (put.updated_at, put.created_at) = (ts, ts);
                    }
                }
                Action::RestoreChunk(Box::new(chunk))
            }
            "complete" => {
                let (restore, from) = self.restoring();
                Action::RestoreCompleted { restore, from }
            }
            "fail" => {
                let (restore, from) = self.restoring();
                let code = RestoreFailure::ChecksumFailed;
                Action::RestoreFailed { restore, from, code, detail: "bad".to_owned() }
            }
            "expire" => {
                Action::TombstonesExpired { up_to: Cursor::new(rest[0].parse().unwrap()).unwrap() }
            }
            "push" => self.push(id, asked.split_once(" push").unwrap().1),
            _ => panic!("not of the language: {asked}"),
        };
        let scope = self.scope.clone();
        let request_hash = RequestHash::of(&[asked.as_bytes()]);
        Command { id, scope, actor, org_role, device: None, request_hash, action }
    }

    /// The running restore and where it stands; some other one where none runs.
    fn restoring(&self) -> (RestoreId, RestorePlace) {
        let folded = self.log.scopes.get(&self.scope);
        let running = folded.and_then(|folded| folded.scope.heading.restore.as_ref());
        running.map_or((RestoreId(Uuid::nil()), RestorePlace::Puts(0)), |r| (r.id, r.place))
    }

    /// The next chunk of the running restore, of the scope as it was at a `backup`.
    fn chunk(&self, max: usize, backup: &str) -> RestoreChunk {
        let saved = self.saved.get(backup).and_then(Option::as_ref);
        next_chunk(self.log.scopes.get(&self.scope), saved, max)
    }

    fn push(&mut self, push: CommandId, text: &str) -> Action {
        let (mut changes, mut rejected) = (Vec::new(), Vec::new());
        for (part, index) in split(text, '+').into_iter().zip(0..) {
            let words: Vec<_> =
                split(part, ' ').into_iter().filter(|word| !word.starts_with("key=")).collect();
            let option = |name: &str| {
                words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            };
            let base = option("base").map(|base| Cursor::new(base.parse().unwrap()).unwrap());
            let change = match words[..] {
                ["nothing"] => continue,
                ["invalid"] => {
                    let (code, detail) = (InvalidCode::InvalidRequest, "bad".to_owned());
                    rejected.push(Rejected { index, code, detail });
                    continue;
                }
                ["delete", id, ..] => {
                    Change::Delete { id: self.id(id), base_cursor: base.unwrap() }
                }
                [content, ..] => {
                    let content = unquote(content).unwrap_or_else(|| panic!("no content: {part}"));
                    let hash = ContentHash::of(content);
                    let again = MessageId::of_content_again(&self.scope, &hash, push, index);
                    self.id(&format!("of(\"{content}\")"));
                    self.name(again, format!("again(\"{content}\")"));
                    let metadata = serde_json::from_str(option("meta").unwrap_or("{}")).unwrap();
                    let body = Body {
                        message_type: MessageType::new(option("type").unwrap_or("decision"))
                            .unwrap(),
                        content: content.to_owned(),
                        metadata: Metadata::new(&metadata).unwrap(),
                    };
                    Change::Write(write(
                        body,
                        option("id").map(|id| self.id(id)),
                        option("ts").map(time),
                        base,
                    ))
                }
                [] => continue,
            };
            changes.push(PushedChange { index, change });
        }
        Action::MessagesPushed { changes, rejected }
    }

    fn apply(&mut self, command: Command) -> Result<Vec<String>, String> {
        self.last = Some(command.clone());
        let place = Place { partition: Partition::new(0), offset: Offset::ZERO };
        let key = command.scope.to_string();
        let event = Event::Command(command.clone());
        let mut part = part(self.log.scopes.get(&self.scope), &self.scope, &[&command]);
        let applied = self.log.apply(place, self.time, key.as_bytes(), Some(&event)).unwrap();
        let Some(applied) = applied else {
            return Ok(vec![format!("unappliable {:?}", command.check().unwrap_err())]);
        };
        sums::check(&self.log.scopes[&self.scope])?;
        let in_part = part.apply(&command, self.log.partitions[&place.partition].time);
        sums::expect("what a projector makes of it", gist(&in_part), gist(&Ok(applied.clone())))?;
        let mut got = self.verdict(&applied.outcome);
        if applied.repeated {
            got = got.into_iter().map(|item| format!("repeated {item}")).collect();
            sums::expect("changes of a repeated command", applied.changes.len(), 0)?;
        }
        Ok(got)
    }

    fn verdict(&self, outcome: &Outcome) -> Vec<String> {
        let one = match &outcome.verdict {
            Verdict::Pushed(answer) if answer.results.is_empty() => "nothing".to_owned(),
            Verdict::Pushed(answer) => {
                return answer.results.iter().map(|result| self.result(result)).collect();
            }
            Verdict::ScopeCreated
            | Verdict::MemberRemoved { .. }
            | Verdict::BackupRequested { .. }
            | Verdict::RestoreRequested { .. }
            | Verdict::RestoreEnded { .. } => "ok".to_owned(),
            Verdict::RestoreStep => {
                let running = self.log.scopes[&self.scope].scope.heading.restore.clone().unwrap();
                let counts = running.counts;
                format!(
                    "ok restored={} skipped={} deleted={}",
                    counts.restored, counts.skipped, counts.deleted
                )
            }
            Verdict::TombstonesExpired { floor } => format!("ok floor={floor}"),
            Verdict::Refused(Refusal::RestoreRunning { .. }) => "restore-running".to_owned(),
            Verdict::Refused(Refusal::NotItsPlace) => "not-its-place".to_owned(),
            Verdict::MemberSet { since, .. } => format!("ok since={}", show_time(*since)),
            Verdict::Refused(Refusal::PermissionDenied { purge: false }) => "refused".to_owned(),
            Verdict::Refused(Refusal::PermissionDenied { purge: true }) => {
                "refused-purge".to_owned()
            }
            Verdict::Refused(Refusal::Exists { role: Some(role) }) => format!("exists {role}"),
            Verdict::Refused(Refusal::Exists { role: None }) => "exists nobody".to_owned(),
            Verdict::Refused(Refusal::LastOwner) => "last-owner".to_owned(),
            Verdict::Refused(Refusal::NoSuchMember) => "no-such-member".to_owned(),
        };
        vec![one]
    }

    fn result(&self, result: &PushResult) -> String {
        let mut text = format!("{:?}", result.status).to_lowercase();
        if let Some(cursor) = result.cursor {
            text += &format!(" {cursor}");
        }
        if let Some(id) = result.id {
            text += &format!(" id={}", self.show(id));
        }
        if let Some(at) = result.updated_at {
            text += &format!(" ts={}", show_time(at));
        }
        assert_eq!(result.status == Status::Invalid, result.code.is_some());
        text
    }

    fn pull(&self, user: &str, cursor: &str, rest: &[&str]) -> Vec<String> {
        let (user, org_role) = self.actor(user);
        let nothing =
            FoldedScope { scope: model::Scope::new(self.scope.clone()), messages: HashMap::new() };
        let folded = self.log.scopes.get(&self.scope).unwrap_or(&nothing);
        let member = folded.scope.members.get(&user).map(|member| member.role);
        let exists = folded.scope.heading.exists;
        match Standing::of(&self.scope, &user, org_role, exists, member) {
            standing if standing.may_pull() => {}
            Standing::Stranger { former: true } => return vec!["refused-purge".to_owned()],
            _ => return vec!["refused".to_owned()],
        }
        let limit = rest.iter().find_map(|word| word.strip_prefix("limit=")).unwrap_or("100");
        let page =
            pull(folded, Cursor::new(cursor.parse().unwrap()).unwrap(), limit.parse().unwrap());
        let mut got: Vec<_> = page
            .messages
            .iter()
            .map(|message| {
                let gone = if message.entry.is_live() { "" } else { " gone" };
                format!("{} {}{gone}", message.entry.cursor, self.show(message.id))
            })
            .collect();
        got.push(format!("{} {}", if page.has_more { "more" } else { "end" }, page.cursor));
        got
    }

    fn state(&self) -> String {
        let Some(folded) = self.log.scopes.get(&self.scope) else { return "nothing".to_owned() };
        let heading = &folded.scope.heading;
        format!(
            "exists={} head={} floor={} count={} bytes={} owners={} clock={}",
            if heading.exists { "yes" } else { "no" },
            heading.head,
            heading.floor,
            heading.count,
            heading.bytes,
            heading.owners,
            show_time(heading.clock),
        )
    }

    fn message(&mut self, id: &str) -> String {
        let id = self.id(id);
        let Some(message) = self.log.scopes[&self.scope].messages.get(&id) else {
            return "none".to_owned();
        };
        let entry = &message.entry;
        let what = match &message.body {
            Some(body) => format!(
                "live {} \"{}\" type={} meta={}",
                entry.cursor,
                body.content,
                body.message_type.as_str(),
                body.metadata.as_str()
            ),
            None => format!(
                "tombstone {} deleted={}",
                entry.cursor,
                show_time(entry.deleted_at.unwrap())
            ),
        };
        let (ts, created) = (show_time(entry.version.updated_at), show_time(entry.created_at));
        format!("{what} ts={ts} created={created} by={}", message.contributed_by)
    }

    fn member(&self, user: &str) -> String {
        let scope = &self.log.scopes[&self.scope].scope;
        match scope.members.get(&UserId::new(user).unwrap()) {
            None => "none".to_owned(),
            Some(member) => {
                let role = member.role.map_or("former", Role::as_str);
                format!("{role} since={}", show_time(member.since))
            }
        }
    }

    fn actor(&self, text: &str) -> (UserId, OrgRole) {
        let (user, role) = text.split_once(':').unwrap_or((text, "member"));
        (UserId::new(user).unwrap(), OrgRole::parse(role).unwrap())
    }

    /// The id that a text names: a letter, or `of("content")`, or one named before.
    fn id(&mut self, text: &str) -> MessageId {
        let known = self.ids.get(text).copied();
        let id = match text.strip_prefix("of(").and_then(|t| t.strip_suffix(')')).and_then(unquote)
        {
            Some(content) => MessageId::of_content(&self.scope, &ContentHash::of(content)),
            None if text.len() == 1 => MessageId(Uuid::from_u128(text.as_bytes()[0].into())),
            None => known.unwrap_or_else(|| panic!("no id: {text}")),
        };
        self.name(id, text.to_owned());
        id
    }

    fn name(&mut self, id: MessageId, name: String) {
        self.ids.insert(name.clone(), id);
        self.names.insert(id, name);
    }

    fn show(&self, id: MessageId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

/// A write as ingest makes it.
pub(crate) fn write(
    body: Body,
    id: Option<MessageId>,
    updated_at: Option<Timestamp>,
    base_cursor: Option<Cursor>,
) -> Write {
    let content_hash = ContentHash::of(&body.content);
    let body_hash = BodyHash::of(body.message_type.as_str(), &body.content, body.metadata.as_str());
    Write { id, body, updated_at, base_cursor, content_hash, body_hash }
}
