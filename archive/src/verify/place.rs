//! Whether a manifest stands where it should, and goes on from those before it: what no hash says.

use std::collections::{HashMap, HashSet};

use model::{BackupId, BackupType, Cursor, Offset, ScopeKey};

use crate::{
    compaction::Compaction,
    history::Names,
    manifest::{BackupObject, Header, Kind, Reference, ScopeLine, json},
    object::Sha256Hex,
    path,
    period::{Day, HourLength},
    verify::{Chain, Verifier, course::Course, name},
};

/// The manifests of a partition that were read.
#[derive(Default)]
pub(super) struct Placed {
    /// Where each hour ends, in order.
    hours: Vec<(Offset, Reference)>,
    /// Fulls and on-demand backups: where they stand, and what they say is before them.
    others: Vec<(String, Header)>,
    /// Of each scope, the last line's hash, less its backup.
    lines: HashMap<ScopeKey, Sha256Hex>,
    /// The scopes of the manifest that is being read.
    seen: HashSet<ScopeKey>,
    last: Option<uuid::Uuid>,
    /// The days in which a scope had an event.
    used: Vec<(HourLength, Day)>,
    /// The day of the last hour.
    day: Option<Day>,
}

impl Placed {
    pub(super) fn push(&mut self, path: &str, reference: &Reference, header: &Header) {
        if header.kind != Kind::Hour {
            self.others.push((path.to_owned(), header.clone()));
            return;
        }
        self.hours.push((header.next_offset, reference.clone()));
    }

    fn has_hour(&self, hour: &Reference) -> bool {
        self.hours.iter().any(|(_, reference)| reference == hour)
    }

    /// Where the last hour ends, and which one is before it.
    fn last_hour(&self) -> Option<(Offset, Option<&Reference>)> {
        let (end, _) = self.hours.iter().max_by_key(|(end, _)| *end)?;
        let earlier = self.hours.iter().filter(|(own, _)| own < end);
        let before = earlier.max_by_key(|(own, _)| *own).map(|(_, reference)| reference);
        Some((*end, before))
    }

    /// Where a log was lost behind its last segment, its last hour was cut: a backup on demand may stand in what is missing of
    /// it, and names the hour before.
    fn is_in_cut_hour(&self, header: &Header) -> bool {
        header.kind == Kind::OnDemand
            && self.last_hour().is_some_and(|(end, before)| {
                header.next_offset > end && header.previous.as_ref() == before
            })
    }

    /// The newest hour that ends at or before an offset.
    fn hour_before(&self, offset: Offset) -> Option<&Reference> {
        let hours = self.hours.iter().filter(|(end, _)| *end <= offset);
        hours.max_by_key(|(end, _)| *end).map(|(_, reference)| reference)
    }
}

