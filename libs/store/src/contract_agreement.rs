//! Random histories, against memory and another adapter side by side: every answer must be the same.
//!
//! The contract's statements are what we thought of; this is for what we did not.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::contract::{HandClock, START, meta};
use crate::memory::Memory;
use crate::sqlite::Sqlite;
use crate::{Append, Commit, Expected, MarkMove, NewEvent, Recorded, Snapshot, Store, StreamId, TimerChange, Version};

#[derive(Clone, Debug)]
enum Step {
    /// Handed over together.
    Commits(Vec<Proposal>),
    Clock(u64),
    Claim {
        lease: u64,
        limit: usize,
    },
    Keep {
        stream: usize,
        version: Version,
        schema: u16,
    },
    DropSnapshots,
    Load {
        stream: usize,
        after: Version,
        limit: usize,
    },
    Streams {
        prefix: &'static str,
        after: &'static str,
        limit: usize,
    },
    Positions,
    Reopen,
}

#[derive(Clone, Debug)]
struct Proposal {
    id: u8,
    /// Commits that must have happened: some have, some never will.
    after: Vec<u8>,
    appends: Vec<(usize, Wish, Vec<u8>)>,
    timers: Vec<(u8, Option<u64>)>,
    marks: Vec<(u8, Option<u64>, u64)>,
}

/// What to expect of a stream, known only when the history gets there.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Any,
    NoStream,
    Right,
    Version(Version),
}

const STREAMS: [&str; 5] = ["order-1", "order-2", "order", "payment-%", "재고-1"];

fn proposal() -> impl Strategy<Value = Proposal> {
    let wish = prop_oneof![
        2 => Just(Wish::Any),
        1 => Just(Wish::NoStream),
        6 => Just(Wish::Right),
        1 => (0..6_u64).prop_map(Wish::Version),
    ];
    // An event of a small number may be one that exists; of a larger one it is new.
    let event = prop_oneof![1 => 0..3_u8, 30 => Just(u8::MAX)];
    let append = (0..STREAMS.len(), wish, vec(event, 0..4));
    let timer = (0..4_u8, option::weighted(0.8, 0..40_u64));
    let mark = (0..2_u8, option::weighted(0.3, 0..5_u64), 0..3_u64);
    let after = prop_oneof![3 => Just(vec![]), 1 => vec(0..40_u8, 1..3)];
    (0..40_u8, after, vec(append, 0..3), vec(timer, 0..3), vec(mark, 0..2))
        .prop_map(|(id, after, appends, timers, marks)| Proposal { id, after, appends, timers, marks })
}

fn step() -> impl Strategy<Value = Step> {
    let text = |texts: &'static [&'static str]| proptest::sample::select(texts);
    prop_oneof![
        10 => vec(proposal(), 1..5).prop_map(Step::Commits),
        3 => (0..40_u64).prop_map(Step::Clock),
        2 => (0..10_u64, 0..4_usize).prop_map(|(lease, limit)| Step::Claim { lease, limit }),
        2 => (0..STREAMS.len(), 0..8_u64, 1..3_u16).prop_map(|(stream, version, schema)| Step::Keep { stream, version, schema }),
        1 => Just(Step::DropSnapshots),
        2 => (0..STREAMS.len(), 0..8_u64, 0..4_usize).prop_map(|(stream, after, limit)| Step::Load { stream, after, limit }),
        1 => (text(&["", "order", "order-", "x"]), text(&["", "order", "order-1", "z"]), 0..6_usize)
            .prop_map(|(prefix, after, limit)| Step::Streams { prefix, after, limit }),
        1 => Just(Step::Positions),
        1 => Just(Step::Reopen),
    ]
}

/// Opens what is compared with memory, which is closed before it is opened again.
type Open<'a> = Box<dyn Fn() -> BoxFuture<'a, Arc<dyn Store>> + 'a>;

struct Pair<'a> {
    clock: Arc<HandClock>,
    memory: Memory,
    open: Open<'a>,
    other: Option<Arc<dyn Store>>,
    events: u128,
}

/// The same question to both, and one answer.
macro_rules! both {
    ($pair:ident . $method:ident ( $($argument:expr),* )) => {{
        let memory = $pair.memory.$method($($argument),*).await;
        let other = $pair.other().$method($($argument),*).await;
        assert_eq!(memory, other, "memory, the other: {}", stringify!($method));
        memory
    }};
}

impl<'a> Pair<'a> {
    async fn new(clock: Arc<HandClock>, open: Open<'a>) -> Pair<'a> {
        let other = Some(open().await);
        Pair { memory: Memory::new(clock.clone()), clock, open, other, events: 1_000 }
    }

    fn other(&self) -> &dyn Store {
        self.other.as_deref().unwrap()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Commits(proposals) => {
                let mut commits = Vec::new();
                for proposal in proposals {
                    commits.push(self.commit(proposal).await);
                }
                let memory: Vec<_> = commits.iter().map(|commit| self.memory.commit(commit.clone())).collect();
                let other: Vec<_> = commits.iter().map(|commit| self.other().commit(commit.clone())).collect();
                assert_eq!(join_all(memory).await, join_all(other).await, "memory, the other: {commits:?}");
            }
            Step::Clock(seconds) => self.clock.set(START.after(Duration::from_secs(seconds))),
            Step::Claim { lease, limit } => _ = both!(self.claim_due(Duration::from_secs(lease), limit)),
            Step::Keep { stream, version, schema } => {
                let snapshot = Snapshot { version, schema, data: format!("{version} {schema}") };
                both!(self.keep_snapshot(&STREAMS[stream].into(), snapshot.clone())).unwrap();
            }
            Step::DropSnapshots => both!(self.drop_snapshots()).unwrap(),
            Step::Load { stream, after, limit } => {
                let stream = STREAMS[stream].into();
                let (memory, other) =
                    (self.memory.load(&stream, after, limit), self.other().load(&stream, after, limit));
                assert_eq!(unplaced(memory.await.unwrap()), unplaced(other.await.unwrap()));
            }
            Step::Streams { prefix, after, limit } => _ = both!(self.streams(prefix, after, limit)),
            Step::Positions => self.same_log().await,
            Step::Reopen => {
                self.other = None;
                self.other = Some((self.open)().await);
            }
        }
    }

