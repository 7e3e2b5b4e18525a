//! Facts between services: what one has recorded, told to those who listen.
//!
//! # Problem
//! A service that writes to its database and then to a broker loses the message if it dies in between; one that does it the
//! other way round tells what never happened. And whoever listens gets messages twice, late, or unreadable.
//!
//! # Pattern
//! Transactional outbox with a message relay at the sender; at the receiver, an idempotent consumer.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | [`relay`] | publishes the log of a service |
//! | `unsent.rs` | measures what of it is not published |
//! | [`consumer`] | takes in what others published, once in effect |
//! | [`parked`] | PURE: the messages of one key that could not be taken in |
//! | `blocked.rs`, `blocked_keys.rs` | the index of keys that wait: its rules (PURE), and the store behind them |
//! | [`dead_letters`] | what operators do about them |
//! | [`grpc`] | driving adapter for operators |
//! | [`meters`] | what is measured |
//! | [`envelope`] | a message as everybody reads it: CloudEvents attributes, and the fact as protobuf |
//! | [`memory`] | the bus at its simplest and its worst: it duplicates, delays and reorders on purpose |
//! | [`sqlite`] | the embedded bus, on a file |
//! | `kafka.rs` (feature `infra`) | the bus between processes; its parts are listed there |
//! | `ledger.rs` | topics, groups and who has which partition, for the first two |
//! | `sqlite_file.rs`, `sqlite_writer.rs` | the embedded bus's tables, and the one thread that writes them |
//!
//! [`Bus`] is the port, written from what Kafka promises: topics of partitions, order within a key, groups that share the
//! partitions of a topic, offsets that are acknowledged. What every adapter promises is the contract, as tests.
//!
//! # Limits
//! Delivery is at least once; order holds within a key, and nothing is promised across keys. Messages are kept for ever.

mod blocked;
mod blocked_keys;
pub mod consumer;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_agreement;
#[cfg(test)]
mod contract_groups;
#[cfg(test)]
mod contract_messages;
pub mod dead_letters;
pub mod envelope;
pub mod grpc;
#[cfg(feature = "infra")]
pub mod kafka;
#[cfg(feature = "infra")]
mod kafka_cluster;
#[cfg(feature = "infra")]
mod kafka_looks;
#[cfg(feature = "infra")]
mod kafka_poller;
#[cfg(feature = "infra")]
mod kafka_producer;
#[cfg(feature = "infra")]
mod kafka_subscription;
#[cfg(feature = "infra")]
mod kafka_topics;
mod ledger;
pub mod memory;
pub mod meters;
pub mod parked;
pub mod relay;
pub mod sqlite;
mod sqlite_file;
mod sqlite_writer;
mod unsent;

use std::sync::Arc;

use async_trait::async_trait;
use host::Process;

/// A message as the bus carries it: it is not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What keeps its order: messages with equal keys go to one partition.
    pub key: String,
    /// Attributes, by name. A name has no NUL.
    pub headers: Vec<(String, String)>,
    /// The fact.
    pub payload: Vec<u8>,
}

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;
/// Most headers of a message, and the longest name or value of one, in bytes.
pub const MAX_HEADERS: (usize, usize) = (32, 1_024);
/// Longest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 18;

/// Longest name of a topic or group, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// Most partitions of a topic.
pub const MAX_PARTITIONS: Partition = 1_000;

/// A partition of a topic, from 0.
pub type Partition = u32;
/// The place of a message in its partition, from 0, without holes.
pub type Offset = u64;

/// A message as it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Of which topic.
    pub topic: String,
    /// Of which partition.
    pub partition: Partition,
    /// Its place there.
    pub offset: Offset,
    /// What was published.
    pub message: Message,
}

/// Why the bus did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// It is unknown whether it happened. Try again: a message may then be there twice, never in another order.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// No bus would take it: a bug of the caller.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The partition belongs to another member of the group by now. Whoever has it delivers the message again.
    #[error("{0} was given to another member of the group")]
    Revoked(String),
}

