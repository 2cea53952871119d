//! PostgreSQL as it is really started, stopped, killed and lost.
#![allow(clippy::unwrap_used, reason = "a test may panic, and so may its helpers")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dev::postgres::{Postgres, PostgresConfig, PostgresError};
use dev::progress::{Progress, Quiet, Step};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A data directory in a directory that, for root, no other user reaches.
fn closed_directory() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data_dir = parent.path().join("state").join("postgres");
    (parent, data_dir)
}

async fn start(data_dir: &Path) -> Postgres {
    Postgres::start(PostgresConfig::new(data_dir), &Quiet).await.unwrap()
}

/// A number that PostgreSQL makes with the data and never changes: bytes 0 to 7 of its control file.
fn system_identifier(postgres: &Postgres) -> u64 {
    let control = fs::read(postgres.cluster_dir().join("global").join("pg_control")).unwrap();
    u64::from_ne_bytes(control[..8].try_into().unwrap())
}

fn psql(postgres: &Postgres, statement: &str) -> Option<String> {
    let output =
        Command::new("psql").arg(postgres.url()).args(["-XAtc", statement]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}

#[derive(Default)]
struct Recorded(Mutex<Vec<String>>);

impl Progress for Recorded {
    fn step(&self, step: &Step<'_>) {
        self.0.lock().unwrap().push(step.to_string());
    }
}

impl Recorded {
    fn has(&self, word: &str) -> bool {
        self.0.lock().unwrap().iter().any(|step| step.starts_with(word))
    }
}

#[tokio::test]
async fn keeps_its_data_and_password_over_a_restart() {
    let (_parent, data_dir) = closed_directory();
    let first = start(&data_dir).await;
    let identifier = system_identifier(&first);
    let password = first.url().split('@').next().unwrap().to_owned();
    psql(&first, "CREATE TABLE kept AS SELECT 42 AS answer");
    if let Some(settings) =
        psql(&first, "SELECT current_setting('fsync') || current_setting('data_checksums')")
    {
        assert_eq!(settings, "onon");
        assert_eq!(psql(&first, "SHOW server_encoding").unwrap(), "UTF8");
        assert_eq!(psql(&first, "SHOW listen_addresses").unwrap(), "127.0.0.1");
    }
    first.stop().await.unwrap();
    assert!(!first.is_running());
    drop(first);

    let progress = Recorded::default();
    let second = Postgres::start(PostgresConfig::new(&data_dir), &progress).await.unwrap();
    assert!(!progress.has("initialising"));
    assert_eq!(system_identifier(&second), identifier);
    assert!(second.url().starts_with(&password));
    if let Some(answer) = psql(&second, "SELECT answer FROM kept") {
        assert_eq!(answer, "42");
    }
}

#[tokio::test]
async fn starts_again_after_a_kill_on_the_same_port() {
    let (_parent, data_dir) = closed_directory();
    let postgres = start(&data_dir).await;
    let (identifier, port, pid) = (system_identifier(&postgres), postgres.port(), postgres.pid());
    psql(&postgres, "CREATE TABLE kept AS SELECT 42 AS answer");
    postgres.kill().await.unwrap();
    assert!(!postgres.is_running());
    postgres.restart().await.unwrap();
    assert!(postgres.is_running() && postgres.pid() != pid);
    assert_eq!((system_identifier(&postgres), postgres.port()), (identifier, port));
    if let Some(answer) = psql(&postgres, "SELECT answer FROM kept") {
        assert_eq!(answer, "42");
    }
}

#[tokio::test]
async fn a_second_start_on_the_same_data_is_refused() {
    let (_parent, data_dir) = closed_directory();
    let first = start(&data_dir).await;
    let error = Postgres::start(PostgresConfig::new(&data_dir), &Quiet).await.unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    assert!(first.is_running());
}

#[tokio::test]
async fn deleted_data_start_empty() {
    let (_parent, data_dir) = closed_directory();
    let first = start(&data_dir).await;
    let (identifier, old) = (system_identifier(&first), first.cluster_dir());
    assert_eq!(fs::symlink_metadata(&data_dir).unwrap().is_symlink(), is_root());
    first.stop().await.unwrap();
    drop(first);
    match is_root() {
        true => fs::remove_file(&data_dir).unwrap(),
        false => fs::remove_dir_all(&data_dir).unwrap(),
    }

    let second = start(&data_dir).await;
    assert_ne!(system_identifier(&second), identifier);
    assert_eq!(old.exists(), old == second.cluster_dir(), "the old data are gone");
}

#[tokio::test]
async fn runs_unprivileged_where_the_directory_can_be_reached() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = parent.path().join("postgres");
    let postgres = start(&data_dir).await;
    let found = fs::symlink_metadata(&data_dir).unwrap();
    assert!(found.is_dir() && found.mode() & 0o777 == 0o700 && found.uid() != 0);
    let process = fs::metadata(format!("/proc/{}", postgres.pid()));
    assert!(process.is_ok_and(|process| process.uid() == found.uid()));
}

