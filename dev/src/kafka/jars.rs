//! Java, and the jars of one version of Kafka, fetched once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::KafkaError;
use crate::cache::Cache;
use crate::process;
use crate::progress::{Progress, Step};

/// The version that is fetched.
pub const VERSION: &str = "4.4.0";

pub(super) const MINIMUM_JAVA: u32 = 17;

const POM: &str = include_str!("../../kafka/pom.xml");

/// How long Maven may take (43 MB, and its own plug-ins the first time).
const FETCH_LIMIT: Duration = Duration::from_mins(10);

/// Java and Kafka.
#[derive(Clone, Debug)]
pub(super) struct Jars {
    pub(super) java: PathBuf,
    pub(super) directory: PathBuf,
}

impl Jars {
    pub(super) async fn find(
        cache_dir: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Self, KafkaError> {
        let java = find_java().map_err(|why| KafkaError::Java { why })?;
        let name = format!("kafka-{VERSION}");
        let cache = Cache::find(cache_dir).next().ok_or(KafkaError::Cache)?;
        if let Some(directory) = cache.entry(&name) {
            return Ok(Self { java, directory });
        }
        progress.step(&Step::Fetching(&format!("Apache Kafka {VERSION} (43 MB)")));
        let directory = fetch(&cache, &name).await?;
        Ok(Self { java, directory })
    }

    /// A command that runs a class of Kafka.
    pub(super) fn command(&self, options: &[String], class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command.args(options).arg("-cp").arg(self.directory.join("*")).arg(class);
        command.stdin(Stdio::null());
        command
    }
}

async fn fetch(cache: &Cache, name: &str) -> Result<PathBuf, KafkaError> {
    let temporary = cache.temporary()?;
    let [pom, made, log] = ["pom.xml", "jars", "log"].map(|name| temporary.path().join(name));
    fs::write(&pom, POM)?;
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", "--file"]).arg(&pom).arg("dependency:copy-dependencies");
    maven.arg(format!("-DoutputDirectory={}", made.display()));
    let output = File::create(&log)?;
    maven.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = process::run(maven, FETCH_LIMIT).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KafkaError::Maven,
        _ => KafkaError::Fetch { why: error.to_string() },
    })?;
    match status.success() && made.is_dir() {
        true => Ok(cache.publish(&made, name)?),
        false => {
            Err(KafkaError::Fetch { why: complaint(&fs::read_to_string(&log).unwrap_or_default()) })
        }
    }
}

fn complaint(log: &str) -> String {
    let line = log.lines().find(|line| line.contains("[ERROR]")).or(log.lines().last());
    line.unwrap_or("Maven said nothing").trim().to_owned()
}

fn find_java() -> Result<PathBuf, String> {
    let home =
        std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin").join("java"));
    let mut why = String::from("there is no java");
    for java in home.into_iter().chain([PathBuf::from("java")]) {
        let Ok(output) = Command::new(&java).arg("-version").output() else { continue };
        let said = String::from_utf8_lossy(&output.stderr);
        match java_major(&said) {
            Some(major) if major >= MINIMUM_JAVA => return Ok(java),
            Some(major) => why = format!("{} is version {major}", java.display()),
            None => {
                why =
                    format!("{} says {:?}", java.display(), said.lines().next().unwrap_or_default())
            }
        }
    }
    Err(why)
}

/// Takes 17 from `openjdk version "17.0.15" …`, 8 from `java version "1.8.0_402"`.
fn java_major(said: &str) -> Option<u32> {
    let version = said.lines().find(|line| line.contains(" version \""))?.split('"').nth(1)?;
    let mut parts = version.split(['.', '-', '+']);
    match parts.next()?.parse().ok()? {
        1 => parts.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_same_version() {
        assert!(POM.contains(&format!("<version>{VERSION}</version>")));
    }

    #[test]
    fn reads_javas_version() {
        for (said, major) in [
            ("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime\n", Some(17)),
            ("Picked up _JAVA_OPTIONS: -Xmx1g\nopenjdk version \"21-ea\" 2023-09-19\n", Some(21)),
            ("java version \"1.8.0_402\"\n", Some(8)),
            ("", None),
        ] {
            assert_eq!(java_major(said), major, "{said}");
        }
    }
}
