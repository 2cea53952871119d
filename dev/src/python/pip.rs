//! Python's installer of packages.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::PythonError;
use crate::process;

/// How long pip may take.
const FETCH_LIMIT: Duration = Duration::from_mins(10);

/// Wheels as they are published: nothing is built, and nothing comes along that was not asked for.
const INSTALL: [&str; 9] = [
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--no-input",
    "install",
    "--quiet",
    "--no-deps",
    "--only-binary=:all:",
    // Set for the Python code of a package; what is taken from it may be a program that needs no Python.
    "--ignore-requires-python",
];

/// The installer of the `python3` that is first in the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pip {
    minor: u32,
}

impl Pip {
    /// Whether that Python has pip shows when something is fetched.
    pub(crate) fn find() -> Result<Self, PythonError> {
        let missing = |why: String| PythonError::Missing { why };
        let output = Command::new("python3").arg("--version").output();
        let output = output.map_err(|error| missing(format!("python3: {error}")))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let minor = parse_minor(&said);
        minor.map(|minor| Self { minor }).ok_or_else(|| {
            missing(format!("python3 --version says {:?}", said.lines().next().unwrap_or_default()))
        })
    }

    /// 11 of Python 3.11.
    pub(crate) fn minor(self) -> u32 {
        self.minor
    }

    /// Unpacks packages into `directory`. `wanted` is what `pip install` takes, `what` a name for people.
    pub(crate) async fn install(
        self,
        what: &str,
        directory: &Path,
        wanted: &[impl AsRef<OsStr>],
    ) -> Result<(), PythonError> {
        let log = directory.with_extension("log");
        let mut pip = Command::new("python3");
        pip.args(INSTALL).arg("--target").arg(directory).args(wanted);
        // Settings of the user that do not go with a directory of our own.
        pip.env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0");
        let output = File::create(&log)?;
        pip.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let why = match process::run(pip, FETCH_LIMIT).await {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => complaint(&fs::read_to_string(&log).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        match why.contains("No module named pip") {
            true => Err(PythonError::Missing { why }),
            false => Err(PythonError::Fetch { what: what.to_owned(), why }),
        }
    }
}

fn complaint(log: &str) -> String {
    let line = log.lines().find(|line| line.starts_with("ERROR:")).or(log.lines().last());
    line.unwrap_or("pip said nothing").trim_start_matches("ERROR:").trim().to_owned()
}

/// Takes 11 from `Python 3.11.7`.
fn parse_minor(said: &str) -> Option<u32> {
    let version = said.trim().strip_prefix("Python 3.")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pythons_version() {
        for (said, minor) in [
            ("Python 3.11.7\n", Some(11)),
            ("Python 3.9.2+\n", Some(9)),
            ("Python 3.15.0a1\n", Some(15)),
            ("Python 2.7.18\n", None),
            ("", None),
        ] {
            assert_eq!(parse_minor(said), minor, "{said}");
        }
    }

    #[test]
    fn finds_what_pip_complained_of() {
        let log = "WARNING: a cache is not used\nERROR: No matching distribution found for x==1\n\nnotice";
        assert_eq!(complaint(log), "No matching distribution found for x==1");
        assert_eq!(
            complaint("/usr/bin/python3: No module named pip\n"),
            "/usr/bin/python3: No module named pip"
        );
        assert_eq!(complaint(""), "pip said nothing");
    }

    #[tokio::test]
    async fn a_package_that_there_is_not_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("packages");
        let wanted = ["--no-index", "no-such-package==1"];
        let error = Pip::find().unwrap().install("A package", &target, &wanted).await.unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("A package could not be fetched by pip:"), "{error}");
        assert!(error.contains("no-such-package==1") && error.lines().count() == 1, "{error}");
    }
}
