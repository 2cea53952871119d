//! What a scope comes to, hour by hour: its incrementals are folded onto the full before them, and each hour's count,
//! bytes and digest are held against what its manifest says.

use std::{collections::HashMap, sync::Arc};

use model::{Message, MessageId};

use crate::{
    error::ArchiveError,
    history::{check_content, next_message},
    manifest::{BackupObject, ScopeLine},
    object::Lines,
    store::Archive,
    total::{Part, Total},
    verify::Verifier,
};

/// A scope from a full on, or from its begin.
#[derive(Default)]
pub(super) struct Course {
    full: Option<Shown>,
    /// It begins a day that went before, and was recomputed there.
    is_carried_on: bool,
    hours: Vec<Shown>,
}

/// What a manifest says that a scope comes to.
struct Shown {
    manifest: Arc<str>,
    /// What changed; none in an hour in which only members did, say.
    object: Option<BackupObject>,
    total: Total,
}

impl Shown {
    fn new(manifest: &Arc<str>, line: &ScopeLine) -> Self {
        let (object, total) = (line.backup.clone(), Total::said(line));
        Self { manifest: manifest.clone(), object, total }
    }

    fn path(&self) -> &str {
        self.object.as_ref().map_or(&self.manifest, |object| &object.path)
    }
}

impl Course {
    pub(super) fn of_full(manifest: &Arc<str>, line: &ScopeLine, is_carried_on: bool) -> Self {
        let full = Some(Shown::new(manifest, line));
        Self { full, is_carried_on, hours: Vec::new() }
    }

    pub(super) fn push(&mut self, manifest: &Arc<str>, line: &ScopeLine) {
        self.hours.push(Shown::new(manifest, line));
    }

    /// The full that it begins with.
    pub(super) fn full(&self) -> Option<&BackupObject> {
        self.full.as_ref()?.object.as_ref()
    }

    /// The object that it begins with.
    pub(super) fn first(&self) -> Option<&BackupObject> {
        self.full.iter().chain(&self.hours).find_map(|shown| shown.object.as_ref())
    }

    /// Up to the first whose object is gone: what comes after is not known.
    fn readable(&self, is_there: impl Fn(&BackupObject) -> bool) -> impl Iterator<Item = &Shown> {
        let has = move |shown: &&Shown| shown.object.as_ref().is_none_or(&is_there);
        self.full.iter().chain(&self.hours).take_while(has)
    }
}

impl Verifier<'_> {
    /// Recomputes every hour of a course. It is read whole or not at all: by the run whose turn its first object is.
    pub(super) async fn course(&mut self, course: Course) -> Result<(), ArchiveError> {
        let is_its_turn = course.first().is_none_or(|first| self.sample.has(&first.path));
        if !is_its_turn || (course.is_carried_on && course.hours.is_empty()) {
            return Ok(());
        }
        let is_there = |object: &BackupObject| self.stored.contains_key(&object.path);
        let mut states = 0;
        let mut wrong = Vec::new();
        let read = recompute(self.archive, course.readable(is_there), |shown, sum| {
            states += u64::from(shown.object.is_some());
            let problem = sum.contradiction(shown.total);
            wrong.extend(problem.map(|problem| (shown.path().to_owned(), problem)));
        });
        let read = read.await;
        self.report.states_read += states - u64::from(course.is_carried_on && states > 0);
        for (path, problem) in wrong {
            self.problem_of_state(path, problem);
        }
        match read {
            // What is missing was found with the objects, or expired meanwhile.
            Ok(()) | Err(ArchiveError::NotFound { .. }) => Ok(()),
            Err(ArchiveError::Damaged { path, damage }) => {
                self.problem_of_state(path, damage.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// What lines have come to so far.
#[derive(Default)]
struct Sum {
    total: Total,
    /// The messages that an hour has, and what each adds now, if it is live: no other one is held in memory.
    changing: HashMap<MessageId, Option<Part>>,
}

impl Sum {
    fn add(&mut self, message: &Message) {
        let part = Part::of(message);
        if let Some(part) = part {
            self.total.add(part);
        }
        let before = self.changing.get_mut(&message.id);
        if let Some(before) = before.and_then(|before| std::mem::replace(before, part)) {
            self.total.remove(before);
        }
    }
}

/// Folds the objects one after another; `check` is told what each comes to.
async fn recompute<'s>(
    archive: &Archive,
    shown: impl Iterator<Item = &'s Shown>,
    mut check: impl FnMut(&Shown, Total),
) -> Result<(), ArchiveError> {
    let shown: Vec<&Shown> = shown.collect();
    let mut sum = Sum::default();
    let mut opened = Vec::with_capacity(shown.len());
    let mut ended = Ok(());
    for (number, shown) in shown.iter().enumerate() {
        // Which messages of the first one change is in those after it.
        let note = (number > 0).then_some(&mut sum.changing);
        match open(archive, shown.object.as_ref(), note).await {
            Ok(lines) => opened.push((*shown, lines)),
            // What comes before it is recomputed even so.
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    for (shown, lines) in opened {
        if let (Some(mut lines), Some(object)) = (lines, &shown.object) {
            while let Some(message) = next_message(&mut lines)? {
                sum.add(&message);
            }
            check_content(&lines, &object.content_sha256)?;
        }
        check(shown, sum.total);
    }
    ended
}

/// Fetches an object; `note` gets the ids in it.
async fn open(
    archive: &Archive,
    object: Option<&BackupObject>,
    note: Option<&mut HashMap<MessageId, Option<Part>>>,
) -> Result<Option<Lines>, ArchiveError> {
    let Some(object) = object else { return Ok(None) };
    let fetched = archive.fetch_checked(&object.path, &object.sha256).await?;
    let mut lines = fetched.lines(&object.path)?;
    let Some(note) = note else { return Ok(Some(lines)) };
    while let Some(message) = next_message(&mut lines)? {
        note.insert(message.id, None);
    }
    lines.restart().map(Some)
}
