//! How far something is: a bar on a terminal, else a quiet line at the end.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{client::Notify, output};

const TICK: Duration = Duration::from_millis(100);
const BAR: &str =
    "{prefix} [{bar:30}] {human_pos}/{human_len} {msg} {per_sec} {elapsed} (about {eta} left)";
const SPINNER: &str = "{spinner} {prefix} {msg} {elapsed}";

/// Progress on standard error.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    begun: Instant,
}

impl Progress {
    /// Shows that `doing` goes on; `unit` is what is counted, `total` how many there are, if known.
    pub fn new(doing: impl Into<String>, unit: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        set_template(&bar, if total.is_some() { BAR } else { SPINNER });
        bar.set_prefix(doing.into());
        if total.is_some() {
            bar.set_message(unit);
        }
        bar.enable_steady_tick(TICK);
        Self { bar, unit, begun: Instant::now() }
    }

    pub fn add(&self, count: u64) {
        self.bar.inc(count);
        if self.bar.length().is_none() {
            self.bar.set_message(format!("{} {}", self.bar.position(), self.unit));
        }
    }

    /// So many are done.
    pub fn set(&self, count: u64) {
        self.add(count.saturating_sub(self.bar.position()));
    }

    /// Whether all are done.
    pub fn is_done(&self) -> bool {
        self.bar.length().is_some_and(|total| self.bar.position() >= total)
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        if self.bar.is_hidden() {
            output::note(line);
        } else {
            self.bar.println(line);
        }
    }

    /// Tells it of retries.
    pub fn notify(&self) -> Notify {
        let progress = self.clone();
        std::sync::Arc::new(move |line| progress.note(line))
    }

    /// Prints something without the bar in between.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// How many there are is known now.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
        self.bar.set_message(self.unit);
        set_template(&self.bar, BAR);
    }

    /// Takes the bar away; where there was none, says in a line what was done.
    pub fn finish(&self, done: impl std::fmt::Display) {
        let quiet = self.bar.is_hidden();
        self.clear();
        if quiet {
            output::note(format!("{done} in {:.1} s", self.begun.elapsed().as_secs_f64()));
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn set_template(bar: &ProgressBar, template: &str) {
    // One that indicatif cannot read leaves its own, which will do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
}
