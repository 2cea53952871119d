//! `dev run`: the services for as long as one command runs.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use dev::command;
use dev::kafka::Kafka;
use dev::postgres::{Postgres, PostgresConfig};
use dev::scratch::Scratch;

use crate::{Error, Services};

/// What a shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

/// Ended by Ctrl-C before the command began.
const INTERRUPTED: u8 = 130;

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
    if let Some(postgres) = &started.0 {
        command.env("TEST_DATABASE_URL", postgres.url());
    }
    if let Some(kafka) = &started.1 {
        command.env("TEST_KAFKA", kafka.bootstrap());
    }
    let ended = command::run(command).await;
    // Nobody needs their data again: they are ended at once.
    drop(started);
    let status = ended.map_err(|source| Error::Command {
        command: program.to_string_lossy().into_owned(),
        source,
    })?;
    Ok(ExitCode::from(code(status)))
}

async fn start(
    services: &Services,
    scratch: &Scratch,
) -> Result<(Option<Postgres>, Option<Kafka>), Error> {
    let postgres = services.start_postgres(PostgresConfig::for_tests(scratch.path())).await?;
    let kafka = services.start_kafka(scratch.path().join("kafka")).await?;
    Ok((postgres, kafka))
}

/// The status a shell would show.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| SIGNALLED + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
