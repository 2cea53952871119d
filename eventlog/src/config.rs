//! Which log, and how: flags and their environment variables.

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;

/// The number of partitions of an embedded log that is created without `--log-partitions`.
pub const EMBEDDED_PARTITIONS: u32 = 4;
/// The number of partitions of a Kafka topic that is created without `--log-partitions`.
pub const KAFKA_PARTITIONS: u32 = 12;
/// How long an append may take, in milliseconds: shorter than an HTTP client waits.
pub const APPEND_TIMEOUT_MS: u32 = 10_000;
/// What may wait to be appended, in bytes.
const QUEUE_BYTES_MAX: u32 = 32 << 20;
/// The smallest queue: the largest record, and then some.
const QUEUE_BYTES_MIN: i64 = 16 << 20;

/// The message log.
#[derive(Args, Clone, Debug)]
pub struct LogConfig {
    /// The message log: `embedded` (one process, in the data directory) or
    /// `kafka://host:port[,host:port]`.
    #[arg(long, env = "CONTEXT_SYNC_LOG", default_value = "embedded", value_name = "LOG")]
    pub log: LogAddress,

    /// The number of partitions of the log. Used when it is created (default: 4 embedded, 12
    /// Kafka), and checked from then on: it never changes.
    #[arg(long, env = "CONTEXT_SYNC_LOG_PARTITIONS", value_name = "COUNT")]
    pub log_partitions: Option<u32>,

    /// How many brokers keep each record of topics that are created; -1 is the brokers' default.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_REPLICATION",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_name = "COUNT"
    )]
    pub log_replication: i32,

    /// A librdkafka property for every connection to Kafka, such as `security.protocol=SASL_SSL`.
    /// May be repeated; the environment variable separates them by newlines, or by commas in
    /// front of a `name=`.
    #[arg(
        long = "kafka-property",
        env = "CONTEXT_SYNC_KAFKA_PROPERTY",
        hide_env_values = true,
        value_name = "NAME=VALUE"
    )]
    pub kafka_properties: Vec<KafkaProperties>,

    /// What the topics' names begin with: `context` gives `context.events.v1`.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_TOPIC_PREFIX",
        default_value = "context",
        value_name = "PREFIX"
    )]
    pub log_topic_prefix: String,

    /// Remove records older than this many hours; 0 keeps everything. Records that neither the
    /// database nor an archive has are lost.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_RETENTION_HOURS",
        default_value_t = 0,
        value_name = "HOURS"
    )]
    pub log_retention_hours: u64,

    /// Remove the oldest records of a log that holds more than this many bytes (Kafka: of each of
    /// its partitions); 0 keeps everything. As --log-retention-hours, it may lose records.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_RETENTION_BYTES",
        default_value_t = 0,
        value_name = "BYTES"
    )]
    pub log_retention_bytes: u64,

    /// How long Kafka may take to acknowledge a record, in milliseconds. After it the outcome is
    /// unknown.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_APPEND_TIMEOUT_MS",
        default_value_t = APPEND_TIMEOUT_MS,
        value_parser = clap::value_parser!(u32).range(100..=3_600_000),
        value_name = "MILLISECONDS"
    )]
    pub log_append_timeout_ms: u32,

    /// Bytes of records that wait until the log has them, at most; more are refused at once, and requests that would
    /// append are 503.
    #[arg(
        long,
        env = "CONTEXT_SYNC_LOG_QUEUE_BYTES_MAX",
        default_value_t = QUEUE_BYTES_MAX,
        value_parser = clap::value_parser!(u32).range(QUEUE_BYTES_MIN..),
        value_name = "BYTES"
    )]
    pub log_queue_bytes_max: u32,

    /// Opens a log that is there, and makes none: for whoever only wants to look.
    #[arg(skip)]
    pub log_must_exist: bool,
}

impl LogConfig {
    /// The defaults, for a log at `log`.
    pub fn new(log: LogAddress) -> Self {
        Self {
            log,
            log_partitions: None,
            log_replication: -1,
            kafka_properties: Vec::new(),
            log_topic_prefix: "context".to_owned(),
            log_retention_hours: 0,
            log_retention_bytes: 0,
            log_append_timeout_ms: APPEND_TIMEOUT_MS,
            log_queue_bytes_max: QUEUE_BYTES_MAX,
            log_must_exist: false,
        }
    }

    /// `--log-append-timeout-ms`.
    pub const fn append_timeout(&self) -> Duration {
        Duration::from_millis(self.log_append_timeout_ms as u64)
    }

    /// Every `--kafka-property`, in order.
    pub fn properties(&self) -> impl Iterator<Item = &KafkaProperty> {
        self.kafka_properties.iter().flat_map(|list| &list.0)
    }
}

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogAddress {
    /// In the data directory, for one process.
    Embedded,
    /// Apache Kafka; `brokers` is librdkafka's `host:port[,host:port]`.
    Kafka { brokers: String },
}

/// The text is no log address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `embedded` or `kafka://host:port[,host:port]`")]
pub struct InvalidLogAddress;

impl FromStr for LogAddress {
    type Err = InvalidLogAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let brokers = text.strip_prefix("kafka://").ok_or(InvalidLogAddress)?;
        let brokers = brokers.strip_suffix('/').unwrap_or(brokers);
        if brokers.split(',').all(is_host_and_port) {
            Ok(Self::Kafka { brokers: brokers.to_owned() })
        } else {
            Err(InvalidLogAddress)
        }
    }
}

