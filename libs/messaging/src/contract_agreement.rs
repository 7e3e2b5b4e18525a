//! Random histories, against memory and SQLite side by side: every answer must be the same.
//!
//! The contract's statements are what we thought of; this is for what we did not.
use std::path::{Path, PathBuf};

use futures::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::contract::{Sub, message};
use crate::memory::Memory;
use crate::sqlite::Sqlite;
use crate::{Bus, Offset, Partition};

#[derive(Clone, Debug)]
enum Step {
    Create(usize, Partition),
    /// Messages of these keys.
    Publish(usize, Vec<u8>),
    Join(usize, Vec<usize>),
    /// A member asks for so many.
    Next(usize, usize),
    /// A member acknowledges an offset, which it may have been given or not.
    Acknowledge(usize, usize, Partition, Offset),
    /// A member acknowledges the last that it was given.
    AcknowledgeLast(usize),
    Leave(usize),
    Reopen,
}

const TOPICS: [&str; 3] = ["t", "u", "주문"];
const GROUPS: [&str; 2] = ["g", "h"];

fn step() -> impl Strategy<Value = Step> {
    let topic = || prop_oneof![6 => Just(0), 2 => Just(1_usize), 1 => Just(2)];
    let key = || prop_oneof![1 => Just(0), 40 => 1..6_u8];
    prop_oneof![
        1 => (topic(), 0..4_u32).prop_map(|(topic, partitions)| Step::Create(topic, partitions)),
        5 => (topic(), vec(key(), 0..8)).prop_map(|(topic, keys)| Step::Publish(topic, keys)),
        2 => (0..GROUPS.len(), vec(topic(), 0..3)).prop_map(|(group, topics)| Step::Join(group, topics)),
        8 => (any::<usize>(), 0..9_usize).prop_map(|(member, limit)| Step::Next(member, limit)),
        3 => (any::<usize>(), topic(), 0..4_u32, 0..12_u64)
            .prop_map(|(member, topic, partition, offset)| Step::Acknowledge(member, topic, partition, offset)),
        8 => any::<usize>().prop_map(Step::AcknowledgeLast),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => Just(Step::Reopen),
    ]
}

/// The same member of both, and where the last message stood that it was given.
struct Member {
    of_memory: Sub,
    of_sqlite: Sub,
    last: Option<(String, Partition, Offset)>,
}

struct Pair {
    file: PathBuf,
    memory: Memory,
    sqlite: Option<Sqlite>,
    members: Vec<Member>,
    count: u64,
}

impl Pair {
    fn new(folder: &Path) -> Pair {
        let file = folder.join("bus.db");
        let (memory, sqlite) = (Memory::plain(), Some(Sqlite::create(&file).unwrap()));
        let mut pair = Pair { file, memory, sqlite, members: vec![], count: 0 };
        pair.same_standing();
        pair
    }

    fn sqlite(&self) -> &Sqlite {
        self.sqlite.as_ref().unwrap()
    }

    fn member(&mut self, which: usize) -> Option<&mut Member> {
        let count = self.members.len();
        (count > 0).then(|| &mut self.members[which % count])
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Create(topic, partitions) => {
                let topic = TOPICS[topic];
                assert_eq!(self.memory.create(topic, partitions).await, self.sqlite().create(topic, partitions).await);
            }
            Step::Publish(topic, keys) => {
                // Key 0 is one that no bus takes.
                let first = self.count;
                self.count += keys.len() as u64;
                let key = |key: u8| if key == 0 { "x".repeat(10_000) } else { format!("key-{key}") };
                let messages: Vec<_> = (first..).zip(keys).map(|(n, k)| message(&key(k), n)).collect();
                let topic = TOPICS[topic];
                let kept = self.memory.publish(topic, messages.clone()).await;
                assert_eq!(kept, self.sqlite().publish(topic, messages).await);
            }
            Step::Join(group, topics) => {
                let topics: Vec<_> = topics.into_iter().map(|topic| TOPICS[topic]).collect();
                let of_memory = self.memory.subscribe(GROUPS[group], &topics).await;
                let of_sqlite = self.sqlite().subscribe(GROUPS[group], &topics).await;
                match (of_memory, of_sqlite) {
                    (Ok(of_memory), Ok(of_sqlite)) => self.members.push(Member { of_memory, of_sqlite, last: None }),
                    (of_memory, of_sqlite) => assert_eq!(of_memory.err(), of_sqlite.err()),
                }
            }
            Step::Next(which, limit) => {
                let Some(member) = self.member(which) else { return };
                // Whoever is given nothing waits, on both.
                let given = member.of_memory.next(limit).now_or_never();
                assert_eq!(given, member.of_sqlite.next(limit).now_or_never());
                if let Some(last) = given.and_then(|batch| batch.unwrap().pop()) {
                    member.last = Some((last.topic, last.partition, last.offset));
                }
            }
            Step::Acknowledge(which, topic, partition, offset) => {
                self.acknowledge(which, Some((TOPICS[topic].into(), partition, offset))).await;
            }
            Step::AcknowledgeLast(which) => self.acknowledge(which, None).await,
            Step::Leave(which) => {
                if !self.members.is_empty() {
                    drop(self.members.swap_remove(which % self.members.len()));
                }
            }
            Step::Reopen => {
                self.members.clear();
                self.sqlite = None;
                self.sqlite = Some(Sqlite::open(&self.file).unwrap());
            }
        }
        self.same_standing();
    }

    async fn acknowledge(&mut self, which: usize, place: Option<(String, Partition, Offset)>) {
        let Some(member) = self.member(which) else { return };
        let Some((topic, partition, offset)) = place.or_else(|| member.last.clone()) else { return };
        let done = member.of_memory.acknowledge(&topic, partition, offset).await;
        assert_eq!(done, member.of_sqlite.acknowledge(&topic, partition, offset).await);
    }

    /// How far everybody is, and what was published last.
    fn same_standing(&mut self) {
        for topic in TOPICS {
            assert_eq!(self.memory.latest(topic, 2).now_or_never(), self.sqlite().latest(topic, 2).now_or_never());
            for group in GROUPS {
                let lag = self.memory.lag(group, topic).now_or_never();
                assert_eq!(lag, self.sqlite().lag(group, topic).now_or_never(), "{group} in {topic}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_sqlite_agree_on_any_history(steps in vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(folder.path());
            // Most of what can be done needs these.
            for start in [Step::Create(0, 3), Step::Create(1, 1), Step::Join(0, vec![0, 1])] {
                pair.take(start).await;
            }
            for step in steps {
                pair.take(step).await;
            }
            // What a file forgot shows when it is opened again.
            pair.take(Step::Reopen).await;
        });
    }
}
