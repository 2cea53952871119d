//! What documents tell people to type, typed: every `curl` of a section in their order, and the answers that stand below them;
//! and every command of ours that is no `curl`.

use std::{
    collections::{BTreeSet, HashMap},
    process::Stdio,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    backups::completed,
    client::{Device, Reply, USER},
    cluster::Cluster,
    crash::binary,
    restores::{counts, sealed},
};

const README: &str = include_str!("../../README.md");
const OPENAPI: &str = include_str!("../../api/openapi.json");
const DEVICES: &str = include_str!("../../docs/devices.md");
/// Where documents have the server.
const THERE: &str = "http://127.0.0.1:8080";
/// Where documents have the binary.
const BINARY: &str = "target/debug/context-sync ";
/// In an answer: whatever it is. In a request: the id that the last answer names first.
const ANYTHING: &str = "…";

both_logs! {
    the_readme_shows_what_happens,
    the_page_for_devices_shows_what_happens,
}

archiving_on_both_logs! {
    the_readme_backs_up_and_restores,
}

async fn the_readme_shows_what_happens(cluster: &mut Cluster) {
    assert_eq!(Shell::of(cluster, "ann").follow(section("Use it")).await.len(), 2);
}

async fn the_page_for_devices_shows_what_happens(cluster: &mut Cluster) {
    assert_eq!(Shell::of(cluster, "eve").follow(DEVICES).await.len(), 12);
}

/// Typed by one who has used it for an hour: as of before that there is nothing.
async fn the_readme_backs_up_and_restores(cluster: &mut Cluster) {
    let mut shell = Shell::of(cluster, "ann");
    shell.follow(section("Use it")).await;
    sealed(&shell.device, USER).await;
    let answers = shell.follow(section("Back up, restore")).await;
    let [asked, listed, by_id, as_of, rebuilt, verified] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!((&asked["status"], &asked["backup_type"]), (&json!("pending"), &json!("on_demand")));
    let listed = listed["backups"].as_array().unwrap();
    assert!(listed.iter().any(|backup| backup["id"] == asked["id"]), "{listed:?}");
    assert_eq!((&by_id["mode"], &by_id["backup"]["id"]), (&json!("merge"), &listed[0]["id"]));
    assert_eq!(as_of["mode"], "replace");
    assert_ne!(as_of["backup"]["id"], asked["id"], "an hourly or daily one");
    for restored in [by_id, as_of] {
        assert_eq!(counts(restored), [0, 1, 0], "nothing was lost");
    }
    let rebuilt = rebuilt.as_str().unwrap();
    assert!(rebuilt.contains("well: the rows of 1 scopes are what the log comes to"), "{rebuilt}");
    let verified = verified.as_str().unwrap();
    assert!(verified.contains("well: ") && verified.contains(" proven up to "), "{verified}");
}

/// What stands below a heading of the README.
fn section(heading: &str) -> &'static str {
    let begins = format!("{heading}\n");
    README.split("\n## ").find(|section| section.starts_with(&begins)).unwrap()
}

/// The tables of results and actions have all there are.
#[test]
fn the_page_for_devices_knows_every_result_and_action() {
    let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
    let schemas = &openapi["components"]["schemas"];
    let results = &schemas["PushStatus"]["enum"];
    let actions = &schemas["Reconciled"]["properties"]["action"]["enum"];
    for (heading, known) in [("status` of a result", results), ("action`", actions)] {
        let known: BTreeSet<_> =
            known.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let (_, table) = DEVICES.split_once(&format!("| `{heading} |")).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let firsts = rows.map(|row| row.split('|').nth(1).unwrap());
        let named: BTreeSet<&str> =
            firsts.flat_map(|first| first.split('`').skip(1).step_by(2)).collect();
        assert_eq!(named, known, "{heading}");
    }
}

/// Who types it.
struct Shell {
    device: Device,
    variables: HashMap<String, String>,
    /// Says where the instance is, to commands that else look for one that was started here.
    environment: Vec<(&'static str, String)>,
}

/// A fenced part of a document.
struct Block<'a> {
    language: &'a str,
    text: &'a str,
}

impl Shell {
    fn of(cluster: &Cluster, user: &str) -> Self {
        let device = cluster.device(user);
        let variables = HashMap::from([("TOKEN".to_owned(), device.token.clone())]);
        let mut environment = vec![("CONTEXT_SYNC_OPS_URL", cluster.node.ops_url.clone())];
        if let Some(archive) = &cluster.settings.archive.archive {
            environment.push(("CONTEXT_SYNC_ARCHIVE", archive.to_string()));
        }
        Self { device, variables, environment }
    }

    /// Types all commands; what they said. An answer that stands below some is that of the last one.
    async fn follow(&mut self, document: &str) -> Vec<Value> {
        let mut answers = Vec::new();
        for block in blocks(document) {
            match block.language {
                "sh" => self.type_in(block.text, &mut answers).await,
                "json" => {
                    let shown: Value = serde_json::from_str(block.text).unwrap();
                    let answer = answers.last().unwrap();
                    assert!(
                        agrees(&shown, answer),
                        "the document shows {shown}, the answer is {answer}"
                    );
                }
                other => panic!("a block of {other}"),
            }
        }
        answers
    }

