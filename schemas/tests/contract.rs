//! The bytes on the log are a contract: golden records decode for ever, and encode to the same bytes.
//!
//! `UPDATE_GOLDEN=1 cargo test -p schemas` writes golden files that are missing; it never changes one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use model::{
    AboutBackup, Action, BackupId, BackupRecord, BackupType, Body, BodyHash, Change, Command,
    CommandId, ContentHash, Cursor, DeviceId, Digest, DrillFailure, DrillId, DrillRecord,
    ErasedFrom, ErasureDone, Event, Fact, InvalidCode, Item, MessageId, MessageType, Metadata,
    OrgRole, PushedChange, Put, Rejected, RequestHash, RestoreChunk, RestoreFailure, RestoreId,
    RestoreMode, RestorePlace, Role, RulesVersion, ScopeKey, Timestamp, UserId, Write,
};
use proptest::prelude::*;
use schemas::{Undecodable, decode, decode_fact, encode, encode_fact, fingerprint};
use uuid::Uuid;

fn command(scope: &str, action: Action) -> Event {
    Event::Command(Command {
        id: CommandId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001)),
        scope: scope.parse().unwrap(),
        actor: UserId::new("ann").unwrap(),
        org_role: OrgRole::Admin,
        device: Some(DeviceId::new("device-uuid-123").unwrap()),
        request_hash: RequestHash([7; 32]),
        action,
    })
}

fn write(id: Option<u128>, content: &str, updated_at: Option<&str>, base: Option<u64>) -> Change {
    let metadata = Metadata::from_canonical(r#"{"source":"session-abc"}"#.into());
    Change::Write(Write {
        id: id.map(|id| MessageId(Uuid::from_u128(id))),
        updated_at: updated_at.map(|text| Timestamp::parse_rfc3339(text).unwrap()),
        base_cursor: base.map(|base| Cursor::new(base).unwrap()),
        content_hash: ContentHash::of(content),
        body_hash: BodyHash::of("decision", content, metadata.as_str()),
        body: Body {
            message_type: MessageType::new("decision").unwrap(),
            content: content.into(),
            metadata,
        },
    })
}

fn samples() -> Vec<(&'static str, Event)> {
    let bob = UserId::new("bob").unwrap();
    let delete =
        Change::Delete { id: MessageId(Uuid::from_u128(5)), base_cursor: Cursor::new(9).unwrap() };
    let changes = [
        write(None, "Use PostgreSQL RLS for tenant isolation", Some("2025-12-30T10:00:00Z"), None),
        write(Some(4), "naïve – 東京 😀", None, Some(3)),
        delete,
    ];
    let changes: Vec<_> = (0u32..)
        .zip(changes)
        .map(|(index, change)| PushedChange { index: 2 * index, change })
        .collect();
    let pushed = |codes: &[InvalidCode]| {
        let rejected = |(code, index): (&InvalidCode, u32)| Rejected {
            index,
            code: *code,
            detail: "content takes a string".into(),
        };
        let rejected = codes.iter().zip([1, 3, 5, 7]).map(rejected).collect();
        command("acme/user/ann", Action::MessagesPushed { changes: changes.clone(), rejected })
    };
    vec![
        ("messages-pushed.v1", pushed(&InvalidCode::ALL[..3])),
        ("scope-created.v1", command("acme/team/platform", Action::ScopeCreated)),
        (
            "member-set.v1",
            command(
                "acme/project/api",
                Action::MemberSet { user: bob.clone(), role: Role::Viewer },
            ),
        ),
        ("member-removed.v1", command("acme/team/platform", Action::MemberRemoved { user: bob })),
        (
            "backup-requested.v1",
            command("acme/team/platform", Action::BackupRequested { backup: backup() }),
        ),
        (
            "restore-requested.v1",
            command(
                "acme/team/platform",
                Action::RestoreRequested {
                    restore: restore(),
                    mode: RestoreMode::Replace,
                    backup: backup(),
                    source: Box::new("acme/project/api".parse().unwrap()),
                },
            ),
        ),
        ("restore-chunk.v1", command("acme/team/platform", chunk())),
        (
            "restore-completed.v1",
            command(
                "acme/team/platform",
                Action::RestoreCompleted { restore: restore(), from: RestorePlace::Puts(5_000) },
            ),
        ),
        (
            "restore-failed.v1",
            command(
                "acme/team/platform",
                Action::RestoreFailed {
                    restore: restore(),
                    from: RestorePlace::Deletes(Cursor::ZERO),
                    code: RestoreFailure::ChecksumFailed,
                    detail: "the object has another sha256".into(),
                },
            ),
        ),
        (
            "tombstones-expired.v1",
            command(
                "acme/team/platform",
                Action::TombstonesExpired { up_to: Cursor::new(12_345).unwrap() },
            ),
        ),
        ("scope-erased.v1", command("acme/user/ann", Action::ScopeErased)),
        ("tick.v1", Event::Tick),
        ("rules-changed.v1", Event::RulesChanged { version: RulesVersion(1) }),
        ("messages-pushed.v2", pushed(&InvalidCode::ALL)),
    ]
}

fn restore() -> RestoreId {
    RestoreId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_000a))
}