impl Verifier<'_> {
    /// The header says where the manifest lies.
    pub(super) fn check_place(&mut self, path: &str, header: &Header) {
        let folder = path::manifests(header.log_id, header.partition);
        let kind = match header.kind {
            Kind::Hour => "hour",
            Kind::Full => "full",
            Kind::OnDemand => "on-demand",
            Kind::Compaction => "compaction",
        };
        let place = format!("{folder}/{kind}/{}.jsonl.gz", header.period);
        if place != path {
            self.problem(path, format!("its header says {place}"));
        }
        if header.kind != Kind::Hour && header.first_offset != header.next_offset {
            let (first, next) = (header.first_offset, header.next_offset);
            self.problem(path, format!("it stands at one place, not from {first} to {next}"));
        }
    }

    /// A compaction's header says what its hours say together, and where it lies.
    pub(super) fn check_compacted(
        &mut self,
        path: &str,
        compaction: &Compaction,
        hours: &[&Header],
    ) {
        let header = &compaction.header;
        let (Some(first), Some(last)) = (hours.first(), hours.last()) else {
            return self.problem(path, "it has no hours");
        };
        let expected = Header {
            kind: Kind::Compaction,
            period: name(path).to_owned(),
            first_offset: first.first_offset,
            previous: compaction.hours.last().map(|hour| hour.manifest.clone()),
            gaps: hours.iter().flat_map(|hour| hour.gaps.clone()).collect(),
            events: header.events.clone(),
            messages: header.messages.clone(),
            ..(*last).clone()
        };
        if *header != expected || !path.starts_with(&path::manifests(last.log_id, last.partition)) {
            self.problem(path, "its header is not that of its hours and its name");
        }
    }

    /// A scope's line goes on from the manifests before.
    pub(super) fn check_line(
        &mut self,
        path: &str,
        header: &Header,
        line: &ScopeLine,
        chain: &mut Chain,
    ) {
        let scope = &line.scope;
        if chain.placed.last.replace(scope.reference().0) >= Some(scope.reference().0) {
            self.problem(path, format!("{scope} is out of order"));
        }
        if let Some(backup) = &line.backup {
            self.check_backup(path, header, scope, backup, chain);
        }
        let before = chain.heads.get(scope).copied().unwrap_or_default();
        if header.kind == Kind::Hour && line.backup.is_none() && line.head != before {
            let head = line.head;
            self.problem(path, format!("{scope} went from {before} to {head}: no backup has that"));
        }
        let hash = hash(line);
        match header.kind {
            Kind::Hour => {
                chain.placed.lines.insert(scope.clone(), hash);
                if let Some(hour) = header.period_seconds.hour_named(&header.period) {
                    let used = (header.period_seconds, hour.day());
                    if chain.placed.used.last() != Some(&used) {
                        chain.placed.used.push(used);
                    }
                }
            }
            Kind::Full => {
                let expected =
                    chain.placed.lines.get(scope).filter(|_| stands_after(header, chain));
                if expected.is_some_and(|expected| *expected != hash) {
                    self.problem(path, format!("{scope} is not as the hour before has it"));
                }
                chain.placed.lines.insert(scope.clone(), hash);
                chain.placed.seen.insert(scope.clone());
            }
            Kind::OnDemand => {
                chain.placed.seen.insert(scope.clone());
            }
            Kind::Compaction => {}
        }
    }

    fn check_backup(
        &mut self,
        path: &str,
        header: &Header,
        scope: &ScopeKey,
        backup: &BackupObject,
        chain: &Chain,
    ) {
        let object = &backup.path;
        let is_carried = header.kind == Kind::Full && self.listed.contains(object);
        if is_carried {
            let full = chain.courses.get(scope).and_then(Course::first);
            if full != Some(backup) {
                self.problem(path, format!("it lists {object} otherwise than a full before it"));
            }
        } else if self.listed.contains(object) {
            self.problem(path, format!("it lists {object}, as another manifest does"));
        } else if !is_named(header, scope, backup) {
            let id = backup.id;
            self.problem(path, format!("{object} with id {id} is not what {scope}'s is called"));
        }
        if header.kind != Kind::Hour && backup.cursor_first != Cursor::ZERO.next() {
            let first = backup.cursor_first;
            self.problem(path, format!("{object} begins at cursor {first}, not at the first"));
        }
    }

    /// A full has every scope, a backup on demand is of one.
    pub(super) fn check_lines_seen(&mut self, path: &str, header: &Header, placed: &mut Placed) {
        placed.last = None;
        let seen = std::mem::take(&mut placed.seen);
        if header.kind == Kind::Full {
            let missing = placed.lines.keys().find(|scope| !seen.contains(*scope));
            if let Some(scope) = missing {
                self.problem(path, format!("{scope} is not in it"));
            }
        }
        if header.kind == Kind::OnDemand && seen.len() != 1 {
            self.problem(path, format!("it has {} scopes", seen.len()));
        }
        if header.kind == Kind::Hour {
            let hour = header.period_seconds.hour_named(&header.period);
            placed.day = hour.map(|hour| hour.day()).or(placed.day);
        }
    }

    /// Once all manifests were read: each names the hour before it, and none of a day is missing.
    pub(super) fn check_placed(&mut self, names: &Names, placed: &Placed) {
        for (path, header) in &placed.others {
            let before = match header.kind {
                // Its last record, the request, is in the hour that it stands in.
                Kind::OnDemand => Offset::new(header.next_offset.get().saturating_sub(1)),
                Kind::Hour | Kind::Full | Kind::Compaction => Some(header.next_offset),
            };
            let before = before.and_then(|offset| placed.hour_before(offset));
            let previous = header.previous.as_ref();
            // The state after a gap is taken up somewhere in an hour, which may have been sealed since.
            let is_placed = if path::is_taken_up(&header.period) {
                previous.is_none_or(|previous| placed.has_hour(previous))
            } else {
                before == previous || placed.is_in_cut_hour(header)
            };
            if !is_placed {
                self.problem(
                    path,
                    "it does not name the hour before it: one is missing or changed",
                );
            }
        }
        for (length, day) in &placed.used {
            let is_over = placed.day.is_some_and(|last| last > *day);
            let full = length.day_name(day.next());
            if is_over && !names.fulls().any(|path| name(&path) == full) {
                self.problem(&names.full(&full), "it is missing");
            }
        }
    }
}

/// Nothing is between the last hour and this.
fn stands_after(header: &Header, chain: &Chain) -> bool {
    let previous = chain.previous.as_ref().map(|(_, previous)| previous);
    previous.is_some_and(|previous| {
        previous.next_offset == header.next_offset && header.gaps.is_empty()
    })
}

/// The object and its id are called as the format has it.
fn is_named(header: &Header, scope: &ScopeKey, backup: &BackupObject) -> bool {
    let (length, period) = (header.period_seconds, header.period.as_str());
    let scheduled =
        |of| backup.backup_type == of && backup.id == BackupId::scheduled(scope, of, period);
    let path = match header.kind {
        Kind::Hour if scheduled(BackupType::Incremental) => {
            length.hour_named(period).map(|hour| path::incremental(scope, length, hour))
        }
        Kind::Full if scheduled(BackupType::Full) && path::is_after_gap(period) => {
            Some(path::gap_full(scope, period, header.next_offset))
        }
        Kind::Full if scheduled(BackupType::Full) && path::is_base(period) => {
            Some(path::base_full(scope, period))
        }
        Kind::Full if scheduled(BackupType::Full) => {
            length.day_named(period).map(|day| path::full(scope, length, day))
        }
        Kind::OnDemand if backup.backup_type == BackupType::OnDemand => {
            let is_its_own = backup.id.to_string() == period;
            is_its_own.then(|| path::on_demand(scope, header.clock, backup.id))
        }
        _ => None,
    };
    path.as_ref() == Some(&backup.path)
}

fn hash(line: &ScopeLine) -> Sha256Hex {
    let line = ScopeLine { backup: None, ..line.clone() };
    // A line that was just read is written again: that cannot fail.
    Sha256Hex::of_bytes(&json(&line).unwrap_or_default())
}
