//! The bus on Kafka, for services that are processes of their own.
//!
//! # Problem
//! Several processes on several machines tell each other facts; any of them, and any broker, may be away at any time.
//!
//! # Pattern
//! A replicated log in partitions, with groups that share them: what the port was written from.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | `kafka_cluster.rs` | where the brokers are, names there, log lines and errors |
//! | `kafka_topics.rs` | makes topics, refuses those that would lose something |
//! | `kafka_producer.rs` | sends, so that a partition only ever receives prefixes |
//! | `kafka_poller.rs`, `kafka_subscription.rs` | a member of a group |
//! | `kafka_looks.rs` | how far topics and groups are |
//!
//! Equal keys go to one partition by murmur2, as Java's clients do it. Calls that block are made on the runtime's threads for
//! blocking work, or on threads of their own.
//!
//! # Limits
//! No transactions: they would make a publish and its mark one step on Kafka, and the mark is in the service's store. Names
//! are letters, digits, dots, `_` and `-`.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::park_timeout;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::kafka_cluster::{Cluster, check_length, lock};
use crate::kafka_looks::Looks;
use crate::kafka_poller::{self, Membership};
use crate::kafka_producer::Publisher;
use crate::kafka_topics::{self, Wanted};
use crate::{Bus, BusError, Delivered, Message, Offset, Partition, Subscription};

/// How long a bus that is dropped waits for its members to leave: those who stay wait for a silent one much longer.
const LEAVE: Duration = Duration::from_secs(2);

/// Where the bus is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The brokers to begin with, as `host:port`, separated by commas.
    pub servers: String,
    /// What all names begin with there, so that several shops can share a cluster; may be empty.
    pub prefix: String,
    /// In how many places a topic is kept. With three, one may be away.
    pub replicas: u16,
}

/// A bus on Kafka.
///
/// Dropping it ends its subscriptions, and waits a moment until their partitions are free for others.
pub struct Kafka {
    cluster: Cluster,
    replicas: u16,
    looks: Arc<Looks>,
    publisher: Publisher,
    members: Mutex<Vec<Membership>>,
}

impl Kafka {
    /// A bus that speaks to the brokers when it is first asked something.
    ///
    /// # Errors
    /// MALFORMED if the settings cannot be meant.
    pub fn new(settings: &Settings) -> Result<Kafka, BusError> {
        let Settings { servers, prefix, replicas } = settings;
        if !(1..=i16::MAX as u16).contains(replicas) {
            return Err(BusError::Malformed(format!("a topic is kept in at least one place, not in {replicas}")));
        }
        let cluster = Cluster::new(servers, prefix)?;
        let (looks, publisher) = (Arc::new(Looks::new(cluster.clone())), Publisher::new(cluster.clone()));
        Ok(Kafka { cluster, replicas: *replicas, looks, publisher, members: Mutex::default() })
    }

    /// Asks whether a broker answers.
    ///
    /// # Errors
    /// UNAVAILABLE, and why it does not.
    pub async fn answers(&self) -> Result<(), BusError> {
        self.looks.answers().await
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let members = std::mem::take(&mut *lock(&self.members));
        members.iter().for_each(Membership::end);
        let until = Instant::now() + LEAVE;
        while !members.iter().all(Membership::is_over) && Instant::now() < until {
            park_timeout(Duration::from_millis(10));
        }
    }
}

#[async_trait]
impl Bus for Kafka {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        let wanted = Wanted { topic: topic.into(), partitions, replicas: self.replicas };
        kafka_topics::create(&self.cluster, &self.looks, wanted).await
    }

    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        self.looks.partitions(topic).await?;
        messages.iter().try_for_each(|message| message.check().map_err(BusError::Malformed))?;
        let published = self.publisher.publish(&self.cluster.there(topic), &messages).await;
        // The topic may have been deleted.
        published.inspect_err(|_| self.looks.doubt(topic))
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        check_length("group", group)?;
        if topics.is_empty() {
            return Err(BusError::Malformed(format!("group {group} is to listen to no topic")));
        }
        for topic in topics {
            self.looks.partitions(topic).await?;
        }
        let topics: BTreeSet<&str> = topics.iter().copied().collect();
        let (member, membership) = kafka_poller::join(&self.cluster, group, &topics)?;
        let mut members = lock(&self.members);
        members.retain(|member| !member.is_over());
        members.push(membership);
        Ok(Box::new(member))
    }

    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        self.looks.latest(topic, most).await
    }

    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        self.looks.lag(group, topic).await
    }
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
