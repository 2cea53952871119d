//! Backups and restores.

use serde::{Deserialize, Serialize};

/// What a backup holds, and why it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupType {
    Incremental,
    Full,
    OnDemand,
}

impl BackupType {
    pub const ALL: [Self; 3] = [Self::Incremental, Self::Full, Self::OnDemand];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
            Self::OnDemand => "on_demand",
        }
    }
}
