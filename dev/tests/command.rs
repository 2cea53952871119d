//! `dev run` as a user calls it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic, and so may its helpers")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// `dev run --no-kafka --no-python -- sh -c SCRIPT`, with its temporary files in a directory that shows what is left.
fn dev_run(temporary: &std::path::Path, script: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev"));
    command.args(["run", "--no-kafka", "--no-python", "--", "sh", "-c", script]);
    command.env("TMPDIR", temporary);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn is_empty(directory: &std::path::Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn passes_the_address_and_the_status_on_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = dev_run(temporary.path(), "echo $TEST_DATABASE_URL $TEST_GCS; exit 7");
    let line = first_line(&mut child);
    assert!(line.starts_with("postgres://") && line.contains(" http://127.0.0.1:"), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(is_empty(temporary.path()));
}

#[test]
fn a_signal_reaches_the_command_and_nothing_is_left() {
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = dev_run(temporary.path(), "echo ready; exec sleep 600");
        assert_eq!(first_line(&mut child), "ready");
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert!(is_empty(temporary.path()));
    }
}
