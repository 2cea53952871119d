//! A real history of a team: the commits of axum, as their authors would push them.

use std::{collections::HashSet, path::Path};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    client::{Device, team},
    cluster::{ALL, Cluster, LogKind},
    replica::Replica,
};

pub(crate) struct Corpus {
    /// Author and message.
    pub(crate) lines: Vec<(String, Value)>,
    distinct: usize,
}

/// The shared corpus; where it is absent, one made up, with duplicates.
pub(crate) fn corpus() -> Corpus {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/axum.jsonl");
    let lines = match std::fs::read_to_string(path) {
        Ok(text) => text.lines().map(line).collect(),
        Err(_) => {
            println!("skipped: the corpus axum.jsonl is absent; a generated one is pushed instead");
            (0..2_000).map(generated).collect::<Vec<_>>()
        }
    };
    let contents = lines.iter().map(|(_, message)| message["content"].as_str().unwrap());
    let distinct = contents.collect::<HashSet<_>>().len();
    Corpus { lines, distinct }
}

fn line(line: &str) -> (String, Value) {
    let mut message: Value = serde_json::from_str(line).unwrap();
    let author = message.as_object_mut().unwrap().remove("author").unwrap();
    (author.as_str().unwrap().to_owned(), message)
}

fn generated(n: u32) -> (String, Value) {
    let content = if n % 17 == 3 { format!("line {}", n / 2) } else { format!("line {n}") };
    let message =
        json!({"type": "decision", "content": content, "metadata": {"source": "made up"}});
    (format!("u-{}", n % 20), message)
}

/// Sets the seed of what is drawn at random, but for the simulation, which has its own.
const SEED: &str = "CONTEXT_SYNC_TEST_SEED";

/// A new one each time, printed, unless the environment sets it.
pub(crate) fn seed() -> u64 {
    let drawn = || u64::from(uuid::Uuid::new_v4().as_fields().0);
    let set = |text: String| text.parse().unwrap_or_else(|_| panic!("{SEED} is no number: {text}"));
    let seed = std::env::var(SEED).map_or_else(|_| drawn(), set);
    println!("{SEED}={seed}");
    seed
}

/// Numbers from a seed, the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The lines in any order and batching: each batch is of one author.
fn batches(corpus: &Corpus, random: &mut Random) -> Vec<(String, Vec<Value>)> {
    let mut left = corpus.lines.clone();
    for n in (1..left.len()).rev() {
        left.swap(n, random.below(n + 1));
    }
    left.sort_by(|(one, _), (two, _)| one.cmp(two)); // stable: an author's are in random order
    let mut batches: Vec<(String, Vec<Value>)> = Vec::new();
    let mut room = 0;
    for (author, message) in left {
        match batches.last_mut() {
            Some((last, batch)) if *last == author && batch.len() < room => batch.push(message),
            _ => {
                room = 1 + random.below(30);
                batches.push((author, vec![message]));
            }
        }
    }
    for n in (1..batches.len()).rev() {
        batches.swap(n, random.below(n + 1));
    }
    batches
}

async fn push(device: Device, key: String, batch: Vec<Value>, retry: bool) -> (u64, u64) {
    let answer = device.push_once(&team("axum"), &key, &batch).await.ok();
    if retry {
        let again = device.push_once(&team("axum"), &key, &batch).await.ok();
        assert_eq!(again, answer);
    }
    (answer["synced"].as_u64().unwrap(), answer["skipped"].as_u64().unwrap())
}

async fn all_pushed_to_one_team(kind: LogKind) {
    let corpus = corpus();
    let mut random = Random(seed());
    let mut cluster = Cluster::start(kind).await;
    let owner = cluster.device("owner");
    let authors: HashSet<&str> = corpus.lines.iter().map(|(author, _)| author.as_str()).collect();
    owner.put("/api/v1/teams/axum", Value::Null).await.is(201);
    stream::iter(authors)
        .for_each_concurrent(16, |author| {
            let (owner, path) = (owner.clone(), format!("/api/v1/teams/axum/members/{author}"));
            async move {
                owner.put(&path, json!({"role": "member"})).await.ok();
            }
        })
        .await;

    let batches = batches(&corpus, &mut random);
    let pushes: Vec<_> = batches
        .into_iter()
        .enumerate()
        .map(|(n, (author, batch))| {
            let device = cluster.device(&author).named(&format!("{author}-{}", random.below(3)));
            push(device, format!("batch {n}"), batch, random.below(4) == 0)
        })
        .collect();
    let sums = stream::iter(pushes)
        .buffer_unordered(16)
        .fold((0, 0), async |sum, (synced, skipped)| (sum.0 + synced, sum.1 + skipped))
        .await;
    let duplicates = corpus.lines.len() - corpus.distinct;
    assert_eq!(sums, (corpus.distinct as u64, duplicates as u64));

    let before = pulled(&cluster, corpus.distinct).await;
    cluster.check().await;

    // The read model dropped and rebuilt from the log.
    cluster.drop_the_read_model(ALL).await;
    let after = pulled(&cluster, corpus.distinct).await;
    assert_eq!(
        (after.cursor, after.count, &after.digest),
        (before.cursor, before.count, &before.digest)
    );
    assert_eq!(after.messages, before.messages);
    cluster.finish().await;
}

/// Pulls all from 0: each content once, at cursors 1 to their number.
async fn pulled(cluster: &Cluster, distinct: usize) -> Replica {
    let mut replica = Replica::default();
    replica.catch_up(&cluster.device("owner"), &team("axum"), 500).await;
    let mut cursors: Vec<u64> =
        replica.messages.values().map(|message| message["cursor"].as_u64().unwrap()).collect();
    cursors.sort_unstable();
    assert_eq!(cursors, (1..=distinct as u64).collect::<Vec<_>>());
    assert_eq!(replica.count, distinct as u64);
    let contents: HashSet<&str> =
        replica.messages.values().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(contents.len(), distinct);
    replica
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_corpus_on_the_embedded_log() {
    all_pushed_to_one_team(LogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_corpus_on_kafka() {
    all_pushed_to_one_team(LogKind::Kafka).await;
}

/// The shared corpus is the one that the figures are known of.
#[test]
fn the_corpus_is_1969_lines_of_1861_contents() {
    let corpus = corpus();
    if corpus.lines.len() != 2_000 {
        assert_eq!((corpus.lines.len(), corpus.distinct), (1_969, 1_861));
    }
}
