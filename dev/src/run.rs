//! `dev run`: the services for as long as one command runs.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use dev::command;
use dev::gcs::FakeGcs;
use dev::kafka::Kafka;
use dev::postgres::{Postgres, PostgresConfig};
use dev::scratch::Scratch;

use crate::{Error, Services};

/// What a shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

/// Ended by Ctrl-C before the command began.
const INTERRUPTED: u8 = 130;

struct Started {
    postgres: Option<Postgres>,
    kafka: Option<Kafka>,
    gcs: Option<FakeGcs>,
    python: Option<PathBuf>,
}

/// Starts the services, runs the command, and stops them. Returns the command's status.
pub(crate) async fn run(services: &Services, arguments: &[OsString]) -> Result<ExitCode, Error> {
    let scratch = Scratch::new()?;
    let started = tokio::select! {
        started = start(services, &scratch) => started?,
        interrupted = command::interrupted() => {
            interrupted?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let Some((program, rest)) = arguments.split_first() else { return Ok(ExitCode::SUCCESS) };
    let mut command = Command::new(program);
    command.args(rest);
    started.tell(&mut command);
    let ended = command::run(command).await;
    // Nobody needs their data again: they are ended at once.
    drop(started);
    let status = ended.map_err(|source| Error::Command {
        command: program.to_string_lossy().into_owned(),
        source,
    })?;
    Ok(ExitCode::from(code(status)))
}

async fn start(services: &Services, scratch: &Scratch) -> Result<Started, Error> {
    // First: nothing has to be stopped again where it is missing.
    let python = services.fetch_python().await?;
    let postgres = services.start_postgres(PostgresConfig::for_tests(scratch.path())).await?;
    let kafka = services.start_kafka(scratch.path().join("kafka")).await?;
    let gcs = services.start_gcs(scratch.path().join("gcs")).await?;
    Ok(Started { postgres, kafka, gcs, python })
}

impl Started {
    fn tell(&self, command: &mut Command) {
        if let Some(postgres) = &self.postgres {
            command.env("TEST_DATABASE_URL", postgres.url());
        }
        if let Some(kafka) = &self.kafka {
            command.env("TEST_KAFKA", kafka.bootstrap());
        }
        if let Some(gcs) = &self.gcs {
            command.env("TEST_GCS", gcs.url());
        }
        if let Some(python) = &self.python {
            command.env("TEST_PYTHONPATH", python);
        }
    }
}

/// The status a shell would show.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| SIGNALLED + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