#[tokio::test]
async fn a_half_made_cluster_is_made_again() {
    let (_parent, data_dir) = closed_directory();
    let first = start(&data_dir).await;
    let identifier = system_identifier(&first);
    first.stop().await.unwrap();
    let mark = first.cluster_dir().with_file_name("initialised");
    drop(first);
    fs::remove_file(mark).unwrap();
    assert_ne!(system_identifier(&start(&data_dir).await), identifier);
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = parent.path().join("documents");
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("letter"), "dear").unwrap();
    let error = Postgres::start(PostgresConfig::new(&data_dir), &Quiet).await.unwrap_err();
    assert!(error.to_string().contains("other files"), "{error}");
    assert_eq!(fs::read_to_string(data_dir.join("letter")).unwrap(), "dear");
}

/// Callers start it within tasks, on runtimes of several threads.
#[test]
fn a_start_can_move_between_threads() {
    fn sendable<T: Send>(_: &T) {}
    sendable(&Postgres::start(PostgresConfig::new("nowhere"), &Quiet));
    sendable(&dev::kafka::Kafka::start(dev::kafka::KafkaConfig::new("nowhere"), &Quiet));
}

#[tokio::test]
async fn a_wrong_directory_of_programs_is_named() {
    let (parent, data_dir) = closed_directory();
    let config = PostgresConfig {
        bin_dir: Some(parent.path().join("nowhere")),
        ..PostgresConfig::new(&data_dir)
    };
    let error = Postgres::start(config, &Quiet).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[tokio::test]
async fn two_at_once_fill_one_cache() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let cache = parent.path().join("cache");
    let fetch = || dev::postgres::fetch(Some(cache.clone()), &Quiet);
    let (first, second) = tokio::join!(fetch(), fetch());
    assert_eq!(first.unwrap(), second.unwrap());
}

#[tokio::test]
async fn one_server_serves_the_tests_of_a_process() {
    let (first, second) = tokio::join!(dev::postgres::for_tests(), dev::postgres::for_tests());
    assert_eq!(first.unwrap(), second.unwrap());
}

/// Starts `dev up` in `directory` and reads the address it prints.
fn start_dev_up(directory: &Path) -> (std::process::Child, u32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev"));
    command.args(["up", "--json", "--no-kafka", "--dir"]).arg(directory);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let printed: serde_json::Value = serde_json::from_str(&line).unwrap();
    let pid = printed["postgres_pid"].as_u64().unwrap().try_into().unwrap();
    (child, pid)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What follows the name in parentheses: the state, Z for a process that ended and was not waited for.
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ends_with_a_killed_parent_and_starts_again() {
    let (parent, _) = closed_directory();
    let (mut child, pid) = start_dev_up(parent.path());
    child.kill().unwrap();
    child.wait().unwrap();
    // At once, while the orphan may still be ending.
    let postgres = start(&parent.path().join("postgres")).await;
    assert_ne!(postgres.pid(), pid);
    assert!(postgres.is_running());
    wait_until("the orphan ends", || !is_running(pid));
}

/// A PostgreSQL that nothing ends with its parent.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_orphan_that_stays_is_stopped() {
    use std::os::unix::process::CommandExt;
    let (_parent, data_dir) = closed_directory();
    let first = start(&data_dir).await;
    let (cluster, postgres) = (first.cluster_dir(), first.bin_dir().join("postgres"));
    first.stop().await.unwrap();
    drop(first);
    let owner = fs::metadata(&cluster).unwrap();
    let mut orphan = Command::new(postgres);
    if is_root() {
        orphan.uid(owner.uid()).gid(owner.gid());
    }
    let port = format!("port={}", dev::ports::free_port().unwrap());
    orphan.arg("-D").arg(&cluster).args(["-c", "unix_socket_directories=", "-c", &port]);
    let mut orphan = orphan.current_dir("/").stderr(Stdio::null()).spawn().unwrap();
    wait_until("the orphan is ready", || {
        fs::read_to_string(cluster.join("postmaster.pid")).is_ok_and(|file| file.contains("ready"))
    });

    let progress = Recorded::default();
    let second = Postgres::start(PostgresConfig::new(&data_dir), &progress).await.unwrap();
    assert!(progress.has("stopping"));
    assert!(!is_running(orphan.id()) && second.is_running());
    orphan.wait().unwrap();
}
