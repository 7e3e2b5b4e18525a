//! Takes in what other services have told.
//!
//! # Problem
//! Messages come more than once, and sometimes cannot be taken in at all. A consumer that remembers what it saw for a week
//! does everything again in the eighth day; one that acknowledges what it failed at loses it; one that waits for it holds
//! up everybody.
//!
//! # Pattern
//! Idempotent consumer, with dead letters that block their own key and nothing else.
//!
//! # Here
//! A mark says for each stream which version is in effect. One rule follows from it: up to the mark is a duplicate, the mark
//! plus one is next, anything beyond must wait. A [`Handler`] commits what the next one changes together with the move of the
//! mark ([`Receipt`]): killed anywhere, it is in effect once. What cannot be read, breaks a rule, or failed [`TRIES`] times
//! is parked ([`crate::parked`]); the mark stays, so what follows in its stream is beyond the mark, and is parked behind it.
//! Only what is in effect or parked is acknowledged. While the service's own store is unavailable nothing is parked and
//! nothing skipped: it waits. So it does where the store holds what it cannot read, which the process's health says until that very
//! key is repaired: it is not over by waiting. A message that is too large to be kept is parked as where it stands.
//!
//! Facts that do not matter here only move the mark: with the next that does, or many streams' at once.
//!
//! # Limits
//! A mark is kept for each stream for ever. One batch at a time: a handler that hangs holds up its batch for at most
//! [`TRIES`] times [`LIMIT`], and a key of which the store cannot be read holds it up until that is repaired: the other messages of
//! the batch are taken in, and then this replica takes in nothing more, of whatever key and topic. The parked messages of some keys
//! are held in memory.
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use host::Process;
use host::error::{Again, Refusal};
use lab::Point;
use prost::Message;
use store::folded::{self, Folded, persist, unreadable};
use store::{Append, Commit, CommitError, MarkMove, Meta, ReadError, Store, StreamId, Version};
use telemetry::trace::trace_id;
use telemetry::trouble::Trouble;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tracing::Instrument;

use crate::blocked::Blocked;
use crate::envelope::{Envelope, TRACEPARENT};
use crate::meters::Meters;
use crate::parked::{Command, Parked, Reason, Waiting, short, shortened};
use crate::{Bus, BusError, Delivered, Messages, Offset, Partition, Subscription, Without};

/// How often a handler that fails is tried before the message is parked.
pub const TRIES: u32 = 5;
/// How long one try may take.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Which version of a fact's form is read.
const SCHEMA: u16 = 1;
/// At most so many messages are taken in at once, of at most so many streams side by side.
const BATCH: usize = 256;
const AT_ONCE: usize = 64;
/// How long is waited after the first failure; doubled up to [`SLOWEST`].
const PAUSE: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(2);
/// So many failures, some ten seconds, are no news if a topic does not exist: the service that makes it may be starting too.
const WITHOUT_TOPIC: u32 = 9;
/// How long is waited where a person has to do something.
const AFTER_CORRUPT: Duration = Duration::from_secs(5);
/// So many characters of a key are said in a log line.
const QUOTED: usize = 100;
/// How often it is measured how far behind the consumer is.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Who has been a member for so long, of a bus that answers, hears what there is.
const SETTLED: Duration = Duration::from_secs(5);
/// So many messages are parked in one commit, or fewer where they are large.
const PARK: (usize, usize) = (500, 4 << 20);
/// The parked messages of at most so many keys are held in memory.
const BLOCKED: usize = 16;

/// What a fact means to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It is handled.
    Wanted,
    /// It changes nothing here.
    Passed,
    /// This program does not know it. It is parked: it may matter.
    Unknown,
}

impl Interest {
    /// By the kinds that are wanted and those that are known.
    #[must_use]
    pub fn of(kind: &str, wanted: &[&str], known: &[&str]) -> Interest {
        match kind {
            _ if wanted.contains(&kind) => Interest::Wanted,
            _ if known.contains(&kind) => Interest::Passed,
            _ => Interest::Unknown,
        }
    }
}

/// Why a fact was not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The service's own store is away. It is tried again until it is back.
    Unavailable(String),
    /// It breaks a rule: the same again is refused again. It is parked at once.
    Refused(String),
    /// It went wrong. It is parked after [`TRIES`] tries.
    Failed(String),
}