fn chunk() -> Action {
    let Change::Write(write) = write(Some(4), "naïve – 東京 😀", None, None) else {
        panic!()
    };
    let put = Put {
        id: MessageId(Uuid::from_u128(4)),
        content_hash: write.content_hash,
        body_hash: write.body_hash,
        body: write.body,
        updated_at: Timestamp::parse_rfc3339("2025-12-30T10:00:00Z").unwrap(),
        created_at: Timestamp::parse_rfc3339("2025-12-29T10:00:00Z").unwrap(),
        contributed_by: UserId::new("bob").unwrap(),
        device: None,
    };
    Action::RestoreChunk(Box::new(RestoreChunk {
        restore: restore(),
        from: RestorePlace::Deletes(Cursor::new(12).unwrap()),
        to: RestorePlace::Puts(1),
        deletes: vec![MessageId(Uuid::from_u128(5))],
        puts: vec![put],
    }))
}

fn backup() -> BackupId {
    BackupId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0009))
}

fn facts() -> Vec<(&'static str, Fact)> {
    let about = || AboutBackup {
        id: backup(),
        scope: "acme/team/platform".parse().unwrap(),
        at: Timestamp::parse_rfc3339("2025-12-30T11:00:01Z").unwrap(),
    };
    let mut digest = Digest::EMPTY;
    digest.add(Item([9; 32]));
    let record = BackupRecord {
        id: backup(),
        scope: about().scope,
        backup_type: BackupType::Full,
        path: "gs://coditect-context-backups/tenants/acme/teams/platform/full/2025-12-30.jsonl.gz"
            .into(),
        size_bytes: 1_048_576,
        record_count: 5_000,
        checksum: [3; 32],
        created_at: Timestamp::parse_rfc3339("2025-12-30T00:00:00Z").unwrap(),
        completed_at: Timestamp::parse_rfc3339("2025-12-30T00:05:00Z").unwrap(),
        expires_at: Timestamp::parse_rfc3339("2026-03-30T00:00:00Z"),
        cursor_first: Cursor::new(1).unwrap(),
        cursor_last: Cursor::new(12_345).unwrap(),
        digest,
    };
    let failed = Fact::BackupFailed {
        about: about(),
        backup_type: BackupType::OnDemand,
        detail: "the scope is parked".into(),
    };
    let drill = DrillRecord {
        id: DrillId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_000b)),
        at: about().at,
        scopes: 20,
        failures: vec![DrillFailure {
            scope: about().scope,
            backup: backup(),
            problem: "the read model has 4 messages, the backup 5".into(),
        }],
    };
    let erased = ErasureDone {
        erasure: CommandId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001)),
        scope: "acme/user/ann".parse().unwrap(),
        cursor: Cursor::new(12_346).unwrap(),
        from: ErasedFrom::Tables,
        at: about().at,
    };
    vec![
        ("backup-completed.v1", Fact::BackupCompleted(record)),
        ("backup-failed.v1", failed),
        ("backup-verified.v1", Fact::BackupVerified(about())),
        ("backup-expired.v1", Fact::BackupExpired(about())),
        ("drill-completed.v1", Fact::DrillCompleted(drill)),
        ("erasure-done.v1", Fact::ErasureDone(erased)),
    ]
}

fn path(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn names_in(folder: &str, ending: &str) -> BTreeSet<String> {
    fs::read_dir(path(folder))
        .unwrap()
        .filter_map(|file| {
            file.unwrap().file_name().into_string().unwrap().strip_suffix(ending).map(String::from)
        })
        .collect()
}

fn all_schemas() -> impl Iterator<Item = &'static schemas::EventSchema> {
    schemas::schemas().iter().chain(schemas::fact_schemas())
}

#[test]
fn golden_records_decode_and_encode_to_the_same_bytes() {
    for (name, event) in samples() {
        let file = path(&format!("golden/{name}.avro"));
        if !file.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, encode(&event).unwrap()).unwrap();
        }
        let golden = fs::read(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decode(&golden).unwrap(), event, "{name} decodes");
        assert_eq!(encode(&event).unwrap(), golden, "{name} encodes");
    }
}

