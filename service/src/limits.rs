//! What one HTTP listener takes before it says no.

use std::time::Duration;

use clap::Args;

/// The limits of an HTTP listener; each a flag and an environment variable.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of a request's line and headers; more is 431
    #[arg(long = "http-header-bytes", env = "CONTEXT_SYNC_HTTP_HEADER_BYTES")]
    #[arg(default_value_t = 16 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1_048_576))]
    pub header_bytes: u32,

    /// Seconds from a request's first byte (or the connection's start) to the end of its headers;
    /// then the connection is closed
    #[arg(long = "http-header-seconds", env = "CONTEXT_SYNC_HTTP_HEADER_SECONDS")]
    #[arg(default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub header_seconds: u32,

    /// Seconds for a whole request body to arrive; later is 400
    #[arg(long = "http-body-seconds", env = "CONTEXT_SYNC_HTTP_BODY_SECONDS")]
    #[arg(default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub body_seconds: u32,

    /// Seconds from a request's headers to its answer's; later is 503. A long poll takes 60
    #[arg(long = "http-request-seconds", env = "CONTEXT_SYNC_HTTP_REQUEST_SECONDS")]
    #[arg(default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub request_seconds: u32,

    /// Seconds that a client may leave an answer unread before the connection is closed
    #[arg(long = "http-write-seconds", env = "CONTEXT_SYNC_HTTP_WRITE_SECONDS")]
    #[arg(default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub write_seconds: u32,

    /// Seconds a connection may idle between requests. A load balancer in front must close first:
    /// set it above that one's own idle time
    #[arg(long = "http-keep-alive-seconds", env = "CONTEXT_SYNC_HTTP_KEEP_ALIVE_SECONDS")]
    #[arg(default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub keep_alive_seconds: u32,

    /// Connections open at once; more wait in the kernel's backlog
    #[arg(long = "http-connections", env = "CONTEXT_SYNC_HTTP_CONNECTIONS")]
    #[arg(default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,

    /// Seconds that requests in flight get to finish once shutdown has begun
    #[arg(long = "http-drain-seconds", env = "CONTEXT_SYNC_HTTP_DRAIN_SECONDS")]
    #[arg(default_value_t = 25, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub drain_seconds: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            header_seconds: 10,
            body_seconds: 30,
            request_seconds: 75,
            write_seconds: 30,
            keep_alive_seconds: 75,
            connections: 10_000,
            drain_seconds: 25,
        }
    }
}

impl HttpLimits {
    /// `body_seconds` as a duration, for [`crate::http::read_body`].
    pub fn body_timeout(&self) -> Duration {
        seconds(self.body_seconds)
    }

    /// `request_seconds` as a duration.
    pub fn request_timeout(&self) -> Duration {
        seconds(self.request_seconds)
    }
}

pub(crate) fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        limits: HttpLimits,
    }

    #[test]
    fn the_flags_defaults_are_the_defaults() {
        assert_eq!(Command::parse_from(["x"]).limits, HttpLimits::default());
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        assert!(Command::try_parse_from(["x", "--http-connections", "0"]).is_err());
    }
}
