//! Signals, sent to a process of its own: this test's binary, told to wait for them.

// Helpers of tests may panic as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use service::shutdown::on_signals;

const CHILD: &str = "SERVICE_TEST_SIGNALS_CHILD";

/// Run as the child: says when it is ready and when it is told to stop, and then does not.
#[tokio::test]
async fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let token = on_signals().unwrap();
    println!("\nready");
    token.cancelled().await;
    println!("\nstopping");
    std::future::pending::<()>().await;
}

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn the_first_signal_asks_and_the_second_ends() {
    for (first, second) in [("-TERM", "-INT"), ("-INT", "-TERM")] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |word: &str| {
            assert!(lines.any(|line| line.unwrap() == word), "it never said {word}");
        };
        wait_for("ready");
        send(first, &child);
        wait_for("stopping");
        send(second, &child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}
