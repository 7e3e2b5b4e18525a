//! What every adapter of [`Bus`] promises, as tests.
//!
//! # Problem
//! A trait says what can be asked, not what the answers mean; code that was tested on one bus loses messages on the other.
//!
//! # Pattern
//! A contract suite: the promises are written once, against the port, and every adapter runs all of them.
//!
//! # Here
//! Each statement is a function over a [`Subject`]; [`hold_the_contract`] makes a test of each for one adapter. They stand
//! in `contract_messages` and `contract_groups`. All of them bear with what the port allows: messages that come again,
//! late, or in another order than that of their key. A broker elsewhere may take a while until everybody knows what was done
//! ([`Subject::delay`]); what all is in one process may not.
//!
//! # Limits
//! What only some adapters can show (reopening, bad files, which faults) is tested beside them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use tokio::time::{Instant, sleep};

use crate::{Bus, BusError, Delivered, Message, Offset, Partition, Subscription};

/// An empty bus to make statements about.
pub(crate) struct Subject {
    pub(crate) bus: Arc<dyn Bus>,
    /// How long it takes until what was done shows; nothing where all is in one process.
    pub(crate) delay: Duration,
    /// What must live as long as the bus, such as its folder. Dropped after it.
    _keep: Box<dyn Any + Send + Sync>,
}

/// A member of a group.
pub(crate) type Sub = Box<dyn Subscription>;

impl Subject {
    pub(crate) fn new(bus: Arc<dyn Bus>, keep: impl Any + Send + Sync) -> Subject {
        Subject { bus, delay: Duration::ZERO, _keep: Box::new(keep) }
    }

    /// Topic `t` with so many partitions, and in it messages `0..count` of `keys` keys.
    pub(crate) async fn filled(&self, partitions: Partition, keys: u64, count: u64) {
        self.bus.create("t", partitions).await.unwrap();
        self.publish(keys, 0..count).await;
    }

    pub(crate) async fn publish(&self, keys: u64, numbers: std::ops::Range<u64>) {
        let messages = numbers.map(|n| message(&format!("key-{}", n % keys), n));
        self.bus.publish("t", messages.collect()).await.unwrap();
    }

    pub(crate) async fn subscribe(&self, group: &str) -> Sub {
        self.bus.subscribe(group, &["t"]).await.unwrap()
    }

    pub(crate) async fn lag(&self, group: &str) -> u64 {
        self.bus.lag(group, "t").await.unwrap()
    }

    /// The group has so much left, at once or after the bus's delay.
    pub(crate) async fn left(&self, group: &str, count: u64) {
        let until = Instant::now() + self.delay;
        while self.lag(group).await != count && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.lag(group).await, count);
    }
}

/// A message with a number in it.
pub(crate) fn message(key: &str, number: u64) -> Message {
    let headers = vec![("number".into(), number.to_string()), ("empty".into(), String::new())];
    Message { key: key.into(), headers, payload: number.to_be_bytes().into() }
}

pub(crate) fn number(delivered: &Delivered) -> u64 {
    u64::from_be_bytes(delivered.message.payload[..].try_into().unwrap())
}

pub(crate) fn numbers(delivered: &[Delivered]) -> Vec<u64> {
    delivered.iter().map(number).collect()
}

pub(crate) fn malformed(why: &str) -> BusError {
    BusError::Malformed(why.into())
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it comes to an end")
}

/// What came, each once, in the order of its first coming.
#[derive(Default)]
pub(crate) struct Seen {
    places: BTreeSet<(String, Partition, Offset)>,
    pub(crate) all: Vec<Delivered>,
}

impl Seen {
    pub(crate) fn add(&mut self, batch: Vec<Delivered>) {
        for one in batch {
            if self.places.insert((one.topic.clone(), one.partition, one.offset)) {
                self.all.push(one);
            }
        }
    }
}

/// The next `count` different messages, in batches of up to `limit`; every key in its order.
pub(crate) async fn take(sub: &mut Sub, count: usize, limit: usize) -> Vec<Delivered> {
    take_on(sub, Seen::default(), count, limit).await.all
}

