//! How the projector works.

use model::Partition;

/// Settings of the projector.
#[derive(Clone, Debug, clap::Args)]
pub struct ProjectorConfig {
    /// Records in one batch, at most.
    #[arg(long, env = "CONTEXT_SYNC_BATCH_RECORDS_MAX", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_records_max: u32,

    /// Bytes of records in one batch, at most (but one record at least).
    #[arg(long, env = "CONTEXT_SYNC_BATCH_BYTES_MAX", default_value_t = 8 << 20)]
    pub batch_bytes_max: u64,

    /// Messages changed in one batch, at most (but one record at least).
    #[arg(long, env = "CONTEXT_SYNC_BATCH_CHANGES_MAX", default_value_t = 2_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_changes_max: u32,

    /// Batches that are folded and committed at once, each of partitions of its own.
    #[arg(long, env = "CONTEXT_SYNC_PROJECTOR_WORKERS", default_value_t = 2, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub projector_workers: u32,

    /// Days that versions of messages are kept after they were replaced, or had to give way, by the log's time; 0 keeps
    /// them for ever.
    #[arg(long, env = "CONTEXT_SYNC_HISTORY_DAYS", default_value_t = 90, value_name = "DAYS")]
    pub history_days: u32,

    /// Partitions to work on, such as 0,1,2; all of the log's where none are named. Several projectors
    /// share them out by leases; naming them fixes who does which.
    #[arg(long, env = "CONTEXT_SYNC_PARTITIONS", value_delimiter = ',', value_parser = partition)]
    pub partitions: Vec<Partition>,
}

fn partition(text: &str) -> Result<Partition, String> {
    match text.parse() {
        Ok(partition) if partition < Partition::COUNT_MAX => Ok(Partition::new(partition)),
        _ => Err(format!("takes partition numbers below {}, such as 0,1,2", Partition::COUNT_MAX)),
    }
}
