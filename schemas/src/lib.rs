//! The Avro contract of the log: what the bytes of a record are.
//!
//! Each kind of event has a schema of its own in `avro/`; a record's value is in Avro's single-object
//! encoding (`C3 01`, the schema's CRC-64-AVRO fingerprint in little-endian order, the body), so that
//! it can be read back without a registry. A schema never changes once it has been released: another
//! version is another file, and old bytes (`golden/`) decode for ever.

mod facts;
mod restores;
pub mod segment;
mod tombstones;
mod wire;

use std::sync::LazyLock;

use apache_avro::{
    Schema, rabin::Rabin, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter,
};
use model::{Action, Command, Event, Fact, InvalidCode, Rejected, RulesVersion};
use serde::{Serialize, de::DeserializeOwned};

pub use wire::InvalidField;

/// The two bytes that begin a single object.
const MARKER: [u8; 2] = [0xC3, 0x01];
/// Marker and fingerprint.
const HEADER_BYTES: usize = 10;
/// No string or list of a record is larger: the log takes no larger record.
const ALLOCATION_BYTES_MAX: usize = 8 << 20;

/// Why bytes are no event. Such a record becomes a dead letter; it blocks nothing.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    #[error("the value does not begin as an Avro single object")]
    NotSingleObject,
    #[error("no known schema has fingerprint {0:016x}")]
    UnknownSchema(u64),
    #[error("the body does not match its schema: {0}")]
    Body(String),
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
    #[error(transparent)]
    Field(#[from] InvalidField),
}

/// The event cannot be written in its schema.
#[derive(Debug, thiserror::Error)]
#[error("the event cannot be encoded: {0}")]
pub struct Unencodable(String);

/// The kinds of event that have a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    MessagesPushed,
    /// A message may also have been refused for a quota.
    MessagesPushedV2,
    ScopeCreated,
    MemberSet,
    MemberRemoved,
    BackupRequested,
    RestoreRequested,
    RestoreChunk,
    RestoreCompleted,
    RestoreFailed,
    TombstonesExpired,
    ScopeErased,
    Tick,
    RulesChanged,
    BackupCompleted,
    BackupFailed,
    BackupVerified,
    BackupExpired,
    DrillCompleted,
    ErasureDone,
}

/// One schema of the contract.
pub struct EventSchema {
    kind: Kind,
    /// The file in `avro/`, without `.avsc`.
    pub name: &'static str,
    /// The schema as it is written there, to be stored beside whatever is encoded with it.
    pub json: &'static str,
    /// CRC-64-AVRO of the schema's canonical form.
    pub fingerprint: u64,
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

macro_rules! event_schema {
    ($kind:expr, $name:literal) => {
        EventSchema::embedded($kind, $name, include_str!(concat!("../avro/", $name, ".avsc")))
    };
}

static SCHEMAS: LazyLock<[EventSchema; 14]> = LazyLock::new(|| {
    apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
    [
        event_schema!(Kind::MessagesPushed, "messages-pushed.v1"),
        event_schema!(Kind::MessagesPushedV2, "messages-pushed.v2"),
        event_schema!(Kind::ScopeCreated, "scope-created.v1"),
        event_schema!(Kind::MemberSet, "member-set.v1"),
        event_schema!(Kind::MemberRemoved, "member-removed.v1"),
        event_schema!(Kind::BackupRequested, "backup-requested.v1"),
        event_schema!(Kind::RestoreRequested, "restore-requested.v1"),
        event_schema!(Kind::RestoreChunk, "restore-chunk.v1"),
        event_schema!(Kind::RestoreCompleted, "restore-completed.v1"),
        event_schema!(Kind::RestoreFailed, "restore-failed.v1"),
        event_schema!(Kind::TombstonesExpired, "tombstones-expired.v1"),
        event_schema!(Kind::ScopeErased, "scope-erased.v1"),
        event_schema!(Kind::Tick, "tick.v1"),
        event_schema!(Kind::RulesChanged, "rules-changed.v1"),
    ]
});

/// Those of the archiver's facts, which stand on a log of their own.
static FACT_SCHEMAS: LazyLock<[EventSchema; 6]> = LazyLock::new(|| {
    [
        event_schema!(Kind::BackupCompleted, "backup-completed.v1"),
        event_schema!(Kind::BackupFailed, "backup-failed.v1"),
        event_schema!(Kind::BackupVerified, "backup-verified.v1"),
        event_schema!(Kind::BackupExpired, "backup-expired.v1"),
        event_schema!(Kind::DrillCompleted, "drill-completed.v1"),
        event_schema!(Kind::ErasureDone, "erasure-done.v1"),
    ]
});

/// Every schema of the archiver's facts.
pub fn fact_schemas() -> &'static [EventSchema] {
    FACT_SCHEMAS.as_slice()
}

/// Every schema of an event that was ever released.
pub fn schemas() -> &'static [EventSchema] {
    SCHEMAS.as_slice()
}

