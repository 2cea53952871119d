//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::{
    demo::DemoArgs,
    dev::DevArgs,
    device::{pull::PullArgs, push::PushArgs, status::StatusArgs, sync::SyncArgs},
    import::ImportArgs,
    ops::OpsCommand,
    serve::{Role, ServeArgs},
    token::TokenArgs,
};

/// Context messages of AI coding tools, on every device, with the team, never lost.
#[derive(Debug, Parser)]
#[command(version, name = "context-sync", after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  context-sync demo                                   everything shown in a few seconds, then gone
  context-sync dev                                    everything in one process, nothing to install
  context-sync import --git . --scope team/web        this repository's decisions, for the team
  context-sync token --tenant acme --user ann         a token for it
  context-sync serve --roles ingest,projector,archiver,api --log kafka://kafka:9092
                                                      production; DATABASE_URL names Postgres

Every setting of a server is also an environment variable; `context-sync COMMAND --help` names them.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all roles in one process, with nothing to install: an embedded log and a private Postgres
    #[command(after_help = "Examples:
  context-sync dev
  context-sync dev --data-dir /var/lib/context-sync --listen 0.0.0.0:8080
  context-sync dev --log kafka://localhost:9092       the same on Apache Kafka

Ctrl-C stops it; started again, everything is there. The data directory holds log/ (the truth),
archive/ (backups), postgres/ and archiver/ (may be deleted: rebuilt from the log) and the development key.")]
    Dev(Box<DevArgs>),

    /// Run some roles in one process (production)
    #[command(after_help = "Examples:
  context-sync serve --roles ingest,api --log kafka://kafka:9092
  context-sync serve --roles projector --log kafka://kafka:9092 --partitions 0,1,2,3")]
    Serve(ServeRoles),

    /// Run the role that takes every request that changes something
    Ingest(Box<ServeArgs>),
    /// Run the role that folds the log into Postgres
    Projector(Box<ServeArgs>),
    /// Run the role that writes backups to the archive
    Archiver(Box<ServeArgs>),
    /// Run the role that answers every request that only reads
    Api(Box<ServeArgs>),

    /// Create the read model in Postgres, or bring it to this version
    #[command(after_help = "Example:
  DATABASE_URL=postgres://owner:secret@db/context_sync context-sync migrate")]
    Migrate(MigrateArgs),

    /// Print a token signed with the development key
    #[command(after_help = "Examples:
  context-sync token --tenant acme --user ann
  curl -H \"Authorization: Bearer $(context-sync token --tenant acme --user ann)\" \\
       -H 'X-Device-ID: laptop' http://127.0.0.1:8080/api/v1/context/pull")]
    Token(TokenArgs),

    /// Push messages from standard input, a JSON object a line
    #[command(after_help = "Examples:
  context-sync push --type decision --content 'Use PostgreSQL RLS for tenant isolation'
  context-sync push --scope team/web < messages.jsonl
  echo '{\"type\": \"insight\", \"content\": \"Linking is the slow part\"}' | context-sync push --json
  CONTEXT_SYNC_URL=https://sync.example.org CONTEXT_SYNC_TOKEN=… context-sync push < messages.jsonl

Without --url and --token it talks to the development instance on --data-dir. What is pushed
twice is kept once. The status is 1 if a message was rejected.")]
    Push(Box<PushArgs>),

    /// Pull the messages of a scope
    #[command(after_help = "Examples:
  context-sync pull                                   the first 100, as a table on a terminal
  context-sync pull --scope team/web --all --json > messages.jsonl
  context-sync pull --cursor 12345 --wait 30          what comes after it, as soon as it comes")]
    Pull(Box<PullArgs>),

    /// Keep a scope's messages in a file: push what waits, pull what is new, mend what has drifted
    #[command(after_help = "Examples:
  context-sync sync
  context-sync sync --scope team/web --replica ~/notes/web.jsonl
  echo '{\"type\": \"insight\", \"content\": \"…\"}' >> ~/notes/web.outbox.jsonl     waits for the next sync

Beside FILE.jsonl, FILE.outbox.jsonl holds messages to push, a JSON object a line; any tool may add to it.
Count and digest are compared with the scope's; if they differ, only what differs is fetched.")]
    Sync(Box<SyncArgs>),

    /// Tell whether the file of a scope's messages is what the scope is
    #[command(after_help = "Examples:
  context-sync status
  context-sync status --scope team/web --replica ~/notes/web.jsonl --json

The exit status is 0 if all is the same and nothing waits to be pushed, else 1.")]
    Status(Box<StatusArgs>),

    /// Import a git repository's history: a message a commit, of type decision
    #[command(after_help = "Examples:
  context-sync import --git . --scope team/web
  context-sync import --git ~/src/shop --scope project/shop --json

Imported again, only new commits are added: what is there already is skipped.")]
    Import(Box<ImportArgs>),

    /// What operators need
    #[command(subcommand)]
    Ops(OpsCommand),

    /// Show everything on a fresh instance that is gone afterwards
    #[command(after_help = "Examples:
  context-sync demo                                   with the history of the repository here
  context-sync demo --git ~/src/shop --keep")]
    Demo(DemoArgs),
}

#[derive(Args, Debug)]
pub struct ServeRoles {
    /// The roles to run: ingest, projector, archiver, api
    #[arg(long, env = "CONTEXT_SYNC_ROLES", value_delimiter = ',', required = true)]
    pub roles: Vec<Role>,

    #[command(flatten)]
    pub serve: Box<ServeArgs>,
}

#[derive(Args, Debug)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub database: readmodel::DatabaseConfig,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
