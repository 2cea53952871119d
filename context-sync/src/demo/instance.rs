//! The settings of the demonstration's instance.

use std::path::Path;

use clap::{Args, Command, FromArgMatches, builder::Resettable};

use crate::{Failure, dev::DevArgs};

/// What the environment may still say: where Postgres is installed is the machine's matter.
const FROM_ENVIRONMENT: &str = "postgres_bin";

/// The defaults of `context-sync dev` on free ports, in a folder of its own. The environment is left
/// out: a demonstration must not write to the database or the log that it names.
pub fn settings(data_dir: &Path) -> Result<DevArgs, Failure> {
    let command =
        DevArgs::augment_args(Command::new("demo")).no_binary_name(true).mut_args(|arg| {
            if arg.get_id() == FROM_ENVIRONMENT { arg } else { arg.env(Resettable::Reset) }
        });
    // An hour is over soon, so that its backups can be shown.
    let arguments =
        ["--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--archive-hour-seconds=2"];
    let matches = command.try_get_matches_from(arguments)?;
    let mut settings = DevArgs::from_arg_matches(&matches)?;
    settings.data_dir = data_dir.to_path_buf();
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_its_own() {
        let settings = settings(Path::new("/nowhere")).unwrap();
        assert_eq!(settings.data_dir, Path::new("/nowhere"));
        assert_eq!((settings.listen.port(), settings.ops_listen.port()), (0, 0));
        assert!(settings.settings.database.database_url.is_none());
    }
}
