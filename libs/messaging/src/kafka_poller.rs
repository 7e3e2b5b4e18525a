//! Polls for a member of a group on Kafka.
//!
//! # Problem
//! A member that does not poll is thought dead and loses its partitions, however slow its work is; one that polls while it
//! works is handed more than it can hold.
//!
//! # Pattern
//! A thread of its own polls, whatever the member is doing; a partition of which too much waits is paused.
//!
//! # Here
//! The [`Desk`] is what thread and member share, and what librdkafka calls when partitions come and go, from within a poll.
//! What the member acknowledged is handed on between two polls, and before a partition is let go; librdkafka commits it every
//! [`COMMIT_EVERY_MS`] milliseconds, before a partition is handed over and when the member leaves.
//!
//! A client that has lost every address says nothing, as one does to which nothing is published. While nothing comes, a [`Watch`]
//! therefore asks it for its brokers, and ends a member that reaches none: whoever joins again has a new client.
//!
//! # Limits
//! One thread for each member. A member whose process stands still for [`SESSION_MS`] milliseconds is replaced: when it goes on,
//! and until it notices, it may acknowledge what the brokers no longer take from it. Then it is delivered to the other again.
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, park_timeout};
use std::time::Duration;

use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Offset as At, TopicPartitionList};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kafka_cluster::{Cluster, Voice, lock};
use crate::kafka_looks::delivered;
use crate::kafka_subscription::{Assigned, Held, Listening};
use crate::ledger::Place;
use crate::{BusError, Partition};

/// How long a member may be silent, in milliseconds, before its partitions are given to others.
const SESSION_MS: &str = "6000";
/// How often acknowledged offsets are committed, in milliseconds.
const COMMIT_EVERY_MS: &str = "250";
/// How long the thread waits for something to happen.
const TICK: Duration = Duration::from_millis(50);
/// The same while a paused partition waits to go on.
const SHORT_TICK: Duration = Duration::from_millis(5);
/// How long it waits when the brokers are away: librdkafka says so over and over.
const AWAY: Duration = Duration::from_millis(250);
/// How often a client that hears nothing is asked for its brokers, and how long it may take to answer.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(2);
/// So many looks in a row that find no broker end a member.
const FAILURES: u32 = 3;

type Poller = BaseConsumer<Desk>;

/// What thread and member share.
pub(crate) struct Desk {
    cluster: Cluster,
    voice: Voice,
    pub(crate) held: Mutex<Held>,
    pub(crate) changed: Notify,
    pub(crate) leaves: AtomicBool,
}

/// A member as its bus knows it.
pub(crate) struct Membership {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

impl Membership {
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn end(&self) {
        self.desk.leaves.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
    }
}

/// Joins a group that listens to topics which exist.
pub(crate) fn join(
    cluster: &Cluster,
    group: &str,
    topics: &BTreeSet<&str>,
) -> Result<(Listening, Membership), BusError> {
    let mut settings = cluster.settings();
    settings
        .set("group.id", cluster.there(group))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", SESSION_MS)
        .set("max.poll.interval.ms", SESSION_MS)
        // Members learn by it that others came and went.
        .set("heartbeat.interval.ms", "500")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", COMMIT_EVERY_MS)
        .set("enable.auto.offset.store", "false")
        // What is fetched of a partition that is paused then is thrown away, and fetched again.
        .set("fetch.message.max.bytes", "524288")
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.queue.backoff.ms", "20");
    let voice = Voice::default();
    let failed = |why: &dyn Display| cluster.unavailable(&format!("group {group}"), &why, &voice);
    let (held, changed, leaves) = Default::default();
    let desk = Desk { cluster: cluster.clone(), voice: voice.clone(), held, changed, leaves };
    let poller = Poller::from_config_and_context(&settings, desk).map_err(|why| failed(&why))?;
    let there: Vec<String> = topics.iter().map(|topic| cluster.there(topic)).collect();
    let there: Vec<&str> = there.iter().map(String::as_str).collect();
    poller.subscribe(&there).map_err(|why| failed(&why))?;
    let desk = poller.context().clone();
    let (working, watch) = (desk.clone(), Watch::new(there.first().copied().unwrap_or_default().to_owned()));
    let thread = Builder::new().name(format!("kafka {group}")).spawn(move || working.work(poller, watch));
    let thread = thread.map_err(|why| failed(&why))?;
    let listening = Listening { desk: desk.clone(), thread: thread.thread().clone() };
    Ok((listening, Membership { desk, thread }))
}

impl Desk {
    /// Polls until the member leaves, or nothing comes any more.
    fn work(&self, poller: Poller, mut watch: Watch) {
        let _ends = Ends(self);
        let mut paused = false;
        while !self.leaves.load(Ordering::SeqCst) {
            match poller.poll(if paused { SHORT_TICK } else { TICK }) {
                Some(Ok(message)) => {
                    watch.heard();
                    let message = delivered(&self.cluster, &message);
                    if lock(&self.held).take(message) {
                        self.changed.notify_one();
                    }
                }
                Some(Err(why)) if passes(&why) => {
                    tracing::debug!(%why, "nothing is heard for now");
                    park_timeout(AWAY);
                }
                Some(Err(why)) => {
                    let why = self.cluster.unavailable("a member of a group", &why, &self.voice);
                    self.end(why);
                    break;
                }
                None => {}
            }
            if let Some(why) = watch.look(&poller) {
                self.end(self.cluster.unavailable("a member of a group", &why, &self.voice));
                break;
            }
            paused = self.serve(&poller);
        }
        // Danger: before the end, which forgets what was acknowledged. It is handed on when the partitions are let go, in here.
        drop(poller);
    }