    async fn type_in(&mut self, text: &str, answers: &mut Vec<Value>) {
        for line in text.replace("\\\n", " ").lines() {
            let (line, comment) = line.split_once(" #").unwrap_or((line, ""));
            match line.split_once('=') {
                Some((name, value)) if is_name(name) && !value.starts_with("$(") => {
                    self.variables.insert(name.to_owned(), value.trim().to_owned());
                }
                _ if line.starts_with("curl ") => {
                    let reply = self.curl(&self.words(line), answers.last()).await;
                    let answer = reply.is(status(comment).unwrap_or(200));
                    self.wait_for(&answer).await;
                    answers.push(answer);
                }
                _ if line.starts_with(BINARY) => answers.push(self.run(&self.words(line)).await),
                _ => {} // it starts the server, or makes the token
            }
        }
    }

    /// What is asked for and not yet done: whoever types has looked before they go on.
    async fn wait_for(&self, answer: &Value) {
        if answer["status"] == "pending" {
            completed(&self.device, USER, answer["id"].as_str().unwrap()).await;
        }
    }

    /// A command of ours, which must say that all is well: what it printed.
    async fn run(&self, words: &[String]) -> Value {
        let mut command = tokio::process::Command::new(binary());
        command.args(&words[1..]).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        let ended = command.output().await.unwrap();
        let printed = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(ended.status.success(), "{words:?}: {printed}");
        printed.into()
    }

    async fn curl(&self, words: &[String], last: Option<&Value>) -> Reply {
        let (mut url, mut body, mut method, mut headers) = (None, None, None, Vec::new());
        let mut words = words.iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-H" => headers.push(words.next().unwrap().split_once(": ").unwrap()),
                "-d" => body = words.next().map(|body| filled_in(body, last)),
                "-X" => method = words.next().map(|method| method.parse().unwrap()),
                option if option.starts_with('-') => panic!("{option} is not known here"),
                _ => url = Some(word),
            }
        }
        let path = url.unwrap().strip_prefix(THERE).unwrap();
        let usual = if body.is_some() { Method::POST } else { Method::GET };
        let method = method.unwrap_or(usual);
        let client = reqwest::Client::new();
        let mut request = client.request(method, format!("{}{path}", self.device.url));
        if body.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded"); // as curl does
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Reply::of(request.body(body.unwrap_or_default())).await
    }

    /// The words of a command, as a shell has them: quotes, and variables but between single ones.
    fn words(&self, line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        let mut rest = line.trim().chars().peekable();
        while let Some(next) = rest.next() {
            let word = words.last_mut().unwrap();
            match (next, quote) {
                ('\'' | '"', None) => quote = Some(next),
                (_, Some(open)) if next == open => quote = None,
                ('$', None | Some('"')) => {
                    let mut name = String::new();
                    while let Some(part) = rest.next_if(|part| is_name(&part.to_string())) {
                        name.push(part);
                    }
                    word.push_str(&self.variables[&name]);
                }
                ('&' | '|' | ';' | '<' | '>' | '?' | '*' | '(', None) => {
                    panic!("{next} is something else to a shell: {line}")
                }
                (' ', None) if word.is_empty() => {}
                (' ', None) => words.push(String::new()),
                _ => word.push(next),
            }
        }
        words
    }
}

/// The status with which a comment begins.
fn status(comment: &str) -> Option<u16> {
    let end = comment.trim_start().split(|part: char| !part.is_ascii_digit()).next()?;
    end.parse().ok()
}

/// A body as one types it: with an id and a moment of the last answer in place of those that the document shows.
fn filled_in(body: &str, last: Option<&Value>) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    for (_, value) in body.as_object_mut().unwrap() {
        let key = match value.as_str() {
            Some(ANYTHING) => "id",
            Some(shown) if is_time(shown) => "created_at",
            _ => continue,
        };
        *value = last.and_then(|last| first(last, key)).unwrap().clone();
    }
    body.to_string()
}

/// The first value of this name, the outermost before what is in it.
fn first<'a>(answer: &'a Value, key: &str) -> Option<&'a Value> {
    match answer {
        Value::Object(members) => {
            members.get(key).or_else(|| members.values().find_map(|inner| first(inner, key)))
        }
        Value::Array(items) => items.iter().find_map(|inner| first(inner, key)),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|part| part.is_ascii_uppercase() || part == '_')
}

fn blocks(document: &str) -> impl Iterator<Item = Block<'_>> {
    let fenced = document.split("\n```").skip(1).step_by(2);
    fenced.map(|block| {
        let (language, text) = block.split_once('\n').unwrap();
        Block { language, text }
    })
}

/// Whether an answer is as shown: the same keys, and the same values but for `…`.
fn agrees(shown: &Value, answer: &Value) -> bool {
    match (shown, answer) {
        (Value::String(shown), answer) if shown == ANYTHING => !answer.is_null(),
        (Value::Object(shown), Value::Object(answer)) => {
            shown.len() == answer.len()
                && shown
                    .iter()
                    .all(|(key, value)| answer.get(key).is_some_and(|answer| agrees(value, answer)))
        }
        (Value::Array(shown), Value::Array(answer)) => {
            shown.len() == answer.len()
                && shown.iter().zip(answer).all(|(shown, answer)| agrees(shown, answer))
        }
        (Value::String(shown), Value::String(answer)) if is_time(shown) => is_time(answer),
        _ => shown == answer,
    }
}

/// Times are what they are.
fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}
