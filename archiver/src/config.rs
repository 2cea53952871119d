//! How the archiver works.

use std::{path::PathBuf, time::Duration};

use archive::period::HourLength;
use model::{BackupType, ScopeKind, Timestamp};

/// Settings of the archiver.
#[derive(Clone, Debug, clap::Args)]
pub struct ArchiverConfig {
    /// Seconds of an hour, for demonstrations: a day has 24 of them. It never changes in an archive.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_HOUR_SECONDS", default_value = "3600",
          value_name = "SECONDS", value_parser = hour_length)]
    pub archive_hour_seconds: HourLength,

    /// Directory of the archiver's cache. It may be deleted: it is made again. [default: .context-sync/archiver;
    /// dev: archiver in its data directory]
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_CACHE", value_name = "DIRECTORY")]
    pub archive_cache: Option<PathBuf>,

    /// Hours between drills, which compare backups with the read model; 0: never
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_DRILL_HOURS", default_value_t = 24, value_name = "HOURS",
          value_parser = clap::value_parser!(u32).range(0..=8_760))]
    pub archive_drill_hours: u32,

    #[command(flatten)]
    pub segments: SegmentConfig,

    #[command(flatten)]
    pub retention: Retention,
}

/// How soon raw events go to the archive, before their hour is sealed: what is lost at most with log and
/// database.
#[derive(Clone, Debug, clap::Args)]
pub struct SegmentConfig {
    /// Seconds after which raw events go to the archive; 0 is only with their hour
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_SEGMENT_SECONDS", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub archive_segment_seconds: u32,

    /// Bytes of raw events of a partition that go to the archive sooner
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_SEGMENT_BYTES", default_value_t = 16 << 20, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(64 << 10..=1 << 30))]
    pub archive_segment_bytes: u64,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self { archive_segment_seconds: 60, archive_segment_bytes: 16 << 20 }
    }
}

impl SegmentConfig {
    /// Whether there are segments at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.archive_segment_seconds > 0
    }

    pub(crate) const fn every(&self) -> Duration {
        Duration::from_secs(self.archive_segment_seconds as u64)
    }
}

impl ArchiverConfig {
    pub(crate) fn cache_directory(&self) -> PathBuf {
        self.archive_cache.clone().unwrap_or_else(|| PathBuf::from(".context-sync/archiver"))
    }
}

/// How long backups are kept, in days; 0 is for ever.
#[derive(Clone, Debug, clap::Args)]
pub struct Retention {
    /// Days that an incremental is kept; 0 is for ever
    #[arg(long, env = "CONTEXT_SYNC_RETENTION_INCREMENTAL_DAYS", default_value_t = 7, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub retention_incremental_days: u32,

    /// Days that a full of a user, team or project is kept; 0 is for ever
    #[arg(long, env = "CONTEXT_SYNC_RETENTION_FULL_DAYS", default_value_t = 90, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub retention_full_days: u32,

    /// Days that a full of an org is kept; 0 is for ever
    #[arg(long, env = "CONTEXT_SYNC_RETENTION_FULL_ORG_DAYS", default_value_t = 365, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub retention_full_org_days: u32,

    /// Days that a backup on demand is kept; 0 is for ever
    #[arg(long, env = "CONTEXT_SYNC_RETENTION_ON_DEMAND_DAYS", default_value_t = 0, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub retention_on_demand_days: u32,
}

impl Default for Retention {
    /// The founding table.
    fn default() -> Self {
        Self {
            retention_incremental_days: 7,
            retention_full_days: 90,
            retention_full_org_days: 365,
            retention_on_demand_days: 0,
        }
    }
}

impl Retention {
    /// When a backup's time is over; `None`: never.
    pub fn expires_at(
        &self,
        backup_type: BackupType,
        kind: ScopeKind,
        created_at: Timestamp,
    ) -> Option<Timestamp> {
        const DAY_MICROS: i64 = 86_400_000_000;
        let days = match (backup_type, kind) {
            (BackupType::Incremental, _) => self.retention_incremental_days,
            (BackupType::Full, ScopeKind::Org) => self.retention_full_org_days,
            (BackupType::Full, _) => self.retention_full_days,
            (BackupType::OnDemand, _) => self.retention_on_demand_days,
        };
        (days > 0).then(|| created_at.plus_micros(i64::from(days) * DAY_MICROS))
    }
}

fn hour_length(text: &str) -> Result<HourLength, String> {
    let takes = "takes 1 to 3600 seconds";
    let seconds = text.parse().map_err(|_| takes.to_owned())?;
    HourLength::new(seconds).map_err(|_| takes.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The founding retention policy, row by row.
    #[test]
    fn backups_are_kept_as_the_founding_table_has_it() {
        let created = Timestamp::EPOCH;
        let days = |backup_type, kind| {
            let expires = Retention::default().expires_at(backup_type, kind, created);
            expires.map(|at| at.as_micros() / 86_400_000_000)
        };
        for kind in ScopeKind::ALL {
            let full = if kind == ScopeKind::Org { 365 } else { 90 };
            assert_eq!(days(BackupType::Incremental, kind), Some(7), "{kind}");
            assert_eq!(days(BackupType::Full, kind), Some(full), "{kind}");
            assert_eq!(days(BackupType::OnDemand, kind), None, "{kind}");
        }
    }
}
