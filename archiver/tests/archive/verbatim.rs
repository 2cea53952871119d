//! `events/` has every record as it is on the log, wherever it lies, and what became of it; of what was erased all but the
//! content.

use std::collections::{BTreeMap, BTreeSet};

use archive::{
    history::Names,
    manifest::{Header, ManifestReader},
    table::{EventFiles, RecordVerdict, StoredEvent},
};
use eventlog::{EventLog, Record};
use model::{
    Action, Applied, Command, Event, LogFold, Offset, Partition, ScopeKey, Timestamp, Verdict,
};

use crate::{bench::Bench, weeks::three_weeks};

/// How many records came to what, in a word.
pub(crate) type Became = BTreeMap<&'static str, usize>;

/// Compares every record of every hour that is sealed.
pub(crate) async fn check_events(bench: &Bench) -> Became {
    let mut became = Became::new();
    let mut files = EventFiles::new(&bench.archive);
    for partition in (0..bench.log.partitions()).map(Partition::new) {
        let log = bench.log.all().into_iter().filter(|record| record.partition == partition);
        let mut log = log.peekable();
        let mut part = Part { erased: erasures(bench, partition), ..Part::default() };
        for hour in hours(bench, partition).await {
            let mut stored = files.open(&hour).await.unwrap();
            while let Some(record) = log.next_if(|record| record.offset < hour.next_offset) {
                assert!(record.offset >= hour.first_offset, "{} is of no hour", record.offset);
                let stored = stored.next().unwrap().unwrap();
                *became.entry(part.check(record, stored)).or_default() += 1;
            }
            assert!(stored.next().is_none(), "{} has more than the log", hour.period);
        }
    }
    let records: usize = became.values().sum();
    assert!(records > 5, "{became:?}");
    became
}

async fn hours(bench: &Bench, partition: Partition) -> Vec<Header> {
    let names = Names::list(&bench.archive, bench.log.log_id(), partition).await.unwrap();
    let mut hours = Vec::new();
    for path in names.hours() {
        let object = bench.archive.fetch(&path).await.unwrap();
        hours.push(ManifestReader::new(object, &path).unwrap().header);
    }
    hours
}

/// The scopes of a partition that were erased, and the offset of the last time.
fn erasures(bench: &Bench, partition: Partition) -> BTreeMap<ScopeKey, Offset> {
    let mut erasures = BTreeMap::new();
    for record in bench.log.all().into_iter().filter(|record| record.partition == partition) {
        if let Some(command) = command(&record.value)
            && command.action == Action::ScopeErased
        {
            erasures.insert(command.scope, record.offset);
        }
    }
    erasures
}

fn command(value: &[u8]) -> Option<Command> {
    match schemas::decode(value) {
        Ok(Event::Command(command)) => Some(command),
        _ => None,
    }
}

/// A partition as it is read.
#[derive(Default)]
struct Part {
    /// What the log folds to, and what its copy in the archive does.
    log: LogFold,
    copy: LogFold,
    erased: BTreeMap<ScopeKey, Offset>,
    time: Timestamp,
}

impl Part {
    /// Compares a record with the archive's; what became of it.
    fn check(&mut self, record: Record, stored: StoredEvent) -> &'static str {
        let place = format!("{} in {}", record.offset, record.partition);
        assert_eq!((stored.partition, stored.offset), (record.partition, record.offset));
        assert_eq!(stored.append_time, record.append_time, "{place}");
        self.time = self.time.max(record.append_time);
        assert_eq!(stored.log_time, self.time, "{place}");
        assert_eq!(stored.key, record.key, "{place}");
        let is_blank = self.check_value(&record, &stored);
        let of_copy = Record { value: stored.value, ..record.clone() };
        let (expected, applied) = fold(&mut self.log, &record);
        let outcome = applied.map(|applied| applied.outcome.as_ref().clone());
        assert_eq!((stored.verdict, &stored.outcome), (expected, &outcome), "{place}");
        let (again, applied) = fold(&mut self.copy, &of_copy);
        let of_copy = applied.map(|applied| applied.outcome.as_ref().clone());
        assert_eq!((again, of_copy), (expected, outcome), "{place}, of the archive alone");
        match expected {
            Some(_) if is_blank => "erased",
            Some(verdict) => verdict.as_str(),
            None => "nothing to decide",
        }
    }

    /// That the value is the log's, or what is left of it without its content; whether it is that.
    fn check_value(&self, record: &Record, stored: &StoredEvent) -> bool {
        let command = command(&record.value).filter(|command| self.is_erased(command, record));
        let Some(command) = command.filter(|command| command.writes().next().is_some()) else {
            assert_eq!(stored.value, record.value, "{}", record.offset);
            return false;
        };
        assert_eq!(stored.value, schemas::encode_command(&command.blanked()).unwrap());
        assert_eq!(characters(&stored.value), BTreeSet::from(['-']), "{}", record.offset);
        true
    }

    fn is_erased(&self, command: &Command, record: &Record) -> bool {
        self.erased.get(&command.scope).is_some_and(|erased| record.offset < *erased)
    }
}

/// What a record came to, in a word, as FORMAT.md has it.
fn fold(fold: &mut LogFold, record: &Record) -> (Option<RecordVerdict>, Option<Applied>) {
    let event = schemas::decode(&record.value).ok();
    let (place, time) = (record.place(), record.append_time);
    let applied = fold.apply(place, time, &record.key, event.as_ref()).unwrap();
    let verdict = match (&event, &applied) {
        (Some(Event::Tick | Event::RulesChanged { .. }), _) => None,
        (_, None) => Some(RecordVerdict::DeadLetter),
        (_, Some(Applied { repeated: true, .. })) => Some(RecordVerdict::Repeated),
        (_, Some(applied)) if matches!(applied.outcome.verdict, Verdict::Refused(_)) => {
            Some(RecordVerdict::Refused)
        }
        _ => Some(RecordVerdict::Accepted),
    };
    (verdict, applied)
}

/// The characters of what a push writes.
fn characters(value: &[u8]) -> BTreeSet<char> {
    let command = command(value).unwrap();
    command.writes().flat_map(|(_, write)| write.body.content.chars().collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn every_record_is_archived_with_what_became_of_it() {
    let bench = three_weeks().await;
    let became = check_events(&bench).await;
    for kind in ["accepted", "refused", "repeated", "dead_letter", "erased", "nothing to decide"] {
        assert!(became.contains_key(kind), "none is {kind}: {became:?}");
    }
    assert!(bench.check().await > 100);
}
