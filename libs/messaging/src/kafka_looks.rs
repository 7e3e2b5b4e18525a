//! Looks at what is on the brokers, without taking part in anything.
//!
//! # Problem
//! How far a topic and a group are is only known to the brokers, and librdkafka asks them with calls that block.
//!
//! # Pattern
//! A client beside the others that only reads, on the runtime's threads for blocking work, with a time limit on every question.
//!
//! # Here
//! How many partitions a topic has never changes, so it is asked once. What a group committed is asked by a client of that
//! group which never joins it; one is kept per group, since a connection costs more than the question. A client that was not answered
//! is not asked again ([`Looks::discard`]).
//!
//! # Limits
//! The clients of at most [`GROUPS`] groups are kept. A topic that was deleted is noticed when something fails.
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka_cluster::{Cluster, PATIENCE, Voice, lock};
use crate::{BusError, Delivered, Message, Offset, Partition};

/// The clients of at most so many groups are kept.
const GROUPS: usize = 8;
/// The group of those who ask about no group.
const NOBODY: &str = "looking";

type Looker = BaseConsumer<Voice>;

/// Looks, and what they have shown.
pub(crate) struct Looks {
    cluster: Cluster,
    /// By group, as it is called on the brokers.
    lookers: Mutex<BTreeMap<String, Arc<Looker>>>,
    topics: Mutex<BTreeMap<String, Partition>>,
}

impl Looks {
    pub(crate) fn new(cluster: Cluster) -> Looks {
        Looks { cluster, lookers: Mutex::default(), topics: Mutex::default() }
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// MALFORMED if it does not exist.
    pub(crate) async fn partitions(self: &Arc<Self>, topic: &str) -> Result<Partition, BusError> {
        if let Some(partitions) = lock(&self.topics).get(topic) {
            return Ok(*partitions);
        }
        let unknown = || BusError::Malformed(format!("topic {topic} does not exist"));
        self.find(topic).await?.ok_or_else(unknown)
    }

    /// How many partitions a topic has, if it exists.
    pub(crate) async fn find(self: &Arc<Self>, topic: &str) -> Result<Option<Partition>, BusError> {
        self.cluster.check_topic(topic)?;
        let (looks, name) = (self.clone(), topic.to_owned());
        blocking(move || looks.find_now(&name)).await
    }

    /// Asks whether a broker answers.
    pub(crate) async fn answers(self: &Arc<Self>) -> Result<(), BusError> {
        let looks = self.clone();
        blocking(move || looks.metadata(None, "its topics").map(|_| ())).await
    }

    /// What was known of a topic is in doubt: something failed that rests on it.
    pub(crate) fn doubt(&self, topic: &str) {
        lock(&self.topics).remove(topic);
    }

    /// How many messages of a topic a group has not committed.
    pub(crate) async fn lag(self: &Arc<Self>, group: &str, topic: &str) -> Result<u64, BusError> {
        let partitions = self.partitions(topic).await?;
        let (looks, group, name) = (self.clone(), group.to_owned(), topic.to_owned());
        let lag = blocking(move || looks.lag_now(&group, &name, partitions)).await;
        lag.inspect_err(|_| self.doubt(topic))
    }

    /// The last messages of each partition of a topic, at most `most` of each.
    pub(crate) async fn latest(self: &Arc<Self>, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        let partitions = self.partitions(topic).await?;
        let (looks, name) = (self.clone(), topic.to_owned());
        let latest = blocking(move || looks.latest_now(&name, partitions, most)).await;
        latest.inspect_err(|_| self.doubt(topic))
    }

    fn client(&self, group: &str) -> Result<Looker, BusError> {
        let mut settings = self.cluster.settings();
        settings.set("group.id", group).set("enable.auto.commit", "false");
        // Where a topic was cut off at its beginning, what is left is read.
        settings.set("auto.offset.reset", "earliest");
        let failed = |why| self.cluster.unavailable("no client can be made", &why, &Voice::default());
        Looker::from_config_and_context(&settings, Voice::default()).map_err(failed)
    }

    fn looker(&self, group: &str) -> Result<Arc<Looker>, BusError> {
        let group = self.cluster.there(group);
        let mut lookers = lock(&self.lookers);
        let looker = match lookers.get(&group) {
            Some(looker) => looker.clone(),
            None => Arc::new(self.client(&group)?),
        };
        if lookers.len() >= GROUPS && !lookers.contains_key(&group) {
            lookers.pop_first();
        }
        lookers.insert(group, looker.clone());
        drop(lookers);
        hear(&looker);
        Ok(looker)
    }

    /// How many clients are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        lock(&self.lookers).len()
    }

