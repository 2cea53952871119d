//! How the archiver works.

use std::path::PathBuf;

use archive::period::HourLength;

/// Settings of the archiver.
#[derive(Clone, Debug, clap::Args)]
pub struct ArchiverConfig {
    /// Seconds of an hour, for demonstrations: a day has 24 of them. It never changes in an archive.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_HOUR_SECONDS", default_value = "3600",
          value_name = "SECONDS", value_parser = hour_length)]
    pub archive_hour_seconds: HourLength,

    /// Directory of the archiver's cache. It may be deleted: it is made again from the log.
    #[arg(
        long,
        env = "CONTEXT_SYNC_ARCHIVE_CACHE",
        default_value = ".context-sync/archiver",
        value_name = "DIRECTORY"
    )]
    pub archive_cache: PathBuf,
}

fn hour_length(text: &str) -> Result<HourLength, String> {
    let takes = "takes 1 to 3600 seconds";
    let seconds = text.parse().map_err(|_| takes.to_owned())?;
    HourLength::new(seconds).map_err(|_| takes.to_owned())
}
