//! The closing table: each figure beside its limit or its peer, and the goal.

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) log: &'static str,
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) unit: &'static str,
    pub(crate) latency: Option<(f64, f64)>,
    /// What it is compared with, and that figure.
    pub(crate) beside: Option<(&'static str, f64)>,
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
        self.beside = figure.map(|figure| (name, figure));
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
        self.beside.map(|(_, limit)| self.figure / limit)
    }

    /// What the goal is about.
    fn value(&self) -> f64 {
        self.ratio().unwrap_or(self.figure)
    }

    fn verdict(&self) -> String {
        let Some(goal) = self.goal else { return String::new() };
        let value = self.value();
        let met = if self.below { value < goal } else { value >= goal };
        let sign = if self.below { "<" } else { "≥" };
        format!("{sign} {goal} {}", if met { "met" } else { "missed" })
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "log": self.log, "what": self.what, "figure": self.figure, "unit": self.unit,
            "p50_ms": self.latency.map(|l| l.0), "p99_ms": self.latency.map(|l| l.1),
            "beside": self.beside.map(|b| b.0), "beside_figure": self.beside.map(|b| b.1),
            "ratio": self.ratio(), "goal": self.goal, "below": self.below,
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
        lines.sort_by(|a, b| a.value().total_cmp(&b.value()));
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
        let beside =
            line.beside.map(|(name, limit)| format!("{name} {limit:.0}")).unwrap_or_default();
        let ratio = line.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        println!(
            "{:9} {:40} {:>12.1} {:9} {:>17} {:>34} {:>7}  {}",
            line.log,
            line.what,
            line.figure,
            line.unit,
            latency,
            beside,
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