    fn unavailable(&self, looker: &Looker, what: &str, why: &dyn Display) -> BusError {
        hear(looker);
        self.cluster.unavailable(what, &why, looker.context())
    }

    /// Takes a client out of its place.
    ///
    /// Danger: a client may be left without any address, as when it was told of no broker while the only one was fenced, and then
    /// never connects again. No error tells that from a broker which is away.
    fn discard(&self, looker: &Arc<Looker>) {
        let mut lookers = lock(&self.lookers);
        let same = lookers.iter().find(|(_, kept)| Arc::ptr_eq(kept, looker)).map(|(group, _)| group.clone());
        let discarded = same.and_then(|group| lookers.remove(&group));
        drop(lookers);
        // Taking leave of the brokers blocks.
        let _ = std::thread::Builder::new().name("kafka leaves".into()).spawn(move || drop(discarded));
    }

    fn metadata(&self, topic: Option<&str>, what: &str) -> Result<(Arc<Looker>, Metadata), BusError> {
        let looker = self.looker(NOBODY)?;
        let silent = |why| {
            let why = format_args!("{why}; no broker answers there, or only one that expects TLS");
            self.unavailable(&looker, what, &why)
        };
        match looker.fetch_metadata(topic, PATIENCE) {
            Ok(metadata) if !metadata.brokers().is_empty() => Ok((looker, metadata)),
            Ok(_) => {
                self.discard(&looker);
                Err(self.unavailable(&looker, what, &"no broker is ready there"))
            }
            Err(why) => {
                self.discard(&looker);
                Err(silent(why))
            }
        }
    }