    async fn commit(&mut self, proposal: Proposal) -> Commit {
        let mut commit = Commit::new(proposal.id.to_string().into(), meta());
        commit.reply = format!("reply {}", self.events).into();
        commit.after = proposal.after.iter().map(|id| id.to_string().into()).collect();
        for (stream, wish, events) in proposal.appends {
            let stream: StreamId = STREAMS[stream].into();
            let expected = match wish {
                Wish::Any => Expected::Any,
                Wish::NoStream => Expected::NoStream,
                Wish::Right => Expected::Exact(self.memory.version(&stream).await.unwrap()),
                Wish::Version(version) => Expected::Exact(version),
            };
            let events = events.into_iter().map(|id| self.event(id)).collect();
            commit.appends.push(Append { stream, expected, events });
        }
        commit.timers.extend(proposal.timers.into_iter().map(|(key, due)| match due {
            Some(due) => TimerChange::Set { key: key.to_string(), due: START.after(Duration::from_secs(due)) },
            None => TimerChange::Clear { key: key.to_string() },
        }));
        for (name, from, by) in proposal.marks {
            let name = name.to_string();
            let from = match from {
                Some(from) => from,
                None => self.memory.mark(&name).await.unwrap(),
            };
            commit.marks.push(MarkMove { name, from, to: from + by });
        }
        commit
    }

    fn event(&mut self, id: u8) -> NewEvent {
        self.events += 1;
        let id = uuid::Uuid::from_u128(if id == u8::MAX { self.events } else { id.into() });
        NewEvent { id, kind: "Happened".into(), schema: 1, data: format!("{{ \"n\": {} }}", self.events) }
    }

    async fn same_log(&self) {
        // The first look sequences what was pending; the other may take a while.
        self.memory.read_all(0, 0).await.unwrap();
        let count = self.memory.read_all(0, usize::MAX).await.unwrap().len();
        let placed = async { while self.other().read_all(0, usize::MAX).await.unwrap().len() < count {} };
        tokio::time::timeout(Duration::from_secs(30), placed).await.expect("every event gets a position");
        both!(self.read_all(0, usize::MAX)).unwrap();
        both!(self.read_all(3, 4)).unwrap();
    }

    async fn same_everything(&self) {
        self.same_log().await;
        assert!(both!(self.streams("", "", usize::MAX)).unwrap().len() <= STREAMS.len());
        for stream in STREAMS.map(StreamId::from) {
            both!(self.version(&stream)).unwrap();
            both!(self.snapshot(&stream)).unwrap();
            both!(self.load(&stream, 0, usize::MAX)).unwrap();
        }
        self.same_extras().await;
    }

    async fn same_extras(&self) {
        for name in 0..40_u8 {
            both!(self.mark(&name.to_string())).unwrap();
            both!(self.reply(&name.to_string().into())).unwrap();
        }
        for seconds in 0..60 {
            self.clock.set(START.after(Duration::from_secs(seconds)));
            both!(self.claim_due(Duration::from_secs(1_000), usize::MAX)).unwrap();
        }
    }
}

fn unplaced(events: Vec<Recorded>) -> Vec<Recorded> {
    events.into_iter().map(|event| Recorded { position: None, ..event }).collect()
}

/// What the adapter that `open` opens answers to a history must be what memory answers.
async fn agree(clock: Arc<HandClock>, open: Open<'_>, steps: Vec<Step>) {
    let mut pair = Pair::new(clock, open).await;
    for step in steps {
        pair.take(step).await;
    }
    pair.same_everything().await;
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn memory_and_sqlite_agree_on_any_history(steps in vec(step(), 1..40)) {
        let (clock, folder) = (HandClock::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("store.db");
        drop(Sqlite::create(&file, clock.clone()).unwrap());
        let open = || {
            let store: Arc<dyn Store> = Arc::new(Sqlite::open(&file, clock.clone()).unwrap());
            std::future::ready(store).boxed()
        };
        run(agree(clock.clone(), Box::new(open), steps));
    }
}

#[cfg(feature = "infra")]
proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn memory_and_postgres_agree_on_any_history(steps in vec(step(), 1..40)) {
        run(async {
            let Some(database) = crate::postgres::server::Database::make().await else { return };
            let clock = HandClock::new();
            let open = || {
                let opening = database.open(clock.clone());
                async { Arc::new(opening.await) as Arc<dyn Store> }.boxed()
            };
            agree(clock.clone(), Box::new(open), steps).await;
        });
    }
}
