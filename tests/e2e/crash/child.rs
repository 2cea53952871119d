//! The `context-sync` binary as a child process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::OnceLock,
};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::equation::eventually;

/// The binary, built once, by the same cargo into the same directory as this test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut build = std::process::Command::new(env!("CARGO"));
        // From the workspace's root: the same features as `cargo test` there, nothing is built twice.
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        build.args(["build", "--quiet", "--bin", "context-sync"]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.status().unwrap().success().then(|| profile.join("context-sync"))
    });
    built.as_ref().expect("the binary cannot be built")
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    dev::ports::free_port().unwrap()
}

/// Runs the binary to its end.
pub(crate) async fn run(args: &[&str]) -> Output {
    Command::new(binary()).args(args).stdin(Stdio::null()).output().await.unwrap()
}

/// As [`run`], with this on its standard input.
pub(super) async fn run_with(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    process.wait_with_output().await.unwrap()
}

pub(crate) struct Child {
    args: Vec<String>,
    /// What it is told beside that, when it is started the next time.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(crate) url: String,
    pub(crate) ops_url: String,
    /// All that it and its predecessors said.
    pub(crate) output: PathBuf,
    process: tokio::process::Child,
}

impl Child {
    /// `serve` with these roles and flags; ready when this returns. Its log goes to `dir`.
    pub(crate) async fn serve(roles: &str, flags: &[String], dir: &Path) -> Self {
        let child = Self::serve_at_once(roles, flags, dir);
        child.ready().await;
        child
    }

    /// As [`Child::serve`], without waiting.
    pub(crate) fn serve_at_once(roles: &str, flags: &[String], dir: &Path) -> Self {
        let (api, ops) = (free_port(), free_port());
        let mut args = vec!["serve".to_owned(), format!("--roles={roles}")];
        args.push(format!("--listen=127.0.0.1:{api}"));
        args.push(format!("--ops-listen=127.0.0.1:{ops}"));
        args.extend_from_slice(flags);
        let output = dir.join(format!("{}-{api}.log", roles.replace(',', "-")));
        let environment = Vec::new();
        let process = spawn(&args, &environment, &output);
        let (url, ops_url) = (format!("http://127.0.0.1:{api}"), format!("http://127.0.0.1:{ops}"));
        Self { args, environment, url, ops_url, output, process }
    }

    /// `dev` on the directory; ready when this returns.
    pub(crate) async fn dev(data_dir: &Path, output: &Path, flags: &[String]) -> Self {
        let addresses = data_dir.join("addresses.json");
        let _ = std::fs::remove_file(&addresses);
        let mut args = vec!["dev".to_owned(), format!("--data-dir={}", data_dir.display())];
        args.extend(["--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"].map(str::to_owned));
        args.extend_from_slice(flags);
        let (environment, output) = (Vec::new(), output.to_owned());
        let process = spawn(&args, &environment, &output);
        let [url, ops_url] = [String::new(), String::new()];
        let mut child = Self { args, environment, url, ops_url, output, process };
        let found = eventually("dev's addresses", async || {
            let exited = child.process.try_wait().unwrap();
            assert!(exited.is_none(), "{exited:?}: {}", child.said());
            serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(&addresses).ok()?)
                .ok()
        })
        .await;
        child.url = found["api"].as_str().unwrap().to_owned();
        child.ops_url = found["ops"].as_str().unwrap().to_owned();
        child.ready().await;
        child
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn ready(&self) {
        let client = reqwest::Client::new();
        let url = format!("{}/readyz", self.ops_url);
        eventually("ready", async || {
            let answer = client.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = std::process::Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status();
        assert!(kill.unwrap().success(), "SIG{name}");
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Starts it again, with the same arguments, without waiting.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.args, &self.environment, &self.output);
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(crate::equation::DEADLINE, self.process.wait()).await;
        ended.expect("exits").unwrap()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

fn spawn(args: &[String], environment: &[(&str, String)], output: &Path) -> tokio::process::Child {
    let log = File::options().create(true).append(true).open(output).unwrap();
    let mut command = Command::new(binary());
    command.args(args).envs(environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}
