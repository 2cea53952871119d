//! What devices feel: pushes and pulls, on either log, each beside its limit and its peer.

use std::{sync::Arc, time::Duration};

use eventlog::EventLog;

use crate::{
    Bench, Failure, Figure, INSERT_ROWS_MAX, NO_PAGES_KEPT, limits,
    load::Measured,
    scenarios,
    server::{self, Server},
    step,
    table::Line,
};

/// Bytes of the record that a single push makes: what the bare log appends.
const RECORD_BYTES: usize = 750;
/// How long it is pushed to before anything is measured.
const WARM_UP: Duration = Duration::from_secs(20);

/// What is measured.
pub(crate) struct MainPath<'a> {
    pub(crate) log: &'static str,
    pub(crate) server: &'a Server,
    /// Another log of the same kind, which nobody reads.
    pub(crate) bare: &'a Arc<dyn EventLog>,
    /// The server's database.
    pub(crate) url: &'a str,
}

impl Bench<'_> {
    /// Pushes that are not measured: a broker that has just started compiles what it runs often.
    pub(crate) async fn warm_up(&self, path: &MainPath<'_>) -> Result<(), Failure> {
        if self.measures(Figure::Singles) || self.measures(Figure::Hundreds) {
            step(&format!("{}: warming up", path.log));
            scenarios::push(path.server, 32, 1, WARM_UP, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// The figures that both logs have.
    pub(crate) async fn main_path(
        &self,
        path: &MainPath<'_>,
        peer_goal: f64,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        if self.measures(Figure::Singles) {
            self.singles(path, peer_goal, lines).await?;
        }
        if self.measures(Figure::Hundreds) {
            self.hundreds(path, lines).await?;
        }
        if self.measures(Figure::Pulls) {
            self.pulls(path, lines).await?;
        }
        Ok(())
    }

    /// What the peer does of the same, if it is measured: before and after a figure, as its limit.
    async fn peer_pushes(&self, in_flight: usize, records: usize) -> Result<Option<f64>, Failure> {
        let Some(peer) = &self.peer else { return Ok(None) };
        let pushed = peer.push(in_flight, records, self.time / 2).await?;
        Ok(Some(pushed.rate * records as f64))
    }

    /// Of single pushes: where there is a goal, at 32 in flight.
    async fn peer_at(&self, in_flight: usize) -> Result<Option<f64>, Failure> {
        if in_flight == 32 { self.peer_pushes(in_flight, 1).await } else { Ok(None) }
    }

    async fn peer_pulls(&self) -> Result<Option<f64>, Failure> {
        let Some(peer) = &self.peer else { return Ok(None) };
        Ok(Some(peer.pull(16, self.time / 2).await?.rate))
    }

    async fn singles(
        &self,
        path: &MainPath<'_>,
        peer_goal: f64,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        let MainPath { log, server, bare, .. } = *path;
        let mut greatest = 0.0f64;
        for in_flight in [1, 32, 256] {
            step(&format!("{log}: single pushes, {in_flight} in flight"));
            let limit = limits::append(bare, in_flight, RECORD_BYTES, self.time / 2).await?;
            let before = self.peer_at(in_flight).await?;
            let pushed = scenarios::push(server, in_flight, 1, self.time, Duration::ZERO).await?;
            let peer = midpoint(before, self.peer_at(in_flight).await?);
            greatest = greatest.max(pushed.rate);
            let what = format!("single pushes, {in_flight} in flight");
            lines.push(
                Line::new(log, &what, pushed.rate, "/s")
                    .latency(pushed)
                    .beside("bare log append", Some(limit.rate)),
            );
            if peer.is_some() {
                lines.push(
                    Line::new(log, what, pushed.rate, "/s")
                        .beside("atuin-server", peer)
                        .goal(peer_goal),
                );
            }
        }
        let quarter = self.at_a_quarter(log, server, greatest).await?;
        lines.push(quarter);
        Ok(())
    }

    /// The latency at a quarter of the greatest load.
    async fn at_a_quarter(
        &self,
        log: &'static str,
        server: &Server,
        greatest: f64,
    ) -> Result<Line, Failure> {
        const WORKERS: usize = 32;
        step(&format!("{log}: a quarter of the greatest load"));
        let pace = Duration::from_secs_f64(WORKERS as f64 / (greatest / 4.0));
        let pushed: Measured = scenarios::push(server, WORKERS, 1, self.time, pace).await?;
        let what = format!("push p99 at {:.0}/s, a quarter", pushed.rate);
        Ok(Line::new(log, what, pushed.p99_ms, "ms").latency(pushed).below(50.0))
    }

    async fn hundreds(&self, path: &MainPath<'_>, lines: &mut Vec<Line>) -> Result<(), Failure> {
        let MainPath { log, server, url, .. } = *path;
        step(&format!("{log}: pushes of 100"));
        scenarios::push(server, 8, 100, self.time / 2, Duration::ZERO).await?; // rows for the limit
        let before = self.inserts(&format!("{log}_before_hundreds"), url, INSERT_ROWS_MAX).await?;
        let peer_before = self.peer_pushes(8, 100).await?;
        let pushed = scenarios::push(server, 8, 100, self.time, Duration::ZERO).await?;
        let records = pushed.rate * 100.0;
        let peer = midpoint(peer_before, self.peer_pushes(8, 100).await?);
        let after = self.inserts(&format!("{log}_after_hundreds"), url, INSERT_ROWS_MAX).await?;
        let limit = before.midpoint(after);
        let line = Line::new(log, "records in pushes of 100", records, "/s").latency(pushed);
        lines.push(line.clone().beside("INSERT … SELECT UNNEST", Some(limit)).goal(0.6));
        if peer.is_some() {
            lines.push(line.beside("atuin-server", peer).goal(1.0));
        }
        Ok(())
    }

    async fn pulls(&self, path: &MainPath<'_>, lines: &mut Vec<Line>) -> Result<(), Failure> {
        let MainPath { log, server, url, .. } = *path;
        step(&format!("{log}: pulls"));
        if !self.measures(Figure::Hundreds) {
            scenarios::push(server, 8, 100, self.time, Duration::ZERO).await?; // something to pull
        }
        limits::settle(url).await?;
        let select = async || limits::select(url, 16, self.time / 2, self.directory).await;
        let (before, peer_before) = (select().await?, self.peer_pulls().await?);
        let pulled = scenarios::pull(server, 16, self.time).await?;
        let (peer, limit) =
            (midpoint(peer_before, self.peer_pulls().await?), midpoint(before, select().await?));
        let line = Line::new(log, "pulls of 100", pulled.rate, "/s").latency(pulled);
        lines.push(line.clone().beside("pgbench select of 100", limit));
        if peer.is_some() {
            lines.push(line.beside("atuin-server", peer));
        }
        let idle = scenarios::idle_pull(server, 16, self.time).await?;
        let line = Line::new(log, "pulls with nothing new", idle.rate, "/s").latency(idle);
        lines.push(match peer {
            // It has no pull with nothing new that is measured here.
            Some(_) => line.beside("atuin-server, pull of 100", peer).goal(10.0),
            None => line,
        });
        Ok(())
    }

    /// Pulls from a server that keeps no page: each is asked of Postgres, as pages are that nobody else pulls. The goals are
    /// for these, since the load pulls the same few pages again and again.
    pub(crate) async fn unkept_pulls(
        &self,
        log: &'static str,
        serve: &[&str],
        url: &str,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        if !self.measures(Figure::Pulls) {
            return Ok(());
        }
        step(&format!("{log}: pulls where no page is kept"));
        let args = [serve, &NO_PAGES_KEPT].concat();
        let server = Server::start(&server::binary()?, &args, self.directory).await?;
        let select = async || limits::select(url, 16, self.time / 2, self.directory).await;
        let (before, peer_before) = (select().await?, self.peer_pulls().await?);
        let pulled = scenarios::pull(&server, 16, self.time).await?;
        server.stop()?;
        let (peer, limit) =
            (midpoint(peer_before, self.peer_pulls().await?), midpoint(before, select().await?));
        let line = Line::new(log, "pulls of 100, no page kept", pulled.rate, "/s").latency(pulled);
        lines.push(line.clone().beside("pgbench select of 100", limit).goal(0.7));
        if peer.is_some() {
            lines.push(line.beside("atuin-server", peer).goal(2.0));
        }
        Ok(())
    }

    /// Pushes while the same process archives them.
    pub(crate) async fn archived(
        &self,
        log: &'static str,
        server: &Server,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        step(&format!("{log}: single pushes, beside the archiver"));
        let pushed = scenarios::push(server, 32, 1, self.time, Duration::ZERO).await?;
        let what = "single pushes, 32, beside the archiver";
        lines.push(Line::new(log, what, pushed.rate, "/s").latency(pushed));
        Ok(())
    }
}

/// Between what was measured before a figure and after it.
fn midpoint(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    before.zip(after).map(|(before, after)| before.midpoint(after))
}