/// The same, where some were taken before.
pub(crate) async fn take_on(sub: &mut Sub, mut seen: Seen, count: usize, limit: usize) -> Seen {
    while seen.all.len() < count {
        let batch = soon(sub.next(limit)).await.unwrap();
        assert!(batch.len() <= limit, "{} are more than {limit}", batch.len());
        seen.add(batch);
    }
    in_order(&seen.all);
    seen
}

/// The next `count` different messages of two members.
pub(crate) async fn take_both(a: &mut Sub, b: &mut Sub, count: usize) -> (Vec<Delivered>, Vec<Delivered>) {
    let (mut of_a, mut of_b) = (Seen::default(), Seen::default());
    while of_a.all.len() + of_b.all.len() < count {
        match soon(select(a.next(7), b.next(7))).await {
            Either::Left((batch, _)) => of_a.add(batch.unwrap()),
            Either::Right((batch, _)) => of_b.add(batch.unwrap()),
        }
    }
    (of_a.all, of_b.all)
}

/// The offsets and numbers of each key grow.
pub(crate) fn in_order(delivered: &[Delivered]) {
    let mut last: BTreeMap<&str, (Offset, u64)> = BTreeMap::new();
    for one in delivered {
        let before = last.insert(&one.message.key, (one.offset, number(one)));
        assert!(before < Some((one.offset, number(one))), "{one:?} after {before:?}");
        assert!(before.is_none_or(|(_, n)| n < number(one)), "{one:?} after {before:?}");
    }
}

/// Acknowledges all of it, and answers what each partition was answered.
pub(crate) async fn acknowledge(sub: &mut Sub, delivered: &[Delivered]) -> BTreeMap<Partition, Result<(), BusError>> {
    let mut last = BTreeMap::new();
    for one in delivered {
        let offset = last.entry((&one.topic, one.partition)).or_insert(one.offset);
        *offset = one.offset.max(*offset);
    }
    let mut answers = BTreeMap::new();
    for ((topic, partition), offset) in last {
        answers.insert(partition, sub.acknowledge(topic, partition, offset).await);
    }
    answers
}

/// There is nothing for it now.
pub(crate) fn waits(sub: &mut Sub) {
    let next = sub.next(9).now_or_never();
    assert!(next.is_none(), "{next:?}");
}

/// Makes a test of each statement, for the adapter that `$make` makes.
macro_rules! hold_the_contract {
    ($make:path) => {
        $crate::contract::hold_the_contract! { $make;
            contract_messages: keys_keep_their_order_whatever_the_batches, a_message_arrives_as_it_was_published,
                equal_keys_go_to_one_partition_and_all_are_used, offsets_are_dense_in_each_partition,
                the_last_message_of_each_partition_can_be_read_back,
                a_topic_keeps_its_number_of_partitions, what_no_bus_takes_is_refused_and_nothing_kept,
                what_does_not_exist_is_named, next_waits_until_something_is_published,
                dropping_next_loses_nothing, ten_thousand_arrive_in_order, concurrent_publishers_lose_nothing,
                a_small_limit_starves_no_partition;
            contract_groups: a_new_group_begins_at_the_first_message, what_is_acknowledged_does_not_come_back,
                every_group_gets_everything, members_share_the_partitions, nothing_is_lost_when_a_member_leaves,
                a_revoked_partition_is_not_acknowledged, a_partition_that_was_away_is_given_again,
                acknowledgements_never_go_backwards, what_was_not_given_is_not_acknowledged, lag_counts_what_is_left,
                a_group_listens_to_several_topics, a_member_that_waits_is_woken_by_what_another_leaves;
        }
    };
    ($make:path; $($file:ident: $($statement:ident),*;)*) => {$($(
        #[tokio::test]
        async fn $statement() {
            // Where there is no such server, there is nothing to make statements about.
            let subject: Option<$crate::contract::Subject> = $make().await.into();
            if let Some(subject) = subject {
                $crate::$file::$statement(&subject).await;
            }
        }
    )*)*};
}
pub(crate) use hold_the_contract;