/// What a service does about facts.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What a fact of this kind, the full name of its message, means here.
    fn interest(&self, kind: &str) -> Interest;

    /// Brings a fact into effect: commits what it changes in [`Receipt::commit`], or that alone if it changes nothing.
    /// It may be dropped at any moment and called again.
    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure>;
}

/// The fact that an envelope carries.
///
/// # Errors
/// [`Failure::Refused`] if its payload is no such message.
pub fn read<M: Message + Default>(fact: &Envelope) -> Result<M, Failure> {
    M::decode(fact.payload.as_slice()).map_err(|why| Failure::Refused(format!("it is no {}: {why}", fact.kind)))
}

/// The right to take in one fact, once.
#[derive(Clone, Debug)]
pub struct Receipt(Commit);

impl Receipt {
    /// The commit to put the effect into. It moves the mark, under an id that only this fact has.
    #[must_use]
    pub fn commit(&self) -> Commit {
        self.0.clone()
    }
}

/// A consumer: a group that listens to topics for one service. Clones are the same.
#[derive(Clone)]
pub struct Consumer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    pub(crate) group: &'static str,
    topics: &'static [&'static str],
    handler: Arc<dyn Handler>,
    meters: Meters,
    without: Option<Without>,
    /// Since when it is a member of its group.
    joined: Mutex<Option<Instant>>,
    /// One for all keys, which are in it together.
    store_trouble: Mutex<Trouble>,
    /// Why the store cannot be read, for each key that waits for its repair.
    corrupt: Mutex<BTreeMap<Key, String>>,
    /// Parked messages as they last were: a poisoned stream that many messages follow is not read anew for each batch.
    blocked: Mutex<BTreeMap<StreamId, Folded<Parked>>>,
    /// Which keys wait, as it was last read.
    pub(crate) index: tokio::sync::Mutex<Folded<Blocked>>,
}

/// The messages of one stream, as one consumer names what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) topic: String,
    pub(crate) key: String,
}

/// Why taking in has to begin again.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// Somebody else moved what it rests on.
    Moved,
    /// The store is away.
    Unavailable(String),
    /// The store holds what this program cannot read: a person has to act.
    Corrupt(String),
}

