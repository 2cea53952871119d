//! The log, in memory: what is on it is durable.

use bytes::Bytes;
use eventlog::{Record, partition_of};
use model::{Command, Event, LogId, Offset, Partition, Place, Timestamp};

pub const PARTITIONS: u32 = 2;

#[derive(Clone)]
pub struct Log {
    pub id: LogId,
    partitions: Vec<Vec<Record>>,
}

impl Log {
    pub fn new(id: LogId) -> Self {
        Self { id, partitions: vec![Vec::new(); PARTITIONS as usize] }
    }

    pub fn append(&mut self, append_time: Timestamp, command: &Command) -> Place {
        let key = Bytes::from(command.scope.to_string());
        let value = Bytes::from(schemas::encode_command(command).unwrap());
        self.put(append_time, partition_of(&key, PARTITIONS), key, value)
    }

    pub fn tick(&mut self, append_time: Timestamp, partition: Partition) {
        let value = Bytes::from(schemas::encode(&Event::Tick).unwrap());
        self.put(append_time, partition, Bytes::new(), value);
    }

    fn put(
        &mut self,
        append_time: Timestamp,
        partition: Partition,
        key: Bytes,
        value: Bytes,
    ) -> Place {
        let records = &mut self.partitions[partition.get() as usize];
        let offset = Offset::new(records.len() as u64).unwrap();
        records.push(Record { partition, offset, append_time, key, value });
        Place { partition, offset }
    }

    /// Takes off what was appended last, as a log does that was not as durable as it said.
    pub fn lose_last(&mut self, partition: Partition) {
        self.partitions[partition.get() as usize].pop();
    }

    pub fn end(&self, partition: Partition) -> Offset {
        Offset::new(self.partitions[partition.get() as usize].len() as u64).unwrap()
    }

    pub fn from(&self, partition: Partition, offset: Offset) -> &[Record] {
        self.partitions[partition.get() as usize].get(offset.get() as usize..).unwrap_or_default()
    }
}

pub fn partitions() -> impl Iterator<Item = Partition> {
    (0..PARTITIONS).map(Partition::new)
}

/// The partition of a scope.
pub fn home(scope: &model::ScopeKey) -> Partition {
    partition_of(scope.to_string().as_bytes(), PARTITIONS)
}