    fn find_now(&self, topic: &str) -> Result<Option<Partition>, BusError> {
        let what = format!("topic {topic}");
        let (looker, metadata) = self.metadata(Some(&self.cluster.there(topic)), &what)?;
        let failed = |why: &dyn Display| self.unavailable(&looker, &what, why);
        let Some(found) = metadata.topics().first() else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None if found.partitions().iter().all(|partition| partition.leader() >= 0) => {
                let partitions = found.partitions().len() as Partition;
                lock(&self.topics).insert(topic.to_owned(), partitions);
                Ok(Some(partitions))
            }
            None => Err(failed(&"a partition has no leader")),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(why) => Err(failed(&why)),
        }
    }

    fn lag_now(&self, group: &str, topic: &str, partitions: Partition) -> Result<u64, BusError> {
        let looker = self.looker(group)?;
        let all = self.all(topic, partitions, At::Invalid);
        let failed = |why| {
            self.discard(&looker);
            let what = format!("how far group {group} is in topic {topic}");
            self.unavailable(&looker, &what, &why)
        };
        let committed = looker.committed_offsets(all, PATIENCE).map_err(failed)?;
        let committed = offsets(&committed).map_err(failed)?;
        let ends = self.ends(&looker, topic, partitions).inspect_err(|_| self.discard(&looker))?;
        let left =
            ends.iter().map(|(partition, end)| end.saturating_sub(committed.get(partition).copied().unwrap_or(0)));
        Ok(left.sum())
    }

    /// The end of each partition.
    fn ends(
        &self,
        looker: &Looker,
        topic: &str,
        partitions: Partition,
    ) -> Result<BTreeMap<Partition, Offset>, BusError> {
        // To look up the time "end" asks for all ends in one question.
        let all = self.all(topic, partitions, At::End);
        let failed = |why| self.unavailable(looker, &format!("the ends of topic {topic}"), &why);
        let ends = looker.offsets_for_times(all, PATIENCE).map_err(failed)?;
        offsets(&ends).map_err(failed)
    }

    fn latest_now(&self, topic: &str, partitions: Partition, most: Offset) -> Result<Vec<Delivered>, BusError> {
        // One of its own: it is assigned partitions, and two of these may look at once.
        let looker = self.client(&self.cluster.there(NOBODY))?;
        let failed = |why: &dyn Display| self.unavailable(&looker, &format!("the last of topic {topic}"), why);
        let mut last = TopicPartitionList::new();
        let (there, mut found) = (self.cluster.there(topic), BTreeMap::new());
        let mut ends = self.ends(&looker, topic, partitions)?;
        ends.retain(|_, end| *end > 0);
        for (partition, end) in &ends {
            let at = At::Offset(end.saturating_sub(most) as i64);
            let partition = *partition;
            last.add_partition_offset(&there, partition as i32, at).map_err(|why| failed(&why))?;
        }
        looker.assign(&last).map_err(|why| failed(&why))?;
        let until = Instant::now() + PATIENCE;
        while !ends.is_empty() {
            if Instant::now() > until {
                return Err(failed(&"no answer in time"));
            }
            match looker.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let one = delivered(&self.cluster, &message);
                    // More may have been published meanwhile: then the last are later ones, and these are as good.
                    if ends.get(&one.partition).is_some_and(|end| one.offset + 1 >= *end) {
                        ends.remove(&one.partition);
                    }
                    found.insert((one.partition, one.offset), one);
                }
                Some(Err(why)) => tracing::debug!(topic, %why, "the last messages are waited for"),
                None => {}
            }
        }
        Ok(found.into_values().collect())
    }

    fn all(&self, topic: &str, partitions: Partition, at: At) -> TopicPartitionList {
        let there = self.cluster.there(topic);
        (0..partitions).map(|partition| (there.clone(), partition as i32, at)).collect()
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        // Taking leave of the brokers blocks.
        let lookers = std::mem::take(&mut *lock(&self.lookers));
        let _ = std::thread::Builder::new().name("kafka leaves".into()).spawn(move || drop(lookers));
    }
}

/// Takes in what the client has to say: it would be kept for ever, and an error would not know what is behind it.
fn hear(looker: &Looker) {
    while looker.poll(Duration::from_millis(1)).is_some() {}
}

/// The offsets of a list, where there are any.
fn offsets(list: &TopicPartitionList) -> Result<BTreeMap<Partition, Offset>, rdkafka::error::KafkaError> {
    let mut offsets = BTreeMap::new();
    for one in list.elements() {
        one.error()?;
        if let At::Offset(offset) = one.offset() {
            offsets.insert(one.partition() as Partition, offset as Offset);
        }
    }
    Ok(offsets)
}

/// A message as everybody reads it. What somebody else wrote there may be no text: it comes with what can be read of it, and
/// is found wanting by whoever decodes it.
pub(crate) fn delivered(cluster: &Cluster, message: &BorrowedMessage<'_>) -> Delivered {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message.headers().map(|headers| {
        // Danger: rdkafka panics over a name that is no text.
        let read = || headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_default()
    });
    Delivered {
        topic: cluster.here(message.topic()).to_owned(),
        partition: message.partition() as Partition,
        offset: message.offset() as Offset,
        message: Message {
            key: text(message.key()),
            headers: headers.unwrap_or_default(),
            payload: message.payload().unwrap_or_default().to_vec(),
        },
    }
}

/// Where librdkafka may block.
pub(crate) async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    let broke = |_| BusError::Unavailable("what was asked of Kafka broke off".into());
    tokio::task::spawn_blocking(what).await.map_err(broke)?
}
