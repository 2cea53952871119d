//! The tables, as the format has them: their schema, and how they are written.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../readmodel/tests/postgres/commands.rs"]
mod commands;

use archive::{
    object::{Object, Scratch},
    table::{
        EventRow, EventsWriter, Merger, MessageRow, MessagesWriter, ROW_GROUP_ROWS, Table, rows,
    },
};
use arrow_array::{Array, Int64Array};
use bytes::Bytes;
use commands::{command, create, push, say, user};
use eventlog::Record;
use model::{
    Action, Command, Cursor, Event, LogFold, Offset, Partition, RestoreChunk, RestoreId,
    RestoreMode, RestorePlace, Timestamp,
};
use parquet::{
    basic::{Compression, Encoding},
    bloom_filter::Sbbf,
    file::{
        metadata::RowGroupMetaData,
        properties::ReaderProperties,
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    schema::printer::print_schema,
};

const PARTITION: Partition = Partition::new(3);
const TEAM: &str = "acme/team/web";

fn row(offset: u64, event: Event, value: Bytes) -> EventRow {
    let append_time = Timestamp::from_micros(1_767_088_800_000_000 + offset as i64);
    let key = match &event {
        Event::Command(command) => command.scope.to_string().into(),
        _ => Bytes::new(),
    };
    let offset = Offset::new(offset).unwrap();
    EventRow {
        record: Record { partition: PARTITION, offset, append_time, key, value },
        log_time: append_time,
        event: Some(event),
        outcome: None,
        repeated: false,
        is_unfolded: false,
        chunk: Vec::new(),
    }
}

/// What commands come to, one after another.
fn folded(commands: Vec<Command>) -> Vec<EventRow> {
    let mut fold = LogFold::default();
    let apply = |(offset, command): (u64, Command)| {
        let value = schemas::encode_command(&command).unwrap().into();
        let mut row = row(offset, Event::Command(command.clone()), value);
        let applied = fold.apply_command(&command, row.log_time).unwrap();
        row.outcome = Some(applied.outcome);
        if let Action::RestoreChunk(_) = command.action {
            row.chunk = applied.changes.iter().map(|c| (c.change, c.cursor)).collect();
        }
        row
    };
    (0..).zip(commands).map(apply).collect()
}

fn events(rows: Vec<EventRow>) -> Object {
    let mut writer = EventsWriter::new(&Scratch::default(), PARTITION).unwrap();
    rows.into_iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap().0
}

fn messages(rows: &[EventRow]) -> Object {
    let mut writer = MessagesWriter::new(&Scratch::default(), PARTITION).unwrap();
    rows.iter().for_each(|row| writer.push(MessageRow::of(row)).unwrap());
    writer.finish().unwrap().0
}

fn open(mut object: Object) -> SerializedFileReader<Bytes> {
    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).with_page_index();
    let bytes: Bytes = object.bytes().unwrap().into();
    SerializedFileReader::new_with_options(bytes, options.build()).unwrap()
}

fn groups(file: &SerializedFileReader<Bytes>) -> Vec<RowGroupMetaData> {
    file.metadata().row_groups().to_vec()
}

fn a_team() -> Vec<EventRow> {
    let invalid =
        model::Rejected { index: 2, code: model::InvalidCode::HashMismatch, detail: String::new() };
    let mut pushed = push(TEAM, "ann", &[say("x"), say("y")]);
    pushed.device = model::DeviceId::new("laptop").ok();
    if let Action::MessagesPushed { rejected, .. } = &mut pushed.action {
        rejected.push(invalid);
    }
    folded(vec![create(TEAM, "ann"), pushed])
}

#[test]
fn schemas_are_golden() {
    let tables = [
        (events(a_team()), include_str!("../golden/events.schema.txt")),
        (messages(&a_team()), include_str!("../golden/messages.schema.txt")),
    ];
    for (file, golden) in tables {
        let mut schema = Vec::new();
        print_schema(&mut schema, open(file).metadata().file_metadata().schema());
        assert_eq!(String::from_utf8(schema).unwrap(), golden);
    }
}

