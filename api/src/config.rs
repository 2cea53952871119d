//! What a pull may ask for.

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
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            pull_limit_max: 1000,
            pull_limit: 100,
            page_bytes_max: 4 << 20,
            pull_wait_seconds_max: 60,
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
