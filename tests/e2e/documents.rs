//! What documents tell people to type, typed: every `curl` of a section in their order, and the answers that stand below them.

use std::collections::{BTreeSet, HashMap};

use reqwest::Method;
use serde_json::Value;

use crate::{
    client::{Device, Reply},
    cluster::Cluster,
};

const README: &str = include_str!("../../README.md");
const OPENAPI: &str = include_str!("../../api/openapi.json");
const DEVICES: &str = include_str!("../../docs/devices.md");
/// Where documents have the server.
const THERE: &str = "http://127.0.0.1:8080";
/// In an answer: whatever it is.
const ANYTHING: &str = "…";

both_logs! {
    the_readme_shows_what_happens,
    the_page_for_devices_shows_what_happens,
}

async fn the_readme_shows_what_happens(cluster: &mut Cluster) {
    let section = README.split("\n## ").find(|section| section.starts_with("Use it\n")).unwrap();
    assert_eq!(Shell::of(cluster, "ann").follow(section).await, 2);
}

async fn the_page_for_devices_shows_what_happens(cluster: &mut Cluster) {
    assert_eq!(Shell::of(cluster, "eve").follow(DEVICES).await, 12);
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
        Self { device, variables }
    }

    /// Types all commands. An answer that stands below some is that of the last one. How many requests were sent.
    async fn follow(&mut self, document: &str) -> usize {
        let (mut sent, mut answers) = (0, Vec::new());
        for block in blocks(document) {
            match block.language {
                "sh" => {
                    answers = self.type_in(block.text).await;
                    sent += answers.len();
                }
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
        sent
    }

    async fn type_in(&mut self, text: &str) -> Vec<Value> {
        let mut answers = Vec::new();
        for line in text.replace("\\\n", " ").lines() {
            let (line, comment) = line.split_once(" #").unwrap_or((line, ""));
            match line.split_once('=') {
                Some((name, value)) if is_name(name) && !value.starts_with("$(") => {
                    self.variables.insert(name.to_owned(), value.trim().to_owned());
                }
                _ if line.starts_with("curl ") => {
                    let status = comment.trim().parse().unwrap_or(200);
                    answers.push(self.curl(&self.words(line)).await.is(status));
                }
                _ => {} // it starts the server, or makes the token
            }
        }
        answers
    }

    async fn curl(&self, words: &[String]) -> Reply {
        let (mut url, mut body, mut headers) = (None, None, Vec::new());
        let mut words = words.iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-H" => headers.push(words.next().unwrap().split_once(": ").unwrap()),
                "-d" => body = words.next().cloned(),
                option if option.starts_with('-') => panic!("{option} is not known here"),
                _ => url = Some(word),
            }
        }
        let path = url.unwrap().strip_prefix(THERE).unwrap();
        let method = if body.is_some() { Method::POST } else { Method::GET };
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
    text.len() > 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}