/// The columns of a table that FORMAT.md says have a dictionary.
fn dictionaries(table: &str) -> Vec<String> {
    let format = include_str!("../FORMAT.md");
    let section = format.split(&format!("\n`{table}/`: ")).nth(1).unwrap();
    let mut columns = Vec::new();
    for line in section.lines().skip_while(|line| !line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, names, kind, ..] = cells[..] else { break };
        if kind == "STRING, dictionary" {
            columns.extend(names.split(", ").map(|name| name.trim_matches('`').to_owned()));
        } else if kind.contains("`key` with a dictionary") {
            columns.push("key".to_owned());
        }
    }
    assert!(columns.len() > 5, "{table}: {columns:?}");
    columns
}

/// Compression, dictionaries, statistics and bloom filters are those of FORMAT.md.
#[test]
fn columns_are_written_as_the_format_says() {
    let tables = [
        ("events", events(a_team()), &["scope_id"][..]),
        ("messages", messages(&a_team()), &["scope_id", "message_id"]),
    ];
    for (table, file, bloom) in tables {
        let file = open(file);
        let dictionaries = dictionaries(table);
        let [group] = &groups(&file)[..] else { unreachable!() };
        for column in group.columns() {
            let name = column.column_path().string();
            assert!(matches!(column.compression(), Compression::ZSTD(_)), "{table}.{name}");
            let has_dictionary = column.encodings().any(|e| e == Encoding::RLE_DICTIONARY);
            assert_eq!(has_dictionary, dictionaries.contains(&name), "{table}.{name}");
            assert!(column.statistics().is_some(), "{table}.{name}");
            assert!(column.column_index_offset().is_some(), "{table}.{name}");
            let has_bloom = column.bloom_filter_offset().is_some();
            assert_eq!(has_bloom, bloom.contains(&name.as_str()), "{table}.{name}");
        }
        let created_by = file.metadata().file_metadata().created_by();
        assert_eq!(created_by, Some("context-sync archive 1"));
    }
}

/// A scan of one scope skips the row groups that lack it, by their bloom filters.
#[test]
fn a_row_group_says_which_scopes_it_lacks() {
    let value = Bytes::from(vec![b'x'; 1 << 20]);
    let of =
        |offset: u64, scope: &str| row(offset, Event::Command(create(scope, "ann")), value.clone());
    let rows = (0..200).map(|n| of(n, if n < 100 { "acme/team/a" } else { "acme/team/b" }));
    let file = open(events(rows.collect()));
    let scope_id = 7;
    let has = |group: usize, scope: &str| {
        let group = file.get_row_group(group).unwrap();
        let filter: &Sbbf = group.get_column_bloom_filter(scope_id).unwrap();
        assert!(filter.num_blocks() <= 4, "folded to what is in it");
        filter.check(&scope)
    };
    let last = groups(&file).len() - 1;
    assert!(has(0, "a") && !has(0, "b"));
    assert!(has(last, "b") && !has(last, "a"));
}

fn offsets(mut object: Object) -> Vec<i64> {
    let batches = rows(object.bytes().unwrap().into(), "x").unwrap();
    let column = |batch: &arrow_array::RecordBatch| {
        let column = batch.column_by_name("offset").unwrap().clone();
        column.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
    };
    batches.iter().flat_map(column).collect()
}

fn ticks(from: u64, to: u64) -> Object {
    events((from..to).map(|offset| row(offset, Event::Tick, Bytes::from_static(b"tick"))).collect())
}

#[test]
fn merged_files_have_all_rows_in_order_and_row_groups_for_scanning() {
    let merged = || {
        let mut merger = Merger::new(&Scratch::default(), Table::Events);
        for (from, to) in [(0, 40_000), (40_000, 40_001), (40_001, 140_000)] {
            merger.push(ticks(from, to), "x").unwrap();
        }
        merger.finish().unwrap().unwrap()
    };
    let (object, rows) = merged();
    assert_eq!((rows, &object.sha256), (140_000, &merged().0.sha256));
    let file = merged().0;
    let sizes: Vec<i64> = groups(&open(file)).iter().map(RowGroupMetaData::num_rows).collect();
    assert!(sizes.iter().all(|rows| *rows <= ROW_GROUP_ROWS as i64), "{sizes:?}");
    assert!(sizes[..sizes.len() - 1].iter().all(|rows| *rows > 60_000), "{sizes:?}");
    assert_eq!(offsets(object), (0..140_000).collect::<Vec<i64>>());
}

