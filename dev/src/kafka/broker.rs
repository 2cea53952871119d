//! One broker that is its own controller, on its data directory.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::jars::Jars;
use super::{KafkaConfig, KafkaError};
use crate::LOOPBACK;
use crate::lock::Lock;
use crate::ports::free_port;
use crate::process::{self, POLL, Service};
use crate::progress::{Progress, Step};
use crate::sys::Signal;

/// An orderly stop takes well under a second; loaded machines get more.
pub(super) const STOP: [(Signal, Duration); 1] = [(Signal::Terminate, Duration::from_secs(20))];

const FORMAT_LIMIT: Duration = Duration::from_mins(1);
const START_LIMIT: Duration = Duration::from_mins(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How often to start again because another process took a port in the meantime.
const ATTEMPTS: u32 = 5;

const LOGGING: &str = include_str!("../../kafka/log4j2.properties");

/// What Kafka logs when it takes requests.
const STARTED: &str = "Kafka Server started";

/// The same for every broker: one node, no topic that was not asked for, no waiting for more consumers.
const SETTINGS: [(&str, &str); 16] = [
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "BROKER"),
    ("listener.security.protocol.map", "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("min.insync.replicas", "1"),
    ("auto.create.topics.enable", "false"),
    ("group.initial.rebalance.delay.ms", "0"),
];

/// Everything a start needs again and again.
#[derive(Debug)]
pub(super) struct Broker {
    config: KafkaConfig,
    dir: PathBuf,
    jars: Jars,
    /// Let go of when this process dies; Kafka dies with it.
    _lock: Lock,
}

impl Broker {
    pub(super) fn open(config: KafkaConfig, jars: Jars) -> Result<Self, KafkaError> {
        fs::create_dir_all(&config.dir)?;
        let dir = config.dir.canonicalize()?;
        match Lock::take(&dir)? {
            Some(lock) => Ok(Self { config, dir, jars, _lock: lock }),
            None => Err(KafkaError::InUse { path: dir }),
        }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("kafka.log")
    }

    pub(super) fn jars(&self) -> &Path {
        &self.jars.directory
    }

    /// Makes the data directory where there is none, or only a part because the process that made it was killed.
    pub(super) async fn format(&self, progress: &dyn Progress) -> Result<(), KafkaError> {
        let mark = self.dir.join("initialised");
        if mark.exists() {
            return Ok(());
        }
        progress.step(&Step::Initialising("Apache Kafka's data"));
        if self.data().exists() {
            fs::remove_dir_all(self.data())?;
        }
        self.write_logging()?;
        self.write_settings(free_port()?)?;
        let mut format = self.jars.command(&self.java_options(), "kafka.tools.StorageTool");
        format.args(["format", "-t", &cluster_id(), "-c"]).arg(self.settings_file());
        let output = File::create(self.output_file())?;
        format.stdout(output.try_clone()?).stderr(output);
        let why = match process::run(format, FORMAT_LIMIT).await {
            Ok(status) if status.success() => return Ok(fs::write(mark, super::VERSION)?),
            Ok(status) => format!("{status}: {}", last_line(&self.output_file())),
            Err(error) => error.to_string(),
        };
        Err(KafkaError::Initialise { path: self.dir.clone(), why })
    }

    /// Starts it on `port` or, without one, on a free port, and waits until it takes requests.
    pub(super) async fn launch(&self, port: Option<u16>) -> Result<(Service, u16), KafkaError> {
        let mut attempt = 1;
        loop {
            let tried = port.map_or_else(free_port, Ok)?;
            let service = self.spawn(tried)?;
            match self.ready(&service, tried).await {
                Ok(()) => return Ok((service, tried)),
                Err(_) if self.port_was_taken() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&self, port: u16) -> Result<Service, KafkaError> {
        self.write_logging()?;
        self.write_settings(port)?;
        match fs::rename(self.log(), self.dir.join("kafka.log.previous")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = self.jars.command(&self.java_options(), "kafka.Kafka");
        let output = File::create(self.output_file())?;
        command.arg(self.settings_file()).stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C at the terminal is for this process, which stops Kafka when it no longer needs it.
        command.current_dir(&self.dir).process_group(0);
        // Killed, it leaves nothing running for the next start to wait for.
        Ok(Service::spawn(command, Signal::Kill, Signal::Terminate)?)
    }

    async fn ready(&self, service: &Service, port: u16) -> Result<(), KafkaError> {
        let deadline = Instant::now() + START_LIMIT;
        let why = loop {
            if let Some(status) = service.exited()? {
                break format!("{status}: {}", self.complaint());
            }
            if self.started(port) {
                return Ok(());
            }
            if Instant::now() > deadline {
                break format!(
                    "it is not ready after {} s: {}",
                    START_LIMIT.as_secs(),
                    self.complaint()
                );
            }
            tokio::time::sleep(POLL).await;
        };
        Err(KafkaError::Start { why })
    }

    fn started(&self, port: u16) -> bool {
        let said = fs::read_to_string(self.log()).is_ok_and(|log| log.contains(STARTED));
        said && TcpStream::connect_timeout(&(LOOPBACK, port).into(), CONNECT_LIMIT).is_ok()
    }

    fn port_was_taken(&self) -> bool {
        let logs = [self.log(), self.output_file()];
        logs.iter().any(|log| {
            fs::read_to_string(log).is_ok_and(|log| log.contains("Address already in use"))
        })
    }

    fn complaint(&self) -> String {
        let log = match fs::metadata(self.log()).is_ok_and(|found| found.len() > 0) {
            true => self.log(),
            false => self.output_file(),
        };
        format!("{} (log: {})", last_line(&log), log.display())
    }

    fn java_options(&self) -> Vec<String> {
        let quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"].map(String::from);
        let mut options = vec![
            format!("-Xms{}m", self.config.heap_mb.min(128)),
            format!("-Xmx{}m", self.config.heap_mb),
            "-Djava.awt.headless=true".into(),
            format!("-Dkafka.log.file={}", self.log().display()),
            format!("-Dlog4j2.configurationFile={}", self.dir.join("log4j2.properties").display()),
        ];
        options.extend(quick.into_iter().filter(|_| !self.config.full_jit));
        options
    }

    fn write_logging(&self) -> io::Result<()> {
        fs::write(self.dir.join("log4j2.properties"), LOGGING)
    }

    /// The controller's port is told to nobody but the broker itself, so it may be another one each time.
    fn write_settings(&self, port: u16) -> io::Result<()> {
        let controller = free_port()?;
        let ours = [
            (
                "listeners",
                format!("BROKER://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}"),
            ),
            ("advertised.listeners", format!("BROKER://{LOOPBACK}:{port}")),
            ("controller.quorum.voters", format!("1@{LOOPBACK}:{controller}")),
            ("log.dirs", self.data().display().to_string()),
        ];
        let fixed = SETTINGS.iter().map(|(name, value)| format!("{name}={value}\n"));
        let ours = ours.iter().map(|(name, value)| format!("{name}={value}\n"));
        let further = self.config.settings.iter().map(|(name, value)| format!("{name}={value}\n"));
        fs::write(self.settings_file(), fixed.chain(ours).chain(further).collect::<String>())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn settings_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// What Java itself says.
    fn output_file(&self) -> PathBuf {
        self.dir.join("java.log")
    }
}

/// 16 random bytes in URL-safe base64: 21 free characters (here hexadecimal digits) and one that ends them.
fn cluster_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    random.chars().take(21).chain(['A']).collect()
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let complaint =
        |line: &&str| ["ERROR", "FATAL", "Exception"].iter().any(|word| line.contains(word));
    let line = text.lines().find(complaint).or(text.lines().last());
    line.unwrap_or("it said nothing").trim().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cluster_id_is_22_characters_of_base64() {
        let id = super::cluster_id();
        assert_eq!(id.len(), 22);
        assert!(id.ends_with('A') && id.chars().all(|character| character.is_ascii_alphanumeric()));
    }
}
