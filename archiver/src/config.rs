//! How the archiver works.

use std::{path::PathBuf, str::FromStr, time::Duration};

use archive::period::HourLength;
use model::{BackupType, ScopeKind, Timestamp};

/// Settings of the archiver.
#[derive(Clone, Debug, clap::Args)]
pub struct ArchiverConfig {
    /// Seconds of an hour, for demonstrations: a day has 24 of them. It never changes in an archive.
    #[arg(
        long,
        env = "CONTEXT_SYNC_ARCHIVE_HOUR_SECONDS",
        default_value = "3600",
        value_name = "SECONDS"
    )]
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
    /// Seconds after which raw events go to the archive; 0: only when their hour is sealed
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

/// How long backups are kept, and tombstones.
#[derive(Clone, Debug, clap::Args)]
pub struct Retention {
    /// Days that an incremental is kept; 0 is for ever. By kind of scope: 7,org=30,user=3
    #[arg(
        long,
        env = "CONTEXT_SYNC_RETENTION_INCREMENTAL_DAYS",
        default_value = "7",
        value_name = "DAYS"
    )]
    pub retention_incremental_days: KeptDays,

    /// Days that a full is kept; 0 is for ever
    #[arg(
        long,
        env = "CONTEXT_SYNC_RETENTION_FULL_DAYS",
        default_value = "90,org=365",
        value_name = "DAYS"
    )]
    pub retention_full_days: KeptDays,

    /// Days that a backup on demand is kept; 0 is for ever
    #[arg(
        long,
        env = "CONTEXT_SYNC_RETENTION_ON_DEMAND_DAYS",
        default_value = "0",
        value_name = "DAYS"
    )]
    pub retention_on_demand_days: KeptDays,

    /// Days that a tombstone is kept, which tells devices of a deletion; 0 is for ever. A device that was away for longer
    /// finds out by a repair
    #[arg(long, env = "CONTEXT_SYNC_TOMBSTONE_DAYS", default_value_t = 90, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=KeptDays::MAX as i64))]
    pub tombstone_days: u32,
}

const DAY_MICROS: i64 = 86_400_000_000;

/// Days by the kind of a scope; 0 is for ever. `90`, or with exceptions `90,org=365`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptDays {
    user: u32,
    team: u32,
    project: u32,
    org: u32,
}

/// The text is no [`KeptDays`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "takes days, 0 to 36500, such as 90, or with exceptions for user, team, project or org, such as 90,org=365"
)]
pub struct InvalidKeptDays;

impl KeptDays {
    const MAX: u32 = 36_500;

    /// The same for every kind.
    pub const fn all(days: u32) -> Self {
        Self { user: days, team: days, project: days, org: days }
    }

    /// With other days for a kind.
    #[must_use]
    pub const fn with(mut self, kind: ScopeKind, days: u32) -> Self {
        match kind {
            ScopeKind::User => self.user = days,
            ScopeKind::Team => self.team = days,
            ScopeKind::Project => self.project = days,
            ScopeKind::Org => self.org = days,
        }
        self
    }

    pub const fn of(self, kind: ScopeKind) -> u32 {
        match kind {
            ScopeKind::User => self.user,
            ScopeKind::Team => self.team,
            ScopeKind::Project => self.project,
            ScopeKind::Org => self.org,
        }
    }
}

impl FromStr for KeptDays {
    type Err = InvalidKeptDays;

    fn from_str(text: &str) -> Result<Self, InvalidKeptDays> {
        let days = |text: &str| {
            let days = text.trim().parse().ok().filter(|days| *days <= Self::MAX);
            days.ok_or(InvalidKeptDays)
        };
        let mut parts = text.split(',');
        let mut kept = Self::all(days(parts.next().unwrap_or_default())?);
        for part in parts {
            let (kind, part) = part.split_once('=').ok_or(InvalidKeptDays)?;
            let is_kind = |known: &ScopeKind| known.as_str() == kind.trim();
            let kind = ScopeKind::ALL.into_iter().find(is_kind).ok_or(InvalidKeptDays)?;
            kept = kept.with(kind, days(part)?);
        }
        Ok(kept)
    }
}

impl Default for Retention {
    /// The founding table.
    fn default() -> Self {
        Self {
            retention_incremental_days: KeptDays::all(7),
            retention_full_days: KeptDays::all(90).with(ScopeKind::Org, 365),
            retention_on_demand_days: KeptDays::all(0),
            tombstone_days: 90,
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
        let kept = match backup_type {
            BackupType::Incremental => self.retention_incremental_days,
            BackupType::Full => self.retention_full_days,
            BackupType::OnDemand => self.retention_on_demand_days,
        };
        let days = kept.of(kind);
        (days > 0).then(|| created_at.plus_micros(i64::from(days) * DAY_MICROS))
    }

    /// When a message was deleted at the latest whose tombstone's time is over; `None`: it never is.
    pub(crate) fn tombstones_before(&self, now: Timestamp) -> Option<Timestamp> {
        let kept = i64::from(self.tombstone_days) * DAY_MICROS;
        (kept > 0).then(|| now.plus_micros(-kept))
    }
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

    #[derive(clap::Parser)]
    struct Settings {
        #[command(flatten)]
        retention: Retention,
    }

    #[test]
    fn the_settings_default_to_the_founding_table() {
        let settings = <Settings as clap::Parser>::try_parse_from(["test"]).unwrap();
        let (found, founding) = (settings.retention, Retention::default());
        assert_eq!(found.retention_incremental_days, founding.retention_incremental_days);
        assert_eq!(found.retention_full_days, founding.retention_full_days);
        assert_eq!(found.retention_on_demand_days, founding.retention_on_demand_days);
        assert_eq!(found.tombstone_days, founding.tombstone_days);
    }

    #[test]
    fn tombstones_are_kept_for_their_days_or_for_ever() {
        let now = Timestamp::from_micros(100 * DAY_MICROS);
        let before = |tombstone_days| {
            let retention = Retention { tombstone_days, ..Retention::default() };
            retention.tombstones_before(now).map(|at| at.as_micros() / DAY_MICROS)
        };
        // Before 1970 nothing was deleted.
        assert_eq!([0, 1, 90, 36_500].map(before), [None, Some(99), Some(10), Some(0)]);
        let parse =
            |days| <Settings as clap::Parser>::try_parse_from(["", "--tombstone-days", days]);
        assert_eq!(parse("0").unwrap().retention.tombstone_days, 0);
        assert!(parse("36501").is_err() && parse("-1").is_err());
    }

    #[test]
    fn days_are_given_for_all_kinds_or_by_kind() {
        assert_eq!("90".parse(), Ok(KeptDays::all(90)));
        let by_kind = "7, org=30,user=3".parse::<KeptDays>().unwrap();
        assert_eq!(ScopeKind::ALL.map(|kind| by_kind.of(kind)), [3, 7, 7, 30]);
        for wrong in ["", "org=3", "7,squad=1", "7,org", "36501", "-1", "7,org=36501", "7;org=1"] {
            assert_eq!(wrong.parse::<KeptDays>(), Err(InvalidKeptDays), "{wrong}");
        }
    }
}