/// A guarantee of the consumer that a laboratory takes away, to show what it is for. No other composition root does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// What was taken in before is not recognized: whatever comes again is taken in again.
    Inbox,
    /// A version that is missing is not waited for.
    Gaps,
}

/// Where a service tells and hears.
#[derive(Clone)]
pub struct Messages {
    /// What carries the messages.
    pub bus: Arc<dyn Bus>,
    /// What is measured about them.
    pub meters: meters::Meters,
    /// What its consumers lack: nothing.
    pub without: Option<Without>,
}

impl Messages {
    /// Over a bus.
    #[must_use]
    pub fn new(process: &Process, bus: Arc<dyn Bus>) -> Messages {
        Messages { bus, meters: meters::Meters::new(process), without: None }
    }
}

/// The port.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Makes a topic with so many partitions, if it does not exist.
    ///
    /// # Errors
    /// MALFORMED if it exists with another number of partitions: keys would move, and their order be lost.
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError>;

    /// Publishes messages in order, and returns when all are kept. If it fails, or its future is dropped, each partition may
    /// keep a prefix of what was to go there, and nothing after it: whoever repeats from any point before the failure keeps the
    /// order of every key.
    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError>;

    /// Joins a group that listens to topics. The partitions are shared among the members of the group that are alive; a
    /// group that is new to a topic begins at its first message.
    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError>;

    /// The last messages of each partition, at most `most` of each, in the order of the partitions and then of the offsets.
    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError>;

    /// How many messages of the topic the group has not acknowledged. What was acknowledged may show in it a moment later.
    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError>;
}

/// A member of a group. Dropping it leaves the group; what it did not acknowledge is delivered to another.
#[async_trait]
pub trait Subscription: Send + 'static {
    /// Waits for messages, and gives up to `limit` of them: of each partition a range without gaps, from the last
    /// acknowledged on, in which every key keeps its order. A batch may also be empty, or hold messages again that were
    /// given before and not acknowledged, in any place.
    ///
    /// Otherwise messages that were given and not acknowledged are not given again to this member while it lives, unless
    /// the partition was taken from it in between: then they are, if it comes back.
    ///
    /// Dropping the future loses nothing.
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError>;

    /// Everything of the partition up to and including `offset` is dealt with, for the whole group. An offset below one that
    /// was acknowledged changes nothing. A crash right after it may forget it: then messages come again, as they may anyway.
    ///
    /// # Errors
    /// REVOKED if the partition is not this member's any more, or was away since it was given the message: nothing is
    /// acknowledged then.
    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError>;
}

impl Message {
    /// Why no bus would take it; the same words in every adapter.
    ///
    /// # Errors
    /// The first limit it breaks, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let (most, longest) = MAX_HEADERS;
        if self.key.is_empty() || self.key.len() > MAX_KEY_BYTES {
            return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes, not {}", self.key.len()));
        }
        if self.headers.len() > most {
            return Err(format!("a message has at most {most} headers, not {}", self.headers.len()));
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, value)| name.len() > longest || value.len() > longest)
        {
            let shown: String = name.chars().take(40).collect();
            return Err(format!("a header's name and value have at most {longest} bytes; {shown} has more"));
        }
        if self.headers.iter().any(|(name, _)| name.contains('\0')) {
            return Err("a header's name has no NUL".to_owned());
        }
        if self.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(format!("a payload has at most {MAX_PAYLOAD_BYTES} bytes, not {}", self.payload.len()));
        }
        Ok(())
    }
}

/// The partition of a key (FNV-1a, 64 bits): the same in every adapter that has no partitioner of its own.
#[must_use]
pub fn partition_of(key: &str, partitions: Partition) -> Partition {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    u32::try_from(hash % u64::from(partitions.max(1))).unwrap_or(0)
}
