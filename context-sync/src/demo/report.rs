//! The steps of the demonstration, and what they came to.

use std::{fmt, time::Duration};

use crate::{
    Failure,
    device::{output, progress::Progress, table::Table},
};

/// What was shown so far.
#[derive(Debug, Default)]
pub struct Report {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    /// What was shown, or what went wrong.
    outcome: Result<String, String>,
    took: Duration,
}

impl Report {
    /// Does a step, shows it, and tells whether it came out as it must.
    pub async fn step(
        &mut self,
        name: &'static str,
        work: impl AsyncFnOnce(&Progress) -> Result<String, Failure>,
    ) -> bool {
        let progress = Progress::new(name, "messages", None);
        let outcome = work(&progress).await.map_err(|error| error.to_string());
        progress.clear();
        let step = Step { name, outcome, took: progress.elapsed() };
        output::note(&step);
        let well = step.outcome.is_ok();
        self.steps.push(step);
        well
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// An error if a step did not come out as it must.
    pub fn verdict(&self) -> Result<(), Failure> {
        let failed: Vec<_> =
            self.steps.iter().filter(|s| s.outcome.is_err()).map(|s| s.name).collect();
        match failed.as_slice() {
            [] => Ok(()),
            failed => Err(format!("did not come out as it must: {}", failed.join(", ")).into()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, shown) = match &self.outcome {
            Ok(shown) => ("✓", shown),
            Err(error) => ("✗", error),
        };
        write!(f, "{mark} {}: {shown} ({})", self.name, time(self.took))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["step", "shown", "result", "time"]);
        for Step { name, outcome, took } in &self.steps {
            let (shown, result) = match outcome {
                Ok(shown) => (shown, "✓"),
                Err(error) => (error, "FAILED"),
            };
            table.row([(*name).to_owned(), shown.clone(), result.to_owned(), time(*took)]);
        }
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        write!(f, "\n{table}\nAll in {:.1} s.\n", total.as_secs_f64())
    }
}

fn time(took: Duration) -> String {
    match took.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_fails_is_named_and_the_others_go_on() {
        let mut report = Report::default();
        assert!(report.step("one", async |_| Ok("this".to_owned())).await);
        assert!(report.verdict().is_ok());
        assert!(!report.step("two", async |_| Err("that".into())).await);
        assert!(report.step("three", async |_| Ok("those".to_owned())).await);
        assert_eq!(report.verdict().unwrap_err().to_string(), "did not come out as it must: two");
        let table = report.to_string();
        assert!(table.contains("that   FAILED") && table.contains("All in 0.0 s."), "{table}");
    }
}