/// Encodes an event as a single object, in a schema of its kind.
pub fn encode(event: &Event) -> Result<Vec<u8>, Unencodable> {
    match event {
        Event::Command(command) => encode_command(command),
        Event::Tick => schema(Kind::Tick).write(&wire::Tick {}),
        Event::RulesChanged { version } => {
            let schemas = schemas().iter().map(|schema| schema.fingerprint as i64).collect();
            let version = i32::try_from(version.0).map_err(|e| Unencodable(e.to_string()))?;
            schema(Kind::RulesChanged).write(&wire::RulesChanged { version, schemas })
        }
    }
}

/// Encodes a command: what ingest appends.
pub fn encode_command(command: &Command) -> Result<Vec<u8>, Unencodable> {
    match &command.action {
        Action::MessagesPushed { changes, rejected } => schema(version_of(rejected))
            .write(&wire::MessagesPushed::new(command, changes, rejected)),
        Action::ScopeCreated => schema(Kind::ScopeCreated).write(&wire::ScopeCreated::new(command)),
        Action::MemberSet { user, role } => {
            schema(Kind::MemberSet).write(&wire::MemberSet::new(command, user, *role))
        }
        Action::MemberRemoved { user } => {
            schema(Kind::MemberRemoved).write(&wire::MemberRemoved::new(command, user))
        }
        Action::BackupRequested { backup } => {
            schema(Kind::BackupRequested).write(&wire::BackupRequested::new(command, *backup))
        }
        Action::RestoreRequested { restore, mode, backup, source } => {
            schema(Kind::RestoreRequested)
                .write(&restores::RestoreRequested::new(command, *restore, *mode, *backup, source))
        }
        Action::RestoreChunk(chunk) => {
            schema(Kind::RestoreChunk).write(&restores::RestoreChunk::new(command, chunk))
        }
        Action::RestoreCompleted { restore, from } => schema(Kind::RestoreCompleted)
            .write(&restores::RestoreCompleted::new(command, *restore, *from)),
        Action::RestoreFailed { restore, from, code, detail } => schema(Kind::RestoreFailed)
            .write(&restores::RestoreFailed::new(command, *restore, *from, *code, detail)),
        Action::TombstonesExpired { up_to } => schema(Kind::TombstonesExpired)
            .write(&tombstones::TombstonesExpired::new(command, *up_to)),
        Action::ScopeErased => schema(Kind::ScopeErased).write(&wire::ScopeErased::new(command)),
    }
}

/// The first version that has the codes of the messages that were refused: builds that know no later one read all
/// pushes but few.
fn version_of(rejected: &[Rejected]) -> Kind {
    match rejected.iter().any(|rejected| rejected.code == InvalidCode::QuotaExceeded) {
        true => Kind::MessagesPushedV2,
        false => Kind::MessagesPushed,
    }
}

/// Decodes a record's value.
pub fn decode(value: &[u8]) -> Result<Event, Undecodable> {
    let (schema, body) = schema_of(schemas(), value)?;
    let command = match schema.kind {
        Kind::MessagesPushed | Kind::MessagesPushedV2 => {
            schema.read::<wire::MessagesPushed>(body)?.into_command()?
        }
        Kind::ScopeCreated => schema.read::<wire::ScopeCreated>(body)?.into_command()?,
        Kind::MemberSet => schema.read::<wire::MemberSet>(body)?.into_command()?,
        Kind::MemberRemoved => schema.read::<wire::MemberRemoved>(body)?.into_command()?,
        Kind::BackupRequested => schema.read::<wire::BackupRequested>(body)?.into_command()?,
        Kind::RestoreRequested => {
            schema.read::<restores::RestoreRequested>(body)?.into_command()?
        }
        Kind::RestoreChunk => schema.read::<restores::RestoreChunk>(body)?.into_command()?,
        Kind::RestoreCompleted => {
            schema.read::<restores::RestoreCompleted>(body)?.into_command()?
        }
        Kind::RestoreFailed => schema.read::<restores::RestoreFailed>(body)?.into_command()?,
        Kind::TombstonesExpired => {
            schema.read::<tombstones::TombstonesExpired>(body)?.into_command()?
        }
        Kind::ScopeErased => schema.read::<wire::ScopeErased>(body)?.into_command()?,
        Kind::Tick => {
            schema.read::<wire::Tick>(body)?;
            return Ok(Event::Tick);
        }
        Kind::RulesChanged => {
            let changed = schema.read::<wire::RulesChanged>(body)?;
            let version =
                u32::try_from(changed.version).map_err(|e| Undecodable::Body(e.to_string()))?;
            return Ok(Event::RulesChanged { version: RulesVersion(version) });
        }
        Kind::BackupCompleted
        | Kind::BackupFailed
        | Kind::BackupVerified
        | Kind::BackupExpired
        | Kind::DrillCompleted
        | Kind::ErasureDone => {
            return Err(Undecodable::UnknownSchema(schema.fingerprint));
        }
    };
    Ok(Event::Command(command))
}