fn is_host_and_port(broker: &str) -> bool {
    broker.rsplit_once(':').is_some_and(|(host, port)| {
        let host_ok = !host.is_empty() && !host.contains(['/', '@', ' ']);
        host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl fmt::Display for LogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Kafka { brokers } => write!(f, "kafka://{brokers}"),
        }
    }
}

/// One librdkafka property. `Debug` and `Display` show the name alone: the value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaProperty {
    pub name: String,
    pub value: String,
}

impl fmt::Debug for KafkaProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=[redacted]", self.name)
    }
}

/// The properties of one `--kafka-property`, or of the whole environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaProperties(pub Vec<KafkaProperty>);

/// The text is no `name=value`. Does not repeat it: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected name=value, such as security.protocol=SASL_SSL")]
pub struct InvalidProperty;

impl FromStr for KafkaProperties {
    type Err = InvalidProperty;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut properties: Vec<KafkaProperty> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let first_of_line = properties.len();
            for part in line.split(',') {
                match part.split_once('=') {
                    Some((name, value)) if is_property_name(name.trim()) => {
                        properties.push(KafkaProperty {
                            name: name.trim().to_owned(),
                            value: value.to_owned(),
                        })
                    }
                    // A comma inside a value: it goes on.
                    _ if properties.len() > first_of_line => {
                        if let Some(last) = properties.last_mut() {
                            last.value = format!("{},{part}", last.value);
                        }
                    }
                    _ => return Err(InvalidProperty),
                }
            }
        }
        if properties.is_empty() { Err(InvalidProperty) } else { Ok(Self(properties)) }
    }
}

/// librdkafka's names are lower-case words, nearly all joined by dots: a password that holds `,x=`
/// is not cut there.
fn is_property_name(name: &str) -> bool {
    name.contains('.')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        || matches!(name, "acks" | "debug" | "partitioner" | "retries")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        log: LogConfig,
    }

    fn parse(arguments: &[&str]) -> Result<LogConfig, clap::Error> {
        let all = ["test"].iter().chain(arguments);
        Command::try_parse_from(all).map(|command| command.log)
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let kafka = |brokers: &str| Ok(LogAddress::Kafka { brokers: brokers.to_owned() });
        let cases = [
            ("embedded", Ok(LogAddress::Embedded)),
            ("kafka://a:9092", kafka("a:9092")),
            ("kafka://a:1,b.c:2,[::1]:3", kafka("a:1,b.c:2,[::1]:3")),
            ("kafka://a:9092/", kafka("a:9092")),
            ("kafka://", Err(InvalidLogAddress)),
            ("kafka://a", Err(InvalidLogAddress)),
            ("kafka://a:0", Err(InvalidLogAddress)),
            ("kafka://a:9092,", Err(InvalidLogAddress)),
            ("kafka://user:pw@a:9092", Err(InvalidLogAddress)),
            ("a:9092", Err(InvalidLogAddress)),
            ("", Err(InvalidLogAddress)),
        ];
        for (text, address) in cases {
            assert_eq!(text.parse::<LogAddress>(), address, "{text}");
            if let Ok(address) = text.parse::<LogAddress>() {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }

    #[test]
    fn properties_keep_their_commas_and_hide_their_values() {
        let read = |text: &str| -> Vec<(String, String)> {
            let list = text.parse::<KafkaProperties>().unwrap();
            list.0.into_iter().map(|p| (p.name, p.value)).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("linger.ms=5"), [pair("linger.ms", "5")]);
        assert_eq!(
            read("security.protocol=SASL_SSL,sasl.password=a,b=c,=d,linger.ms=1"),
            [
                pair("security.protocol", "SASL_SSL"),
                pair("sasl.password", "a,b=c,=d"),
                pair("linger.ms", "1")
            ]
        );
        assert_eq!(
            read("sasl.username=u\nsasl.password=p=q==\n"),
            [pair("sasl.username", "u"), pair("sasl.password", "p=q==")]
        );
        for bad in ["", "x", "=y", "password=x", "\n"] {
            assert_eq!(bad.parse::<KafkaProperties>(), Err(InvalidProperty), "{bad}");
        }
        let arguments = ["--kafka-property", "sasl.password=hunter2", "--kafka-property", "a.b=c"];
        let config = parse(&arguments).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(config.properties().count(), 2);
        let refused = parse(&["--kafka-property", "hunter2"]).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|text| text.contains("expected name=value")));
    }

    #[test]
    fn the_defaults_keep_everything() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.log, LogAddress::Embedded);
        assert_eq!((config.log_retention_hours, config.log_retention_bytes), (0, 0));
        assert_eq!(format!("{config:?}"), format!("{:?}", LogConfig::new(LogAddress::Embedded)));
        assert_eq!(config.log_queue_bytes_max, QUEUE_BYTES_MAX);
        assert!(parse(&["--log-append-timeout-ms", "0"]).is_err());
        assert!(parse(&["--log-queue-bytes-max", "8388608"]).is_err(), "no room for a record");
        assert_eq!(parse(&["--log-replication", "-1"]).unwrap().log_replication, -1);
    }
}
