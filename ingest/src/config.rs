//! What ingest takes, and how long it waits.

use std::time::Duration;

use clap::{Args, ValueEnum};
use model::Limits;
use readmodel::quotas::Quotas;

/// Who may create teams and projects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WhoMayCreate {
    /// Any user of the tenant.
    #[default]
    Any,
    /// Users whose token says `org_role` admin or owner.
    Admins,
}

/// Settings of ingest; each a flag and an environment variable.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct IngestConfig {
    /// Messages in a push, at most
    #[arg(long, env = "CONTEXT_SYNC_PUSH_MESSAGES_MAX")]
    #[arg(default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub push_messages_max: u32,

    /// Bytes of a push's body, at most
    #[arg(long, env = "CONTEXT_SYNC_PUSH_BYTES_MAX")]
    #[arg(default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    pub push_bytes_max: u32,

    /// Bytes of a message's content in UTF-8, at most
    #[arg(long, env = "CONTEXT_SYNC_CONTENT_BYTES_MAX")]
    #[arg(default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub content_bytes_max: u32,

    /// Bytes of a message's metadata as RFC 8785 JSON, at most
    #[arg(long, env = "CONTEXT_SYNC_METADATA_BYTES_MAX")]
    #[arg(default_value_t = 16 << 10, value_parser = clap::value_parser!(u32).range(2..=4_194_304))]
    pub metadata_bytes_max: u32,

    /// Milliseconds that a request waits for its outcome, once the log has it; then it is 202
    #[arg(long, env = "CONTEXT_SYNC_PUSH_WAIT_MS")]
    #[arg(default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub push_wait_ms: u32,

    /// Milliseconds that a request waits for the end of a restore; then it is 202, and the restore goes on
    #[arg(long, env = "CONTEXT_SYNC_RESTORE_WAIT_MS")]
    #[arg(default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub restore_wait_ms: u32,

    /// Backups on demand of one scope within a day, at most; 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_BACKUPS_ON_DEMAND_PER_DAY_MAX", default_value_t = 10)]
    pub backups_on_demand_per_day_max: u32,

    /// Members of a team or project, former ones included, at most; 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_MEMBERS_MAX", default_value_t = 10_000)]
    pub members_max: u32,

    /// Bytes of content and metadata in a scope, at most; 0 sets no quota. An operator may set another
    /// for a tenant (`ops quota`), of this and the three that follow
    #[arg(long, env = "CONTEXT_SYNC_SCOPE_BYTES_MAX", default_value_t = 1 << 30)]
    pub scope_bytes_max: u64,

    /// Live messages in a scope, at most; 0 sets no quota
    #[arg(long, env = "CONTEXT_SYNC_SCOPE_MESSAGES_MAX", default_value_t = 1_000_000)]
    pub scope_messages_max: u64,

    /// Bytes of content and metadata in all scopes of a tenant, at most; 0 sets no quota
    #[arg(long, env = "CONTEXT_SYNC_TENANT_BYTES_MAX", default_value_t = 100 << 30)]
    pub tenant_bytes_max: u64,

    /// Live messages in all scopes of a tenant, at most; 0 sets no quota
    #[arg(long, env = "CONTEXT_SYNC_TENANT_MESSAGES_MAX", default_value_t = 100_000_000)]
    pub tenant_messages_max: u64,

    /// Pushes under way at once, at most, of which one tenant gets half; more are 503. 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_PUSHES_IN_FLIGHT_MAX", default_value_t = 4_000)]
    pub pushes_in_flight_max: u32,

    /// Bytes of the bodies of pushes under way at once, at most, of which one tenant gets half; more are
    /// 503. They take about three times as much memory. 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_PUSH_BYTES_IN_FLIGHT_MAX", default_value_t = 64 << 20)]
    pub push_bytes_in_flight_max: u64,

    /// Records by which the read model may be behind in a partition; while it is more, requests that
    /// would append to it are 503. 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_PROJECTOR_LAG_RECORDS_MAX", default_value_t = 100_000)]
    pub projector_lag_records_max: u64,

    /// Who may create teams and projects
    #[arg(long, env = "CONTEXT_SYNC_WHO_MAY_CREATE", value_enum, default_value_t)]
    pub who_may_create: WhoMayCreate,

    /// How long a body may take to arrive. No flag of its own: whoever composes the process sets it
    /// from the HTTP listener's limits.
    #[arg(skip = BODY_TIMEOUT)]
    pub body_timeout: Duration,
}

/// The listener's default.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            push_messages_max: 500,
            push_bytes_max: 4 << 20,
            content_bytes_max: 64 << 10,
            metadata_bytes_max: 16 << 10,
            push_wait_ms: 5_000,
            restore_wait_ms: 10_000,
            backups_on_demand_per_day_max: 10,
            members_max: 10_000,
            scope_bytes_max: 1 << 30,
            scope_messages_max: 1_000_000,
            tenant_bytes_max: 100 << 30,
            tenant_messages_max: 100_000_000,
            pushes_in_flight_max: 4_000,
            push_bytes_in_flight_max: 64 << 20,
            projector_lag_records_max: 100_000,
            who_may_create: WhoMayCreate::Any,
            body_timeout: BODY_TIMEOUT,
        }
    }
}

impl IngestConfig {
    /// The limits of a push.
    pub fn limits(&self) -> Limits {
        Limits {
            push_messages_max: self.push_messages_max as usize,
            push_bytes_max: self.push_bytes_max as usize,
            content_bytes_max: self.content_bytes_max as usize,
            metadata_bytes_max: self.metadata_bytes_max as usize,
        }
    }

    /// The quotas of tenants for whom no operator has set others.
    pub(crate) fn quotas(&self) -> Quotas {
        Quotas {
            scope_bytes_max: self.scope_bytes_max,
            scope_messages_max: self.scope_messages_max,
            tenant_bytes_max: self.tenant_bytes_max,
            tenant_messages_max: self.tenant_messages_max,
        }
    }

    pub(crate) fn restore_wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.restore_wait_ms))
    }

    pub(crate) fn push_wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.push_wait_ms))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        ingest: IngestConfig,
    }

    #[test]
    fn the_flags_defaults_are_the_defaults_and_the_contracts() {
        assert_eq!(Command::parse_from(["x"]).ingest, IngestConfig::default());
        assert_eq!(IngestConfig::default().limits(), Limits::CONTRACT);
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        assert!(Command::try_parse_from(["x", "--push-messages-max", "0"]).is_err());
        assert!(Command::try_parse_from(["x", "--who-may-create", "nobody"]).is_err());
    }
}
