//! What devices may ask for.

use std::time::Duration;

use clap::Args;

/// Settings of the api; each a flag and an environment variable.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Messages in a page, at most
    #[arg(long, env = "CONTEXT_SYNC_PULL_LIMIT_MAX")]
    #[arg(default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pull_limit_max: u32,

    /// Messages in a page where a pull names no limit
    #[arg(long, env = "CONTEXT_SYNC_PULL_LIMIT")]
    #[arg(default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pull_limit: u32,

    /// Bytes of a page's messages, at most (but one message at least)
    #[arg(long, env = "CONTEXT_SYNC_PAGE_BYTES_MAX")]
    #[arg(default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    pub page_bytes_max: u32,

    /// Seconds that a pull may wait for something new, at most. Keep it below --http-request-seconds
    #[arg(long, env = "CONTEXT_SYNC_PULL_WAIT_SECONDS_MAX")]
    #[arg(default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub pull_wait_seconds_max: u32,

    /// Pulls that may wait for something new at once, at most; one tenant gets half. A wait beyond it is answered with
    /// 503. Keep it well below --http-connections: each holds one
    #[arg(long, env = "CONTEXT_SYNC_PULLS_WAITING_MAX")]
    #[arg(default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pulls_waiting_max: u32,

    /// Bytes of pages that are kept for other devices that pull the same, while nothing happens in the scope; 0 keeps none
    #[arg(long, env = "CONTEXT_SYNC_PULL_CACHE_BYTES_MAX", default_value_t = 8 << 20)]
    pub pull_cache_bytes_max: u32,

    /// Messages that are fetched by their ids at once, at most
    #[arg(long, env = "CONTEXT_SYNC_FETCH_MESSAGES_MAX")]
    #[arg(default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=3000))]
    pub fetch_messages_max: u32,

    /// Bytes of a repair's frame, at most, in either direction. Devices send frames of up to 65536
    #[arg(long, env = "CONTEXT_SYNC_REPAIR_FRAME_BYTES_MAX")]
    #[arg(default_value_t = 256 << 10, value_parser = clap::value_parser!(u32).range(65_536..=4_194_304))]
    pub repair_frame_bytes_max: u32,

    /// Frames of repairs that are worked on at once, at most; each holds a connection to Postgres while it reads
    #[arg(long, env = "CONTEXT_SYNC_REPAIRS_MAX")]
    #[arg(default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub repairs_max: u32,

    /// Frames of repairs that may wait for that, at most; more are answered with 503
    #[arg(long, env = "CONTEXT_SYNC_REPAIRS_WAITING_MAX")]
    #[arg(default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub repairs_waiting_max: u32,

    /// Bytes of what scopes hold that are kept for the next frame, 56 a message. A scope that does not fit is read
    /// anew for each frame
    #[arg(long, env = "CONTEXT_SYNC_REPAIR_CACHE_BYTES_MAX", default_value_t = 64 << 20)]
    pub repair_cache_bytes_max: u32,

    /// How long a body may take to arrive. No flag of its own: whoever composes the process sets it
    /// from the HTTP listener's limits.
    #[arg(skip = BODY_TIMEOUT)]
    pub body_timeout: Duration,
}

/// The listener's default.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            pull_limit_max: 1000,
            pull_limit: 100,
            page_bytes_max: 4 << 20,
            pull_wait_seconds_max: 60,
            pulls_waiting_max: 5000,
            pull_cache_bytes_max: 8 << 20,
            fetch_messages_max: 1000,
            repair_frame_bytes_max: 256 << 10,
            repairs_max: 2,
            repairs_waiting_max: 64,
            repair_cache_bytes_max: 64 << 20,
            body_timeout: BODY_TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        api: ApiConfig,
    }

    #[test]
    fn the_flags_defaults_are_the_defaults() {
        assert_eq!(Command::parse_from(["x"]).api, ApiConfig::default());
    }
}
