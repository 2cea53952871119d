//! Making PostgreSQL's data.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::binaries::{Binaries, command};
use super::directory::Directory;
use super::{DATABASE, OWNER, PostgresError};
use crate::process::{self, POLL};
use crate::progress::{Progress, Step};

/// How long each of the programs may take, on a slow disk too.
const LIMIT: Duration = Duration::from_mins(3);

/// How long a child of a killed initdb may go on writing.
const REMAINS_LIMIT: Duration = Duration::from_secs(5);

/// The first version whose initdb can write out a whole file system.
const SYNCFS_MAJOR: u32 = 17;

/// Only the user PostgreSQL runs as may read passwords and logs.
const SECRET: u32 = 0o600;

/// The version of the data, if there are whole data.
pub(super) fn major(directory: &Directory) -> Option<u32> {
    if !directory.mark().exists() {
        return None;
    }
    fs::read_to_string(directory.cluster().join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Makes the data where there are none, or only a part because the process that made them was killed. Returns the
/// password.
pub(super) async fn prepare(
    directory: &Directory,
    binaries: &Binaries,
    durable: bool,
    progress: &dyn Progress,
) -> Result<String, PostgresError> {
    if major(directory).is_some()
        && let Ok(password) = fs::read_to_string(directory.password())
    {
        return Ok(password);
    }
    progress.step(&Step::Initialising(&format!("PostgreSQL {}", binaries.version)));
    remove_remains(directory).await?;
    let password = uuid::Uuid::new_v4().simple().to_string();
    write_secret(directory, &directory.password(), &password)?;
    run_initdb(directory, binaries).await?;
    create_database(directory, binaries).await?;
    if durable {
        write_to_disk(directory, binaries).await?;
    }
    write_secret(directory, &directory.mark(), &binaries.version)?;
    Ok(password)
}

/// The mark goes first: what is half removed is not whole.
async fn remove_remains(directory: &Directory) -> io::Result<()> {
    for file in [directory.mark(), directory.password()] {
        ignore_missing(fs::remove_file(file))?;
    }
    let deadline = Instant::now() + REMAINS_LIMIT;
    loop {
        match ignore_missing(fs::remove_dir_all(directory.cluster())) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            result => return result,
        }
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A new file that only the user PostgreSQL runs as can read, on the disk when this returns.
fn write_secret(directory: &Directory, path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(SECRET).open(path)?;
    directory.give(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// A new log, open for PostgreSQL to write.
pub(super) fn new_log(directory: &Directory) -> io::Result<File> {
    let path = directory.log();
    ignore_missing(fs::remove_file(&path))?;
    let file = OpenOptions::new().append(true).create_new(true).mode(SECRET).open(&path)?;
    directory.give(&path)?;
    Ok(file)
}

async fn run_initdb(directory: &Directory, binaries: &Binaries) -> Result<(), PostgresError> {
    let mut initdb = initdb(directory, binaries);
    initdb.arg("--pwfile").arg(directory.password());
    initdb.args(["-U", OWNER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
    initdb.args(["--data-checksums", "--no-sync"]);
    run(directory, initdb).await
}

/// In single-user mode: no client program is needed, which the fetched programs lack.
async fn create_database(directory: &Directory, binaries: &Binaries) -> Result<(), PostgresError> {
    let mut input = tempfile::tempfile()?;
    writeln!(input, "CREATE DATABASE {DATABASE} STRATEGY file_copy;")?;
    input.seek(SeekFrom::Start(0))?;
    let mut single = command(&binaries.program("postgres"), directory.user());
    single.arg("--single").args(["-c", "exit_on_error=on", "-c", "fsync=off"]);
    single.arg("-D").arg(directory.cluster()).arg("postgres").stdin(input);
    run(directory, single).await
}

/// Once for both steps before, which is quicker than each by itself; quicker still where the whole file system can be
/// written out at once instead of each of a thousand files.
async fn write_to_disk(directory: &Directory, binaries: &Binaries) -> Result<(), PostgresError> {
    if cfg!(target_os = "linux") && binaries.major >= SYNCFS_MAJOR {
        let mut at_once = initdb(directory, binaries);
        at_once.args(["--sync-only", "--sync-method=syncfs"]);
        // A build without it refuses, and then each file is written.
        if run(directory, at_once).await.is_ok() {
            return Ok(());
        }
    }
    let mut each = initdb(directory, binaries);
    each.arg("--sync-only");
    run(directory, each).await
}

fn initdb(directory: &Directory, binaries: &Binaries) -> Command {
    let mut initdb = command(&binaries.program("initdb"), directory.user());
    initdb.arg("-D").arg(directory.cluster());
    initdb
}

async fn run(directory: &Directory, mut command: Command) -> Result<(), PostgresError> {
    let log = new_log(directory)?;
    command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
    let why = match process::run(command, LIMIT).await {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{status}: {}", reason(&directory.log())),
        Err(error) => error.to_string(),
    };
    Err(PostgresError::Initialise { why })
}

/// The last thing a program complained of.
pub(super) fn reason(log: &Path) -> String {
    let text =
        fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let complaint =
        |line: &&str| ["FATAL", "PANIC", "ERROR", "error:"].iter().any(|word| line.contains(word));
    let line =
        text.lines().rev().find(complaint).or(text.lines().last()).unwrap_or("it said nothing");
    format!("{} (log: {})", line.trim(), log.display())
}