impl From<ReadError> for Interrupted {
    fn from(error: ReadError) -> Interrupted {
        match error {
            ReadError::Unavailable(_) => Interrupted::Unavailable(error.to_string()),
            ReadError::Corrupt(why) => Interrupted::Corrupt(why),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Unavailable(why) => Failure::Unavailable(why),
            ReadError::Corrupt(why) => Failure::Failed(why),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match (refusal.code, refusal.again()) {
            (Code::Internal | Code::DataLoss | Code::Unknown, _) => Failure::Failed(refusal.message),
            (_, Again::SameId) => Failure::Unavailable(refusal.message),
            (_, Again::No) => Failure::Refused(refusal.message),
        }
    }
}

impl Consumer {
    /// A consumer for the service that owns `store`. Its group is named as the service is; it waits until the topics exist.
    #[must_use]
    pub fn new(
        process: &Process,
        store: Arc<dyn Store>,
        messages: &Messages,
        (group, topics): (&'static str, &'static [&'static str]),
        handler: Arc<dyn Handler>,
    ) -> Consumer {
        let (process, Messages { bus, meters, without }) = (process.clone(), messages.clone());
        let (joined, store_trouble, corrupt, blocked, index) = Default::default();
        Consumer(Arc::new(Inner {
            process,
            store,
            bus,
            group,
            topics,
            handler,
            meters,
            without,
            joined,
            store_trouble,
            corrupt,
            blocked,
            index,
        }))
    }

    /// Listens until the process stops.
    pub fn listen(&self) {
        let consumer = self.clone();
        self.0.process.tasks.spawn_until_stop(async move { consumer.run().await });
        let inner = self.0.clone();
        let part = self.part();
        self.0.process.tasks.spawn_until_stop(async move {
            loop {
                let mut answered = true;
                for topic in inner.topics {
                    let lag = inner.bus.lag(inner.group, topic).await;
                    answered &= lag.is_ok();
                    // The last figure would say that all is well.
                    let lag = lag.map_or(f64::NAN, |lag| lag as f64);
                    inner.meters.behind.with_label_values(&[inner.group, topic]).set(lag);
                }
                // Where the bus does not answer, what is the matter stays said: joining a group is no proof that it is heard. Nor is an
                // answer, which says nothing of this member: both together are, where there may be nothing to hear.
                let joined = *lock(&inner.joined);
                if answered && joined.is_some_and(|joined| joined.elapsed() >= SETTLED) {
                    inner.process.health.ready(&part);
                }
                sleep(MEASURE_EVERY).await;
            }
        });
    }

    /// Under which name it says whether it hears anything.
    fn part(&self) -> String {
        format!("{} consumer", self.0.group)
    }

    async fn run(&self) {
        let (mut failures, mut trouble) = (0, Trouble::default());
        loop {
            let heard = async {
                let mut member = self.0.bus.subscribe(self.0.group, self.0.topics).await?;
                *lock(&self.0.joined) = Some(Instant::now());
                if trouble.is_over() {
                    tracing::info!(consumer = self.0.group, "the consumer listens again");
                }
                loop {
                    self.step(member.as_mut()).await?;
                    failures = 0;
                    self.0.process.health.ready(&self.part());
                }
            };
            let Err::<std::convert::Infallible, BusError>(why) = heard.await;
            *lock(&self.0.joined) = None;
            let expected = if let BusError::Malformed(_) = why { WITHOUT_TOPIC } else { 2 };
            if failures > expected {
                self.0.process.health.degraded(&self.part(), why.to_string());
            }
            if failures > expected && trouble.is_news(&why.to_string()) {
                tracing::warn!(consumer = self.0.group, %why, "nothing is heard; the consumer joins again");
            }
            sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// Takes in one batch and acknowledges it; how many messages it had.
    ///
    /// # Errors
    /// If the bus gave or took nothing; what was taken in comes again then, and is a duplicate.
    pub async fn step(&self, member: &mut dyn Subscription) -> Result<usize, BusError> {
        let batch = member.next(BATCH).await?;
        let count = batch.len();
        let mut ends: BTreeMap<(String, Partition), Offset> = BTreeMap::new();
        let mut keys: BTreeMap<Key, Vec<Delivered>> = BTreeMap::new();
        for delivered in batch {
            let end = ends.entry((delivered.topic.clone(), delivered.partition)).or_default();
            *end = delivered.offset.max(*end);
            let key = Key { topic: delivered.topic.clone(), key: delivered.message.key.clone() };
            keys.entry(key).or_default().push(delivered);
        }
        let keys: Arc<[(Key, Vec<Delivered>)]> = keys.into_iter().collect();
        loop {
            let work = (0..keys.len()).map(|n| {
                let (consumer, keys) = (self.clone(), keys.clone());
                async move { consumer.insist(&keys[n].0, &keys[n].1).await }
            });
            let moves: Vec<_> =
                futures::stream::iter(work).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
            if self.pass(moves).await {
                break;
            }
        }
        lab::reached(Point::TakenIn);
        for ((topic, partition), offset) in ends {
            match member.acknowledge(&topic, partition, offset).await {
                // Whoever has the partition now is given the messages again, and finds them familiar.
                Ok(()) | Err(BusError::Revoked(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(count)
    }

    fn store_trouble(&self) -> MutexGuard<'_, Trouble> {
        lock(&self.0.store_trouble)
    }

    /// Takes in messages of one key, however long the store is away.
    async fn insist(&self, key: &Key, messages: &[Delivered]) -> Option<MarkMove> {
        let mut failures = 0;
        loop {
            match self.take_in(key, messages).await {
                Ok(passed) => {
                    self.say_over(key);
                    return passed;
                }
                Err(Interrupted::Corrupt(why)) => {
                    self.say_corrupt(key, &why);
                    sleep(AFTER_CORRUPT).await;
                }
                Err(Interrupted::Moved) => {}
                Err(Interrupted::Unavailable(why)) => {
                    if self.store_trouble().is_news(&why) {
                        tracing::warn!(consumer = self.0.group, why, "the store is away; messages wait");
                    }
                    sleep(pause(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Says that the store was read and written for this key; that says nothing of what is corrupt for others.
    fn say_over(&self, key: &Key) {
        if self.store_trouble().is_over() {
            tracing::info!(consumer = self.0.group, "the store is back; messages are taken in");
        }
        let mut corrupt = self.corrupt();
        if corrupt.remove(key).is_some() {
            let Key { topic, key } = key;
            let key = shortened(key, QUOTED);
            tracing::info!(consumer = self.0.group, topic, key, "what could not be read is repaired");
            self.report_corrupt(&corrupt);
        }
    }

    /// Says that the store cannot be read for this key, once while that lasts.
    fn say_corrupt(&self, key: &Key, why: &str) {
        let mut corrupt = self.corrupt();
        if corrupt.insert(key.clone(), why.to_owned()).as_deref() != Some(why) {
            let Key { topic, key } = key;
            let key = shortened(key, QUOTED);
            tracing::error!(
                consumer = self.0.group,
                topic,
                key,
                why,
                "the store cannot be read; until it is repaired this replica takes in no further messages"
            );
            self.report_corrupt(&corrupt);
        }
    }

    fn report_corrupt(&self, corrupt: &BTreeMap<Key, String>) {
        let health = &self.0.process.health;
        let Some((Key { topic, key }, why)) = corrupt.first_key_value() else { return health.ready(&self.inbox()) };
        let (key, others) = (shortened(key, QUOTED), corrupt.len() - 1);
        let others = if others == 0 { String::new() } else { format!(", and {others} more") };
        let why =
            format!("no further messages are taken in until the store is repaired for {key} of {topic}{others}: {why}");
        health.degraded(&self.inbox(), why);
    }

    fn corrupt(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        lock(&self.0.corrupt)
    }

    /// Under which name it says whether the store takes in what it hears.
    fn inbox(&self) -> String {
        format!("{} inbox", self.0.group)
    }

    /// Takes in messages of one key. Gives the move of the mark over what was only passed by at the end.
    async fn take_in(&self, key: &Key, messages: &[Delivered]) -> Result<Option<MarkMove>, Interrupted> {
        let name = self.mark_name(key);
        // In effect; and that together with what was passed by since.
        let mut mark = self.0.store.mark(&name).await?;
        let mut reached = mark;
        let mut parking = vec![];
        for delivered in messages {
            let park = |version, why| Waiting::new(delivered, version, why, self.0.process.clock.now());
            let fact = match Envelope::decode(&delivered.message) {
                Ok(fact) => fact,
                Err(why) => {
                    parking.push(park(None, (Reason::Undecodable, why)));
                    continue;
                }
            };
            if fact.version <= reached {
                if self.0.without == Some(Without::Inbox) {
                    self.take_in_again(&fact).await?;
                }
                self.count("duplicate", 1);
                continue;
            }
            if fact.version > reached + 1 && self.0.without != Some(Without::Gaps) {
                let why = format!("version {} is awaited, and this is {}", reached + 1, fact.version);
                parking.push(park(Some(fact.version), (Reason::Gap, why)));
                continue;
            }
            match self.judge(&fact) {
                Ok(Interest::Passed) => reached = fact.version,
                Ok(_) => {
                    let receipt = self.receipt(key, &fact, mark, vec![]);
                    match self.handle(&fact, &receipt).await? {
                        Ok(()) => {
                            (mark, reached) = (fact.version, fact.version);
                            self.count("taken_in", 1);
                            // It had failed before, and came again in the same batch: what was put aside is judged anew.
                            if !parking.is_empty() {
                                return Err(Interrupted::Moved);
                            }
                        }
                        Err(why) => parking.push(park(Some(fact.version), why)),
                    }
                }
                Err(why) => parking.push(park(Some(fact.version), why)),
            }
        }
        if !parking.is_empty() {
            self.park(key, mark, parking).await?;
        }
        Ok((reached > mark).then_some(MarkMove { name, from: mark, to: reached }))
    }

    /// What comes again without an inbox to tell: it is in effect again.
    async fn take_in_again(&self, fact: &Envelope) -> Result<(), Interrupted> {
        if self.judge(fact) == Ok(Interest::Wanted) {
            let fresh = Commit::new(self.0.process.ids.next().to_string().into(), Meta::default());
            // Whatever is wrong with it was dealt with when it came first.
            let _ = self.handle(fact, &Receipt(fresh)).await?;
        }
        Ok(())
    }

    /// What is to be done with a fact that is next, or why it is to be parked.
    pub(crate) fn judge(&self, fact: &Envelope) -> Result<Interest, (Reason, String)> {
        if fact.is_private() {
            return Ok(Interest::Passed);
        }
        match self.0.handler.interest(&fact.kind) {
            Interest::Unknown => Err((Reason::UnknownType, format!("this program knows no fact {}", fact.kind))),
            Interest::Wanted if fact.schema != SCHEMA => {
                let why = format!("its schema is {}; this program reads {SCHEMA}", fact.schema);
                Err((Reason::UnknownSchema, why))
            }
            interest => Ok(interest),
        }
    }

    /// The right to take in a fact when everything before it, from `mark` on, was passed by.
    pub(crate) fn receipt(&self, key: &Key, fact: &Envelope, mark: Version, beside: Vec<Append>) -> Receipt {
        let group = self.0.group;
        let meta = Meta {
            correlation_id: fact.correlation_id.clone(),
            causation_id: fact.id.to_string(),
            actor: format!("service:{group}"),
            traceparent: fact.traceparent.clone(),
        };
        let marks = vec![MarkMove { name: self.mark_name(key), from: mark, to: fact.version }];
        let id = format!("{group}/{}", fact.id).into();
        Receipt(Commit { appends: beside, marks, ..Commit::new(id, meta) })
    }

    /// Tries a fact until it is in effect or there is a reason to park it.
    pub(crate) async fn handle(
        &self,
        fact: &Envelope,
        receipt: &Receipt,
    ) -> Result<Result<(), (Reason, String)>, Interrupted> {
        let Envelope { stream, version, kind, traceparent, .. } = fact;
        let trace_id = trace_id(traceparent);
        let span =
            tracing::info_span!(parent: None, "message", trace_id, consumer = self.0.group, stream, version, kind);
        let mut tries = 0;
        loop {
            let tried = AssertUnwindSafe(self.0.handler.handle(fact, receipt)).catch_unwind();
            let failed = match timeout(LIMIT, tried.instrument(span.clone())).await {
                Ok(Ok(Ok(()))) => return Ok(Ok(())),
                Ok(Ok(Err(Failure::Unavailable(why)))) => return Err(Interrupted::Unavailable(why)),
                Ok(Ok(Err(Failure::Refused(why)))) => return Ok(Err((Reason::Refused, why))),
                Ok(Ok(Err(Failure::Failed(why)))) => why,
                Ok(Err(_)) => "its handler broke".to_owned(),
                // Danger: it may have committed. Tried again, or parked, it is found in effect by the mark.
                Err(_) => format!("its handler came to no end within {LIMIT:?}"),
            };
            tries += 1;
            tracing::error!(parent: &span, tries, why = failed, "a message cannot be taken in");
            if tries == TRIES {
                return Ok(Err((Reason::Failed, failed)));
            }
            sleep(pause(tries)).await;
        }
    }

    /// Keeps what could not be taken in, if the mark is still where that was judged.
    async fn park(&self, key: &Key, mark: Version, mut parking: Vec<Waiting>) -> Result<(), Interrupted> {
        // Danger: in this order. A redrive between the two reads changes the version that the commit below expects.
        let (stream, mut parked) = self.parked(key).await?;
        if self.0.store.mark(&self.mark_name(key)).await? != mark {
            return Err(Interrupted::Moved);
        }
        let mut after_another = false;
        for waiting in &mut parking {
            let behind = |version| after_another || parked.state.stands_before(mark, version);
            if waiting.reason == Reason::Gap && waiting.place.version.is_some_and(behind) {
                waiting.reason = Reason::Behind;
            }
            after_another = true;
        }
        while !parking.is_empty() {
            let mut bytes = 0;
            let fits = |waiting: &&Waiting| {
                bytes += waiting.weight();
                bytes <= PARK.1
            };
            let chunk = parking.iter().take(PARK.0).take_while(fits).count().max(1);
            let now: Vec<_> = parking.drain(..chunk).collect();
            let events = parked.state.decide_park(now);
            let mut appends = vec![folded::append(&stream, parked.version, &events, &self.0.process.ids)];
            appends.extend(self.now_blocked(&stream, &parked.state));
            let id = self.0.process.ids.next().to_string();
            if !events.is_empty() {
                self.commit(Commit { appends, ..Commit::new(id.into(), self.meta(key)) }).await?;
            }
            for event in &events {
                self.report(key, event);
            }
            parked = parked.then(&events);
        }
        let mut blocked = self.blocked();
        if blocked.len() >= BLOCKED {
            blocked.clear();
        }
        blocked.insert(stream, parked);
        Ok(())
    }

    /// Commits what rests on a parked stream or a mark that somebody else may move.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<(), Interrupted> {
        match persist(self.0.store.as_ref(), commit).await {
            // The id is fresh, or that of a fact: handled before is what was to be reached.
            Ok(()) | Err(CommitError::AlreadyHandled(_)) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(Interrupted::Moved),
            Err(other) => Err(unreadable(other).into()),
        }
    }

    /// Moves marks over what was only passed by, all in one commit if nobody else moved one; whether that went through.
    async fn pass(&self, moves: Vec<MarkMove>) -> bool {
        let fresh = |marks| {
            let id = self.0.process.ids.next().to_string();
            Commit { marks, ..Commit::new(id.into(), Meta::default()) }
        };
        if moves.is_empty() {
            return true;
        }
        let count = moves.len();
        let whole = persist(self.0.store.as_ref(), fresh(moves.clone())).await;
        if whole.is_ok() {
            self.count("passed", count);
            return true;
        }
        if let Err(CommitError::Unavailable(why)) = &whole {
            if self.store_trouble().is_news(why) {
                tracing::warn!(consumer = self.0.group, why, "the store is away; messages wait");
            }
            sleep(PAUSE).await;
        }
        for one in moves {
            // What did not go through is judged anew.
            let _ = persist(self.0.store.as_ref(), fresh(vec![one])).await;
        }
        false
    }

    fn report(&self, key: &Key, event: &crate::parked::Event) {
        let crate::parked::Event::MessageParked { waiting } = event else { return };
        self.count(waiting.reason.word(), 1);
        let (topic, key) = (&key.topic, shortened(&key.key, QUOTED));
        let (consumer, why) = (self.0.group, &waiting.message);
        let traceparent = waiting.headers.iter().find(|(name, _)| name == TRACEPARENT);
        let trace_id = traceparent.map_or("", |(_, traceparent)| trace_id(traceparent));
        if waiting.reason == Reason::Behind {
            tracing::info!(
                consumer,
                topic,
                key,
                version = waiting.place.version,
                trace_id,
                "a message waits behind a parked one"
            );
        } else {
            let reason = waiting.reason.word();
            tracing::error!(
                consumer,
                topic,
                key,
                version = waiting.place.version,
                reason,
                why,
                trace_id,
                "a message is parked"
            );
        }
    }

    pub(crate) fn count(&self, outcome: &str, count: usize) {
        self.0.meters.messages.with_label_values(&[self.0.group, outcome]).inc_by(count as f64);
    }

    pub(crate) fn meta(&self, key: &Key) -> Meta {
        Meta { correlation_id: short(&key.key), actor: format!("service:{}", self.0.group), ..Meta::default() }
    }

    /// What is parked of a key, and the stream that holds it.
    pub(crate) async fn parked(&self, key: &Key) -> Result<(StreamId, Folded<Parked>), ReadError> {
        let stream = StreamId::from(format!("{}{}", self.parked_prefix(&key.topic), short(&key.key)));
        let before = self.blocked().remove(&stream).unwrap_or_default();
        let parked = folded::load_from(self.0.store.as_ref(), &stream, before).await?;
        Ok((stream, parked))
    }

    fn blocked(&self) -> MutexGuard<'_, BTreeMap<StreamId, Folded<Parked>>> {
        lock(&self.0.blocked)
    }

    pub(crate) fn parked_prefix(&self, topic: &str) -> String {
        format!("parked-{}-{topic}-", self.0.group)
    }

    /// The mark of a stream: the last version of it that is in effect here.
    pub(crate) fn mark_name(&self, key: &Key) -> String {
        format!("inbox-{}-{}-{}", self.0.group, key.topic, short(&key.key))
    }

    pub(crate) fn topics(&self) -> &'static [&'static str] {
        self.0.topics
    }
}

impl Parked {
    fn decide_park(&self, messages: Vec<Waiting>) -> Vec<crate::parked::Event> {
        use decider::Decider;
        // Parking is never refused.
        self.decide(&Command::Park(messages)).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(SLOWEST)
}

#[cfg(test)]
#[path = "consumer_tests.rs"]
pub(crate) mod tests;
