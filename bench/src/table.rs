//! The closing table: each figure beside its limit or its peer, and the goal.

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) log: &'static str,
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) unit: &'static str,
    pub(crate) latency: Option<(f64, f64)>,
    /// What it is compared with, and that figure, where it was measured.
    pub(crate) beside: Option<(&'static str, Option<f64>)>,
    /// The ratio (or, without `beside`, the figure) that is to be reached; below it where `below`.
    pub(crate) goal: Option<f64>,
    pub(crate) below: bool,
}

impl Line {
    pub(crate) fn new(
        log: &'static str,
        what: impl Into<String>,
        figure: f64,
        unit: &'static str,
    ) -> Self {
        let what = what.into();
        Self { log, what, figure, unit, latency: None, beside: None, goal: None, below: false }
    }

    pub(crate) fn latency(mut self, measured: crate::load::Measured) -> Self {
        self.latency = Some((measured.p50_ms, measured.p99_ms));
        self
    }

    pub(crate) fn beside(mut self, name: &'static str, figure: Option<f64>) -> Self {
        self.beside = Some((name, figure));
        self
    }

    pub(crate) fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn below(mut self, goal: f64) -> Self {
        self.below = true;
        self.goal(goal)
    }

    fn ratio(&self) -> Option<f64> {
        let (_, limit) = self.beside?;
        limit.map(|limit| self.figure / limit).filter(|ratio| ratio.is_finite())
    }

    /// What the goal is about: a goal of a ratio is about nothing where there is none.
    fn value(&self) -> Option<f64> {
        if self.beside.is_some() { self.ratio() } else { Some(self.figure) }
    }

    /// Whether the goal is met, where that was measured.
    fn met(&self) -> Option<bool> {
        let (goal, value) = (self.goal?, self.value()?);
        Some(if self.below { value < goal } else { value >= goal })
    }

    fn verdict(&self) -> String {
        let Some(goal) = self.goal else { return String::new() };
        let sign = if self.below { "<" } else { "≥" };
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        format!("{sign} {goal} {met}")
    }

    fn beside_text(&self) -> String {
        match self.beside {
            Some((name, Some(limit))) => format!("{name} {limit:.0}"),
            Some((name, None)) => format!("{name} -"),
            None => String::new(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "log": self.log, "what": self.what, "figure": self.figure, "unit": self.unit,
            "p50_ms": self.latency.map(|l| l.0), "p99_ms": self.latency.map(|l| l.1),
            "beside": self.beside.map(|b| b.0), "beside_figure": self.beside.and_then(|b| b.1),
            "ratio": self.ratio(), "goal": self.goal, "below": self.below, "met": self.met(),
        })
    }
}

/// Of each figure, the round that is in the middle: the machine is never the same twice.
pub(crate) fn medians(rounds: Vec<Vec<Line>>) -> Vec<Line> {
    let mut rounds = rounds.into_iter();
    let mut figures: Vec<Vec<Line>> =
        rounds.next().unwrap_or_default().into_iter().map(|line| vec![line]).collect();
    for round in rounds {
        // Every round has the same figures in the same order.
        for (figure, line) in figures.iter_mut().zip(round) {
            figure.push(line);
        }
    }
    let middle = |mut lines: Vec<Line>| {
        let value = |line: &Line| line.value().unwrap_or(line.figure);
        lines.sort_by(|a, b| value(a).total_cmp(&value(b)));
        let middle = lines.len() / 2;
        lines.swap_remove(middle)
    };
    figures.into_iter().map(middle).collect()
}

/// For people.
pub(crate) fn print(lines: &[Line]) {
    println!(
        "{:9} {:40} {:>12} {:9} {:>17} {:>34} {:>7}  goal",
        "log", "what", "figure", "", "p50 / p99 ms", "beside", "ratio"
    );
    for line in lines {
        let latency =
            line.latency.map(|(p50, p99)| format!("{p50:.2} / {p99:.2}")).unwrap_or_default();
        let ratio = line.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        println!(
            "{:9} {:40} {:>12.1} {:9} {:>17} {:>34} {:>7}  {}",
            line.log,
            line.what,
            line.figure,
            line.unit,
            latency,
            line.beside_text(),
            ratio,
            line.verdict()
        );
    }
}

/// For programs: a JSON object a line.
pub(crate) fn print_json(lines: &[Line]) {
    for line in lines {
        println!("{}", line.to_json());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line::new("embedded", "pulls of 100", 2_000.0, "/s")
    }

    #[test]
    fn a_goal_of_a_ratio_is_not_measured_without_what_stands_beside() {
        for beside in [None, Some(0.0)] {
            let line = line().beside("pgbench select of 100", beside).goal(0.7);
            assert_eq!(line.verdict(), "≥ 0.7 not measured");
            assert_eq!(line.to_json()["met"], serde_json::Value::Null);
        }
        let line = line().beside("pgbench select of 100", None);
        assert_eq!((line.verdict().as_str(), line.ratio()), ("", None));
        assert_eq!(line.beside_text(), "pgbench select of 100 -");
    }

    #[test]
    fn a_goal_is_of_the_ratio_or_of_the_figure() {
        let beside = |limit| line().beside("pgbench select of 100", Some(limit));
        assert_eq!(beside(2_500.0).goal(0.7).verdict(), "≥ 0.7 met");
        assert_eq!(beside(4_000.0).goal(0.7).verdict(), "≥ 0.7 missed");
        assert_eq!(beside(4_000.0).below(0.7).verdict(), "< 0.7 met");
        assert_eq!(line().below(2_000.0).verdict(), "< 2000 missed");
        assert_eq!(line().goal(2_000.0).verdict(), "≥ 2000 met");
    }

    #[test]
    fn rounds_without_what_stands_beside_have_a_middle() {
        let round = |figure| {
            vec![Line { figure, ..line() }.beside("pgbench select of 100", None).goal(0.7)]
        };
        let middle = medians(vec![round(3.0), round(1.0), round(2.0)]);
        assert_eq!((middle[0].figure, middle[0].met()), (2.0, None));
    }
}
