//! `dev up`: the services until Ctrl-C.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dev::command;
use dev::gcs::FakeGcs;
use dev::kafka::Kafka;
use dev::postgres::{Postgres, PostgresConfig};

use crate::{Error, Services};

/// How often to see whether the services still run.
const WATCH: Duration = Duration::from_millis(200);

struct Started {
    postgres: Option<Postgres>,
    kafka: Option<Kafka>,
    gcs: Option<FakeGcs>,
    python: Option<PathBuf>,
}

/// Starts the services on the data in `dir`, prints their addresses, and stops them when told to.
pub(crate) async fn up(services: &Services, dir: &Path, json: bool) -> Result<ExitCode, Error> {
    let interrupted = command::interrupted();
    tokio::pin!(interrupted);
    let started = tokio::select! {
        started = start(services, dir) => started?,
        interrupted = &mut interrupted => return Ok(interrupted.map(|()| ExitCode::SUCCESS)?),
    };
    match json {
        true => writeln!(std::io::stdout(), "{}", started.json())?,
        false => started.print()?,
    }
    let ended = tokio::select! {
        interrupted = interrupted => interrupted.map(|()| None)?,
        ended = started.watch() => Some(ended),
    };
    started.stop().await?;
    if let Some(service) = ended {
        eprintln!("dev: {service} ended by itself: see its log in {}", dir.display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(services: &Services, dir: &Path) -> Result<Started, Error> {
    let python = services.fetch_python().await?;
    let postgres = services.start_postgres(PostgresConfig::new(dir.join("postgres"))).await?;
    let kafka = services.start_kafka(dir.join("kafka")).await?;
    let gcs = services.start_gcs(dir.join("gcs")).await?;
    Ok(Started { postgres, kafka, gcs, python })
}

impl Started {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "database_url": self.postgres.as_ref().map(Postgres::url),
            "postgres_pid": self.postgres.as_ref().map(Postgres::pid),
            "kafka": self.kafka.as_ref().map(Kafka::bootstrap),
            "kafka_pid": self.kafka.as_ref().map(Kafka::pid),
            "gcs": self.gcs.as_ref().map(FakeGcs::url),
            "gcs_pid": self.gcs.as_ref().map(FakeGcs::pid),
            "pythonpath": self.python,
        })
    }

    fn print(&self) -> std::io::Result<()> {
        let mut output = std::io::stdout();
        if let Some(postgres) = &self.postgres {
            writeln!(output, "PostgreSQL {}: {}", postgres.version(), postgres.url())?;
        }
        if let Some(kafka) = &self.kafka {
            writeln!(
                output,
                "Apache Kafka {}: kafka://{}",
                dev::kafka::VERSION,
                kafka.bootstrap()
            )?;
        }
        if let Some(gcs) = &self.gcs {
            writeln!(output, "fake-gcs-server {}: {}", dev::gcs::VERSION, gcs.url())?;
        }
        if let Some(python) = &self.python {
            writeln!(output, "DuckDB and PyArrow: PYTHONPATH={}", python.display())?;
        }
        writeln!(output, "Ctrl-C stops them.")
    }

    /// Waits until one ends; says which.
    async fn watch(&self) -> &'static str {
        loop {
            if self.postgres.as_ref().is_some_and(|postgres| !postgres.is_running()) {
                return "PostgreSQL";
            }
            if self.kafka.as_ref().is_some_and(|kafka| !kafka.is_running()) {
                return "Apache Kafka";
            }
            if self.gcs.as_ref().is_some_and(|gcs| !gcs.is_running()) {
                return "fake-gcs-server";
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    async fn stop(&self) -> Result<(), Error> {
        if let Some(gcs) = &self.gcs {
            gcs.stop().await?;
        }
        if let Some(kafka) = &self.kafka {
            kafka.stop().await?;
        }
        if let Some(postgres) = &self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}