#[test]
fn golden_facts_decode_and_encode_to_the_same_bytes() {
    for (name, fact) in facts() {
        let file = path(&format!("golden/{name}.avro"));
        if !file.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, encode_fact(&fact).unwrap()).unwrap();
        }
        let golden = fs::read(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decode_fact(&golden).unwrap(), fact, "{name} decodes");
        assert_eq!(encode_fact(&fact).unwrap(), golden, "{name} encodes");
        assert!(
            matches!(decode(&golden), Err(Undecodable::UnknownSchema(_))),
            "{name} is no event"
        );
    }
}

#[test]
fn every_schema_is_registered_and_has_a_golden_record_and_a_pinned_fingerprint() {
    let registered: BTreeSet<String> = all_schemas().map(|schema| schema.name.to_owned()).collect();
    assert_eq!(names_in("avro", ".avsc"), registered);
    assert_eq!(names_in("golden", ".avro"), registered);
    let samples = samples().into_iter().map(|(name, _)| name);
    let sampled: BTreeSet<String> =
        samples.chain(facts().into_iter().map(|(name, _)| name)).map(str::to_owned).collect();
    assert_eq!(sampled, registered);
    // A released schema never changes: a change here is a mistake, another version is another file.
    let pinned: Vec<String> = all_schemas()
        .map(|schema| format!("{} {:016x}", schema.name, schema.fingerprint))
        .collect();
    assert_eq!(
        pinned,
        fs::read_to_string(path("fingerprints.txt")).unwrap().lines().collect::<Vec<_>>()
    );
}

#[test]
fn what_is_no_event_is_refused_and_says_why() {
    let good = encode(&samples()[0].1).unwrap();
    let mut unknown = good.clone();
    unknown[5] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(decode(b""), Err(Undecodable::NotSingleObject)));
    assert!(matches!(decode(b"{\"json\": true}"), Err(Undecodable::NotSingleObject)));
    assert!(matches!(decode(&good[..9]), Err(Undecodable::NotSingleObject)));
    assert!(matches!(decode(&good[..good.len() - 1]), Err(Undecodable::Body(_))));
    assert!(matches!(decode(&unknown), Err(Undecodable::UnknownSchema(_))));
    assert!(matches!(decode(&longer), Err(Undecodable::TrailingBytes(1))));
    let with_slash = encode(&command("acme/user/ann", Action::ScopeCreated)).unwrap();
    let at = with_slash.windows(4).position(|four| four == b"acme").unwrap();
    let mut with_slash = with_slash;
    with_slash[at] = b'/';
    assert!(matches!(decode(&with_slash), Err(Undecodable::Field(_))));
}

#[test]
fn a_new_field_with_a_default_reads_old_bytes() {
    // A later version is another file, as messages-pushed.v2 is; its schema resolves the old bytes.
    let (name, event) = samples().swap_remove(1);
    let old = schemas::schemas().iter().find(|schema| schema.name == name).unwrap();
    let mut json: String = old.json.into();
    let end = json.rfind(']').unwrap();
    json.insert_str(end, r#", {"name": "reason", "type": "string", "default": "none"}"#);
    let writer = apache_avro::Schema::parse_str(old.json).unwrap();
    let reader = apache_avro::Schema::parse_str(&json).unwrap();
    apache_avro::schema_compatibility::SchemaCompatibility::can_read(&writer, &reader).unwrap();
    let bytes = encode(&event).unwrap();
    let value = apache_avro::reader::datum::GenericDatumReader::builder(&writer)
        .reader_schema(&reader)
        .build()
        .unwrap()
        .read_value(&mut &bytes[10..])
        .unwrap();
    let apache_avro::types::Value::Record(fields) = value else { panic!("no record") };
    assert!(fields.iter().any(|(name, _)| name == "reason"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_bytes_never_panic(kind in 0usize..12, at in 0usize..400, to: u8, cut in 0usize..400) {
        let mut bytes = encode(&samples()[kind].1).unwrap();
        let length = bytes.len();
        bytes[at % length] = to;
        bytes.truncate(length - cut % length);
        let _ = decode(&bytes);
        let _ = fingerprint(&bytes);
    }

    #[test]
    fn pushes_survive_the_trip(contents in prop::collection::vec("\\PC{1,40}", 0..20), at in 0i64..4_000_000_000_000_000) {
        let changes = (0u32..).zip(&contents).map(|(index, content)| {
            let mut change = write((index % 3 == 0).then_some(index.into()), content, None, None);
            if let Change::Write(write) = &mut change {
                write.updated_at = Some(Timestamp::from_micros(at));
            }
            PushedChange { index, change }
        }).collect();
        let event = command("t/org/t", Action::MessagesPushed { changes, rejected: Vec::new() });
        prop_assert_eq!(decode(&encode(&event).unwrap()).unwrap(), event);
    }
}

#[test]
fn a_key_is_a_scope() {
    assert!("acme/team/x".parse::<ScopeKey>().is_ok());
    assert!("acme/squad/x".parse::<ScopeKey>().is_err());
}
