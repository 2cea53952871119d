//! Days that pass for a process. What is kept for days is over after days, however long an hour of the archive is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::Child;

/// In front of the C library: see `clock.c`.
pub(super) struct Clock {
    library: PathBuf,
}

impl Clock {
    /// Built by the compiler that built the clients of Kafka and Postgres.
    pub(super) fn build(dir: &Path) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/crash/clock.c");
        let library = dir.join("clock.so");
        let mut compiler = Command::new(std::env::var("CC").as_deref().unwrap_or("cc"));
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        assert!(compiler.status().unwrap().success());
        Self { library }
    }

    /// Stops a process, and starts it again when it is so many days later than for us. Ready when this returns.
    pub(super) async fn set_ahead(&self, child: &mut Child, days: u32) {
        child.signal("TERM");
        assert!(child.exit().await.success(), "{}", child.said());
        let library = self.library.display().to_string();
        child.environment = vec![("LD_PRELOAD", library), ("CLOCK_DAYS_LATER", days.to_string())];
        child.start_again();
        child.ready().await;
    }
}