/// Pushes may be large: a row group is bounded in bytes too, and with it what a reader holds in memory.
#[test]
fn row_groups_are_bounded_in_bytes() {
    let value = Bytes::from(vec![b'x'; 1 << 20]);
    let file = events((0..150).map(|offset| row(offset, Event::Tick, value.clone())).collect());
    let sizes: Vec<i64> =
        groups(&open(file)).iter().map(RowGroupMetaData::total_byte_size).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|bytes| *bytes <= 72 << 20), "{sizes:?}");
}

#[test]
fn what_has_other_columns_is_not_merged() {
    let mut merger = Merger::new(&Scratch::default(), Table::Events);
    merger.push(ticks(0, 1), "events").unwrap();
    let error = merger.push(messages(&a_team()), "messages").unwrap_err();
    assert!(error.to_string().contains("messages"), "{error}");
}

fn column(batches: &[arrow_array::RecordBatch], name: &str) -> Vec<String> {
    let text = |batch: &arrow_array::RecordBatch| {
        let column = batch.column_by_name(name).unwrap().clone();
        let texts = column.as_any().downcast_ref::<arrow_array::StringArray>().unwrap().clone();
        texts.iter().map(|text| text.unwrap_or("null").to_owned()).collect::<Vec<_>>()
    };
    batches.iter().flat_map(text).collect()
}

/// A restore's rows say what it did, and whose the messages are.
#[test]
fn a_restore_has_rows_for_what_it_deletes_and_puts() {
    let restore = RestoreId(uuid::Uuid::from_u128(9));
    let Action::MessagesPushed { changes, .. } = push(TEAM, "bob", &[say("kept"), say("y")]).action
    else {
        unreachable!()
    };
    let put = |n: usize| {
        let model::Change::Write(write) = &changes[n].change else { unreachable!() };
        model::Put {
            id: model::MessageId(uuid::Uuid::from_u128(n as u128)),
            body: write.body.clone(),
            content_hash: write.content_hash,
            body_hash: write.body_hash,
            updated_at: Timestamp::from_micros(5),
            created_at: Timestamp::from_micros(4),
            contributed_by: user("bob"),
            device: None,
        }
    };
    let gone = push(TEAM, "ann", &[say("gone"), say("kept")]);
    let id = |content: &str| {
        let hash = model::ContentHash::of(content);
        model::MessageId::of_content(&commands::scope(TEAM), &hash)
    };
    let chunk = RestoreChunk {
        restore,
        from: RestorePlace::Deletes(Cursor::ZERO),
        to: RestorePlace::Puts(2),
        deletes: vec![id("gone"), id("unknown")],
        puts: vec![put(0), put(1)],
    };
    let request = Action::RestoreRequested {
        restore,
        mode: RestoreMode::Replace,
        backup: model::BackupId(uuid::Uuid::nil()),
        source: Box::new(commands::scope(TEAM)),
    };
    let rows = folded(vec![
        create(TEAM, "ann"),
        gone,
        command(TEAM, "ann", request),
        command(TEAM, "ann", Action::RestoreChunk(Box::new(chunk.clone()))),
        // The same again is not in its place.
        command(TEAM, "ann", Action::RestoreChunk(Box::new(chunk))),
    ]);
    let mut file = messages(&rows[2..]);
    let batches = archive::table::rows(file.bytes().unwrap().into(), "x").unwrap();
    // "kept" lives under another id.
    assert_eq!(column(&batches, "status"), ["deleted", "skipped", "skipped", "restored"]);
    assert_eq!(column(&batches, "contributed_by"), ["ann", "null", "null", "bob"]);
    assert_eq!(column(&batches, "content"), ["null", "null", "kept", "y"]);
    assert_eq!(column(&batches, "kind"), ["restore_chunk"; 4]);
    assert_eq!(column(&batches, "request_id"), [restore.0.to_string().as_str(); 4]);
}
