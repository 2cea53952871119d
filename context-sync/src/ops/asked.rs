//! What the commands ask of the copies: the flags, and the JSON on the ops port.

use std::{fmt::Display, str::FromStr};

use archive::verify::Sample;
use clap::Args;
use model::{Place, ScopeKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::copies::{
    Copies, Unasked,
    check::CheckQuery,
    dead_letters::{Letter, place},
    status::StatusLimits,
};

/// When something is a problem.
#[derive(Args, Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct StatusAsked {
    /// It is a problem if an event waits longer than this to be projected, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub waiting_seconds_max: u64,

    /// … if one is older than this and in no archived hour, in seconds
    #[arg(long, default_value_t = 7_500, value_name = "SECONDS")]
    pub archived_seconds_max: u64,

    /// … if one is older than this and not in the archive at all, not even raw, in seconds; 0: the archiver is set to
    /// write no segments
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub segments_seconds_max: u64,

    /// … if the last drill, or the first backup if there was none, was longer ago than this, in hours; 0: no drills
    #[arg(long, default_value_t = 48, value_name = "HOURS")]
    pub drill_hours_max: u64,

    /// … if fewer bytes than this are free on a disk
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    pub disk_free_bytes_min: u64,
}

impl StatusAsked {
    pub(super) fn limits(self) -> StatusLimits {
        StatusLimits {
            waiting_seconds: self.waiting_seconds_max,
            archived_seconds: self.archived_seconds_max,
            segments_seconds: self.segments_seconds_max,
            drill_hours: self.drill_hours_max,
            disk_free_bytes: self.disk_free_bytes_min,
        }
    }
}

#[derive(Args, Clone, Debug, Deserialize, Serialize)]
pub(super) struct CheckAsked {
    /// This scope alone, such as acme/team/web
    #[arg(long, value_name = "TENANT/KIND/NAME", conflicts_with = "sample", value_parser = valid::<ScopeKey>)]
    pub scope: Option<String>,

    /// A part of the scopes: n/t is the n-th of t runs that check all together
    #[arg(long, value_name = "N/T", value_parser = valid::<Sample>)]
    pub sample: Option<String>,

    /// Say of each scope which of rows and archive are what the log folds to, also where both are
    #[arg(long)]
    #[serde(default)]
    pub each: bool,
}

/// Text that reads as a `T`, as it is.
fn valid<T: FromStr<Err: Display>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl CheckAsked {
    pub(super) fn query(&self) -> Result<CheckQuery, Unasked> {
        let scope = self.scope.as_deref().map(str::parse).transpose();
        let sample = self.sample.as_deref().map(str::parse).transpose();
        Ok(CheckQuery {
            scope: scope.map_err(|error| format!("--scope: {error}"))?,
            sample: sample.map_err(|error| format!("--sample {error}"))?.unwrap_or(Sample::ALL),
            each: self.each,
        })
    }
}

#[derive(Args, Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct TraceAsked {
    /// A push_id (or another command's id), or a message's id
    pub id: Uuid,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct LettersAsked {
    pub with_marked: bool,
    pub after: Option<String>,
    pub limit: u32,
}

impl LettersAsked {
    pub(super) async fn list(&self, copies: &Copies) -> Result<Vec<Letter>, Unasked> {
        let after: Option<Place> = self.after.as_deref().map(place).transpose()?;
        copies.list_letters(self.with_marked, after, self.limit.clamp(1, 1_000)).await
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ShowAsked {
    pub place: String,
}

impl ShowAsked {
    pub(super) async fn show(&self, copies: &Copies) -> Result<Letter, Unasked> {
        copies.show_letter(place(&self.place)?).await
    }
}