/// Encodes a fact of the archiver.
pub fn encode_fact(fact: &Fact) -> Result<Vec<u8>, Unencodable> {
    match fact {
        Fact::BackupCompleted(backup) => {
            fact_schema(Kind::BackupCompleted).write(&facts::BackupCompleted::new(backup))
        }
        Fact::BackupFailed { about, backup_type, detail } => fact_schema(Kind::BackupFailed)
            .write(&facts::BackupFailed::new(about, *backup_type, detail)),
        Fact::BackupVerified(about) => {
            fact_schema(Kind::BackupVerified).write(&facts::BackupVerified::new(about))
        }
        Fact::BackupExpired(about) => {
            fact_schema(Kind::BackupExpired).write(&facts::BackupExpired::new(about))
        }
        Fact::DrillCompleted(drill) => {
            fact_schema(Kind::DrillCompleted).write(&facts::DrillCompleted::new(drill))
        }
        Fact::ErasureDone(done) => {
            fact_schema(Kind::ErasureDone).write(&facts::ErasureDone::new(done))
        }
    }
}

/// Decodes a record's value of the log of facts.
pub fn decode_fact(value: &[u8]) -> Result<Fact, Undecodable> {
    let (schema, body) = schema_of(fact_schemas(), value)?;
    Ok(match schema.kind {
        Kind::BackupCompleted => {
            Fact::BackupCompleted(schema.read::<facts::BackupCompleted>(body)?.into_record()?)
        }
        Kind::BackupFailed => schema.read::<facts::BackupFailed>(body)?.into_fact()?,
        Kind::BackupVerified => {
            Fact::BackupVerified(schema.read::<facts::BackupVerified>(body)?.into_about()?)
        }
        Kind::BackupExpired => {
            Fact::BackupExpired(schema.read::<facts::BackupExpired>(body)?.into_about()?)
        }
        Kind::DrillCompleted => {
            Fact::DrillCompleted(schema.read::<facts::DrillCompleted>(body)?.into_record()?)
        }
        Kind::ErasureDone => {
            Fact::ErasureDone(schema.read::<facts::ErasureDone>(body)?.into_record()?)
        }
        _ => return Err(Undecodable::UnknownSchema(schema.fingerprint)),
    })
}

fn schema_of<'a>(
    known: &'static [EventSchema],
    value: &'a [u8],
) -> Result<(&'static EventSchema, &'a [u8]), Undecodable> {
    let fingerprint = fingerprint(value).ok_or(Undecodable::NotSingleObject)?;
    let schema = known.iter().find(|schema| schema.fingerprint == fingerprint);
    Ok((schema.ok_or(Undecodable::UnknownSchema(fingerprint))?, &value[HEADER_BYTES..]))
}

/// The fingerprint that a single object names, or `None` if the bytes are none.
pub fn fingerprint(value: &[u8]) -> Option<u64> {
    let rest = value.strip_prefix(&MARKER)?;
    Some(u64::from_le_bytes(*rest.first_chunk()?))
}

/// The fingerprint of a schema as JSON, or `None` if it is none.
pub fn fingerprint_of_schema(json: &str) -> Option<u64> {
    let fingerprint = Schema::parse_str(json).ok()?.fingerprint::<Rabin>();
    Some(u64::from_le_bytes(*fingerprint.bytes.first_chunk()?))
}

fn schema(kind: Kind) -> &'static EventSchema {
    // The list has every kind.
    let found = SCHEMAS.iter().find(|schema| schema.kind == kind);
    found.unwrap_or(&SCHEMAS[0])
}

fn fact_schema(kind: Kind) -> &'static EventSchema {
    let found = FACT_SCHEMAS.iter().find(|schema| schema.kind == kind);
    found.unwrap_or(&FACT_SCHEMAS[0])
}

impl EventSchema {
    /// The schemas are part of the program; a test parses each, so that none of this can fail.
    #[allow(clippy::expect_used)]
    fn embedded(kind: Kind, name: &'static str, json: &'static str) -> Self {
        let schema: &'static Schema =
            Box::leak(Box::new(Schema::parse_str(json).expect("an embedded schema parses")));
        let fingerprint: [u8; 8] =
            schema.fingerprint::<Rabin>().bytes.try_into().expect("CRC-64 has 8 bytes");
        Self {
            kind,
            name,
            json,
            fingerprint: u64::from_le_bytes(fingerprint),
            writer: GenericDatumWriter::builder(schema)
                .human_readable(false)
                .build()
                .expect("an embedded schema resolves"),
            reader: GenericDatumReader::builder(schema)
                .human_readable(false)
                .build()
                .expect("an embedded schema resolves"),
        }
    }

    fn write<T: Serialize>(&self, record: &T) -> Result<Vec<u8>, Unencodable> {
        let mut value = Vec::with_capacity(256);
        value.extend_from_slice(&MARKER);
        value.extend_from_slice(&self.fingerprint.to_le_bytes());
        self.writer.write_ser(&mut value, record).map_err(|e| Unencodable(e.to_string()))?;
        Ok(value)
    }

    fn read<T: DeserializeOwned>(&self, mut body: &[u8]) -> Result<T, Undecodable> {
        let record =
            self.reader.read_deser(&mut body).map_err(|e| Undecodable::Body(e.to_string()))?;
        if body.is_empty() { Ok(record) } else { Err(Undecodable::TrailingBytes(body.len())) }
    }
}
