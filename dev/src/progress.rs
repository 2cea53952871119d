//! What a start is doing, for whoever waits for it.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// One step of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The programs are downloaded: this happens once a machine.
    Fetching(&'a str),
    /// What a killed process left running is stopped.
    StoppingOrphan(&'a str),
    /// The data directory is made.
    Initialising(&'a str),
    /// The server is started and not ready yet.
    Starting(&'a str),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetching(what) => write!(f, "fetching {what}"),
            Self::StoppingOrphan(what) => {
                write!(f, "stopping a {what} left over by a killed process")
            }
            Self::Initialising(what) => write!(f, "initialising {what}"),
            Self::Starting(what) => write!(f, "starting {what}"),
        }
    }
}

/// Told of each step as it begins.
pub trait Progress: Send + Sync {
    fn step(&self, step: &Step<'_>);

    /// The start is over, well or not: a display is cleared.
    fn finished(&self) {}
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _step: &Step<'_>) {}
}

/// One line a step on standard error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Progress for Lines {
    fn step(&self, step: &Step<'_>) {
        // A closed standard error must not end a start.
        let _ = writeln!(std::io::stderr(), "{step}");
    }
}

/// A spinner on standard error, gone when the start is over. It serves one start after the other.
#[derive(Debug, Default)]
pub struct Spinner(Mutex<Option<ProgressBar>>);

impl Spinner {
    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_bar() -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::default_spinner());
        bar.enable_steady_tick(TICK);
        bar
    }
}

impl Progress for Spinner {
    fn step(&self, step: &Step<'_>) {
        self.bar().get_or_insert_with(Self::new_bar).set_message(step.to_string());
    }

    fn finished(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}

/// A spinner where standard error is a terminal, else a line a step.
#[must_use]
pub fn for_stderr() -> Box<dyn Progress> {
    match std::io::stderr().is_terminal() {
        true => Box::new(Spinner::default()),
        false => Box::new(Lines),
    }
}

/// Calls [`Progress::finished`] however the start ends.
pub(crate) struct Finish<'a>(pub(crate) &'a dyn Progress);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finished();
    }
}
