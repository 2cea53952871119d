//! `context-sync push`, `pull` and `import`: a device's commands against an instance for development.

use std::process::Output;

use serde_json::{Value, json};

use super::{
    Child,
    child::{run, run_with},
    dev_command::device,
};
use crate::{client::say, histories::make_up};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed, a JSON value a line; it must have ended well.
#[track_caller]
fn lines(ended: &Output) -> Vec<Value> {
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    text(&ended.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn push(data: &str) {
    let args = ["push", "--json", "--data-dir", data];
    let one = [&args[..], &["--type", "decision", "--content", "one"]].concat();
    let answers = lines(&run(&one).await);
    assert_eq!((answers.len(), &answers[0]["synced"]), (1, &json!(1)));
    let input = format!("{}\n\n{}\n", say("one"), say("two"));
    let answers = lines(&run_with(&args, &input).await);
    assert_eq!((&answers[0]["synced"], &answers[0]["skipped"]), (&json!(1), &json!(1)));

    // What is no message is named, and the others are pushed.
    let ended = run_with(&args, &format!("nonsense\n{}\n", say("three"))).await;
    let said = text(&ended.stderr);
    assert!(!ended.status.success() && said.contains("line 1, column"), "{said}");
    assert!(text(&ended.stdout).contains(r#""synced":1"#), "{}", text(&ended.stdout));
}

async fn pull(data: &str) {
    let contents = async |more: &[&str]| {
        let ended = run(&[&["pull", "--data-dir", data], more].concat()).await;
        let messages = lines(&ended);
        let contents: Vec<Value> = messages.iter().map(|m| m["content"].clone()).collect();
        (json!(contents), text(&ended.stderr))
    };
    let (page, said) = contents(&["--limit=2"]).await;
    assert_eq!(page, json!(["one", "two"]));
    assert!(said.contains("cursor 2 of 3, 3 in the scope; more: --cursor 2"), "{said}");
    assert_eq!(contents(&["--cursor=2"]).await.0, json!(["three"]));
    assert_eq!(contents(&["--limit=1", "--all"]).await.0, json!(["one", "two", "three"]));
}

/// The second time nothing is new.
async fn import(data: &str, repository: &str) {
    let args = ["import", "--json", "--data-dir", data, "--git", repository, "--scope=team/web"];
    let first = lines(&run(&args).await);
    let counts = ["synced", "skipped", "rejected", "empty"];
    let of = |told: &Value| counts.map(|count| told[count].as_u64().unwrap());
    let [synced, skipped, rejected, empty] = of(&first[0]);
    assert!(synced > 30 && synced + skipped == 39, "{first:?}");
    assert_eq!((rejected, empty), (0, 1));
    let again = lines(&run(&args).await);
    assert_eq!((of(&again[0]), &again[0]["cursor"]), ([0, 39, 0, 1], &first[0]["cursor"]));
    let args = ["pull", "--all", "--data-dir", data, "--scope=team/web"];
    assert_eq!(lines(&run(&args).await).len() as u64, synced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_pull_and_import_do_what_they_say() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let (data_dir, repository) = (scratch.path().join("data"), scratch.path().join("repository"));
    std::fs::create_dir(&repository).unwrap();
    make_up(&repository, 40, &["Ann", "Bob"], ["basket", "invoice", "stock", "till", "van"]);
    let data = data_dir.to_str().unwrap();
    let mut dev = Child::dev(&data_dir, &scratch.path().join("dev.log"), &[]).await;
    push(data).await;
    pull(data).await;
    device(&dev, data).await.create_team("web", &[]).await;
    import(data, repository.to_str().unwrap()).await;
    dev.kill().await;
}
