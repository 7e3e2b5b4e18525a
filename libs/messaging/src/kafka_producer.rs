//! Sends messages so that a partition only ever receives prefixes of what was to be sent.
//!
//! # Problem
//! A producer that gives up on a message in the middle of its queue and sends the rest makes a hole; one that is left alone
//! after its caller gave up sends what it still has behind what was sent meanwhile.
//!
//! # Pattern
//! Idempotent producer, without a time limit for single messages, that is destroyed whenever anything went wrong.
//!
//! # Here
//! librdkafka numbers what it sends to each partition, and the broker refuses what does not follow; it repeats what was not
//! acknowledged, in order, for as long as it lives. How long that is, [`Publisher::publish`] says: when its time is over, a
//! message was refused, or its caller went away, the producer is taken out of its place with all that it has not sent. The next
//! publish begins with a new one. What the old one has on the way may arrive behind what the new one sends: again a prefix,
//! of messages that are repeated anyway.
//!
//! # Limits
//! One failure fails all that is being published through this bus at that time. About [`QUEUED`] kilobytes wait at most; a
//! publish that finds no room waits for it.
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer, PurgeConfig};
use tokio::time::{Instant, sleep, timeout_at};

use crate::kafka_cluster::{Cluster, Voice, lock};
use crate::{BusError, Message};

/// How long a publish may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// How much waits to be sent at most, in kilobytes.
const QUEUED: &str = "262144";
/// How long is waited for room.
const FOR_ROOM: Duration = Duration::from_millis(10);

pub(crate) struct Publisher {
    cluster: Cluster,
    voice: Voice,
    slot: Mutex<Slot>,
}

/// The producer of now, and how many there were.
#[derive(Default)]
struct Slot {
    producer: Option<FutureProducer<Voice>>,
    number: u64,
}

/// Messages under way by one producer. Dropped before all of them are acknowledged, it gives the producer up.
struct Sending<'a> {
    publisher: &'a Publisher,
    number: u64,
    done: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.publisher.give_up(self.number);
        }
    }
}

impl Publisher {
    pub(crate) fn new(cluster: Cluster) -> Publisher {
        Publisher { cluster, voice: Voice::default(), slot: Mutex::default() }
    }

    fn producer(&self) -> Result<FutureProducer<Voice>, KafkaError> {
        let mut settings = self.cluster.settings();
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What is refused for good stops everything behind it.
            .set("enable.gapless.guarantee", "true")
            // Danger: with a limit librdkafka drops the middle of a queue and sends the rest.
            .set("message.timeout.ms", "0")
            // As Java's clients do it, so that other programs find the same partition. Changing it moves keys.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "2")
            .set("queue.buffering.max.kbytes", QUEUED);
        FutureProducer::from_config_and_context(&settings, self.voice.clone())
    }

    /// Sends messages to a topic that exists, and returns when all are kept.
    pub(crate) async fn publish(&self, topic: &str, messages: &[Message]) -> Result<(), BusError> {
        let until = Instant::now() + LIMIT;
        let mut sent = 0;
        while sent < messages.len() {
            let (mut sending, waiting) = self.enqueue(topic, &messages[sent..])?;
            let count = waiting.len();
            let acknowledged = async {
                for one in waiting {
                    match one.await {
                        Ok(Ok(_)) => {}
                        Ok(Err((why, _))) => return Err(why.to_string()),
                        Err(_) => return Err("another publish failed".to_owned()),
                    }
                }
                Ok(())
            };
            let outcome = timeout_at(until, acknowledged).await;
            if let Err(why) = outcome.unwrap_or_else(|_| Err(format!("not acknowledged within {LIMIT:?}"))) {
                return Err(self.unavailable(topic, &why));
            }
            sending.done = true;
            sent += count;
            if count == 0 {
                if Instant::now() > until {
                    return Err(self.unavailable(topic, &"too much is waiting to be sent"));
                }
                sleep(FOR_ROOM).await;
            }
        }
        Ok(())
    }

    /// Hands over as many messages as there is room for.
    ///
    /// Danger: all of it under the lock. What is handed to a producer that was given up in the middle would be sent without
    /// what stood before it.
    fn enqueue(&self, topic: &str, messages: &[Message]) -> Result<(Sending<'_>, Vec<DeliveryFuture>), BusError> {
        let mut slot = lock(&self.slot);
        if slot.producer.is_none() {
            let failed = |why| self.cluster.unavailable("no producer can be made", &why, &self.voice);
            slot.producer = Some(self.producer().map_err(failed)?);
            slot.number += 1;
        }
        let number = slot.number;
        let mut waiting = Vec::with_capacity(messages.len());
        let mut refused = None;
        for message in messages {
            let Some(producer) = &slot.producer else { break };
            match producer.send_result(record(topic, message)) {
                Ok(future) => waiting.push(future),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                Err((why, _)) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        drop(slot);
        let sending = Sending { publisher: self, number, done: false };
        match refused {
            None => Ok((sending, waiting)),
            Some(why) => Err(self.unavailable(topic, &why)),
        }
    }

    /// Takes the producer out of its place, with all that it has not sent.
    fn give_up(&self, number: u64) {
        let mut slot = lock(&self.slot);
        if slot.number != number {
            return;
        }
        let Some(producer) = slot.producer.take() else { return };
        producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
        // It waits for its threads, which takes a while.
        let _ = std::thread::Builder::new().name("kafka gives up".into()).spawn(move || drop(producer));
    }

    fn unavailable(&self, topic: &str, why: &impl std::fmt::Display) -> BusError {
        self.cluster.unavailable(&format!("topic {}", self.cluster.here(topic)), why, &self.voice)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let number = lock(&self.slot).number;
        self.give_up(number);
    }
}

fn record<'a>(topic: &'a str, message: &'a Message) -> FutureRecord<'a, str, [u8]> {
    let headers =
        message.headers.iter().fold(OwnedHeaders::new_with_capacity(message.headers.len()), |all, (name, value)| {
            all.insert(Header { key: name, value: Some(value.as_bytes()) })
        });
    FutureRecord::to(topic).key(message.key.as_str()).payload(message.payload.as_slice()).headers(headers)
}