    fn end(&self, why: BusError) {
        let mut held = lock(&self.held);
        held.partitions.clear();
        held.ended.get_or_insert(why);
        self.changed.notify_one();
    }

    /// Hands on what was acknowledged, and pauses and resumes by what waits; whether anything is paused.
    fn serve(&self, poller: &Poller) -> bool {
        let mut news = TopicPartitionList::new();
        let (mut full, mut hungry) = (TopicPartitionList::new(), TopicPartitionList::new());
        let mut paused = false;
        for (place, assigned) in &mut lock(&self.held).partitions {
            self.tell(&mut news, place, assigned);
            if !assigned.paused && assigned.is_full() {
                full.add_partition(&self.cluster.there(&place.topic), place.partition as i32);
                assigned.paused = true;
            } else if assigned.paused && assigned.is_half_empty() {
                hungry.add_partition(&self.cluster.there(&place.topic), place.partition as i32);
                assigned.paused = false;
            }
            paused |= assigned.paused;
        }
        // Danger: not under the lock, for these wait for another thread.
        self.hand_on(poller, &news);
        for failed in [poller.pause(&full), poller.resume(&hungry)].into_iter().filter_map(Result::err) {
            tracing::warn!(%failed, "a partition is not paused or resumed");
        }
        paused
    }

    fn tell(&self, news: &mut TopicPartitionList, place: &Place, assigned: &mut Assigned) {
        if let Some(acknowledged) = assigned.news() {
            let (topic, at) = (self.cluster.there(&place.topic), At::Offset(acknowledged as i64));
            // It fails for offsets that Kafka does not have.
            let _ = news.add_partition_offset(&topic, place.partition as i32, at);
        }
    }

    fn hand_on(&self, poller: &Poller, news: &TopicPartitionList) {
        if news.count() > 0
            && let Err(why) = poller.store_offsets(news)
        {
            // The partition was lost: whoever has it now is given the messages again.
            tracing::debug!(%why, "acknowledged offsets are not taken");
        }
    }

    fn place(&self, topic: &str, partition: i32) -> Place {
        Place { topic: self.cluster.here(topic).to_owned(), partition: partition as Partition }
    }

    /// What the member was given of them is not its own any more.
    fn let_go(&self, poller: &Poller, places: &[Place]) {
        let (mut news, mut paused) = (TopicPartitionList::new(), TopicPartitionList::new());
        {
            let held = &mut *lock(&self.held);
            for place in places {
                if let Some(mut assigned) = held.partitions.remove(place) {
                    self.tell(&mut news, place, &mut assigned);
                    if assigned.paused {
                        paused.add_partition(&self.cluster.there(&place.topic), place.partition as i32);
                    }
                }
            }
        }
        self.hand_on(poller, &news);
        // It would still be paused when it comes back.
        let _ = poller.resume(&paused);
    }
}

/// Whether a client still reaches a broker.
struct Watch {
    /// One that exists, as it is called on the brokers.
    topic: String,
    next: Instant,
    failures: u32,
}

impl Watch {
    fn new(topic: String) -> Watch {
        Watch { topic, next: Instant::now() + LOOK_EVERY, failures: 0 }
    }

    /// A message came.
    fn heard(&mut self) {
        (self.next, self.failures) = (Instant::now() + LOOK_EVERY, 0);
    }

    /// Looks, if it is time; why the client is of no use any more.
    fn look(&mut self, poller: &Poller) -> Option<&'static str> {
        if Instant::now() < self.next {
            return None;
        }
        let found = poller.fetch_metadata(Some(&self.topic), LOOK);
        self.next = Instant::now() + LOOK_EVERY;
        match found {
            Ok(metadata) if !metadata.brokers().is_empty() => self.failures = 0,
            // It forgets all addresses over this.
            Ok(_) => return Some("no broker is ready there"),
            Err(_) => self.failures += 1,
        }
        (self.failures >= FAILURES).then_some("its client reaches no broker")
    }
}

/// Ends what a member waits for with the thread, whatever ended that.
struct Ends<'a>(&'a Desk);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end(BusError::Unavailable("the bus is closed".into()));
    }
}

impl ClientContext for Desk {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        self.voice.log(level, kind, line);
    }

    fn error(&self, error: KafkaError, why: &str) {
        self.voice.error(error, why);
    }
}

impl ConsumerContext for Desk {
    fn pre_rebalance(&self, poller: &Poller, rebalance: &Rebalance<'_>) {
        let places = |list: &TopicPartitionList| -> Vec<Place> {
            list.elements().iter().map(|one| self.place(one.topic(), one.partition())).collect()
        };
        match rebalance {
            Rebalance::Assign(list) => {
                let new = places(list).into_iter().map(|place| (place, Assigned::default()));
                lock(&self.held).partitions.extend(new);
            }
            Rebalance::Revoke(list) => self.let_go(poller, &places(list)),
            Rebalance::Error(why) => {
                tracing::warn!(%why, "partitions are given up");
                let all: Vec<Place> = lock(&self.held).partitions.keys().cloned().collect();
                self.let_go(poller, &all);
            }
        }
    }
}

/// Whether an error is over when the brokers are back.
fn passes(why: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let passing = [
        Code::AllBrokersDown,
        Code::BrokerTransportFailure,
        Code::Resolve,
        Code::OperationTimedOut,
        Code::RequestTimedOut,
        Code::NotCoordinator,
        Code::CoordinatorNotAvailable,
        Code::CoordinatorLoadInProgress,
        Code::PollExceeded,
        Code::NodeUpdate,
    ];
    !matches!(why, KafkaError::MessageConsumptionFatal(_))
        && why.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}
