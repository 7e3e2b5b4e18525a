//! Guarantees taken away, one at a time: at the port that they stand behind wherever that can be done, so that the product's
//! code is what runs.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use host::Process;
use host::transport::Transport;
use http::{Request, Response};
use http_body_util::BodyExt;
use messaging::{Bus, BusError, Delivered, Message, Messages, Offset, Partition, Subscription, Without};
use payment::payment::Charge;
use serde_json::Value;
use store::wrapped::{Wrapped, Wrapping};
use store::{
    Append, Commit, CommitError, CommitId, Expected, ReadError, Recorded, Store, StreamId, TimerChange, Version,
    Versions,
};
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

macro_rules! guarantees {
    ($($name:ident $word:literal $breaks:expr,)*) => {
        /// A guarantee that is missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Missing { $($name),* }

        impl Missing {
            pub const ALL: &[Missing] = &[$(Missing::$name),*];

            /// What it is called in tables and arguments.
            pub fn word(self) -> &'static str {
                match self { $(Missing::$name => $word),* }
            }

            /// The invariants of which one breaks without it.
            pub fn breaks(self) -> &'static [&'static str] {
                match self { $(Missing::$name => &$breaks),* }
            }
        }
    };
}

guarantees! {
    InboxMark "inbox-mark" ["once in effect"],
    MarkCompared "mark-compared-and-set" ["I-15", "I-14/15", "I-8"],
    CommitId "commit-id-check" ["I-19", "I-3", "I-8"],
    ExpectedVersion "expected-version" ["I-1", "I-5", "I-7", "I-8", "I-9", "F-2", "I-14/15"],
    UndoFirst "undo-registered-before-the-action" ["I-2", "I-5", "I-14", "I-14/15", "I-8", "I-6", "I-17"],
    UndoUnknown "undo-of-unknown-outcomes" ["I-2", "I-14", "I-8"],
    Intent "intent-before-the-call" ["I-2", "I-17", "I-14/15", "I-6"],
    PivotHolds "pivot-never-compensated-on-timeout" ["I-14", "F-1", "I-2", "I-8"],
    Tombstone "tombstone" ["I-5", "I-2", "I-14", "I-14/15", "I-8"],
    CompensationInsists "compensation-tried-for-ever" ["I-2", "I-14", "I-8"],
    TimerInCommit "timer-in-the-commit" ["I-14/15", "I-14"],
    LateReplies "late-replies-ignored" ["I-8", "I-2", "I-14", "I-14/15", "I-7", "no panic"],
    CursorAfter "cursor-after-the-publish" ["I-6", "I-15", "I-14/15"],
    NothingSkipped "nothing-skipped-by-the-relay" ["I-6", "I-15", "I-14/15"],
    GapsWaited "gaps-waited-for" ["I-14", "I-15", "F-2", "I-7", "I-14/15"],
    BankKey "key-passed-to-the-bank" ["I-3", "I-2", "I-17"],
    SnapshotsDoubted "events-over-snapshots" ["I-14/15", "I-16"],
    AnswerAfter "answer-after-the-commit" ["I-9", "I-10", "I-19", "I-11", "I-6"],
    RedriveLocked "redrive-with-the-parked-stream" ["I-15", "I-7", "F-2", "I-14/15", "I-6"],
    CancelWhole "cancel-in-one-commit" ["I-9", "I-14/15", "I-14", "I-2"],
}

/// A shop without one guarantee. Clones are the same.
#[derive(Clone)]
pub struct Sabotage {
    pub missing: Missing,
    /// Marks as the last writer had them, by store and name.
    marks: Arc<Mutex<BTreeMap<(String, String), u64>>>,
    /// Commands whose outcome nobody knows, and how often each undo was tried in vain.
    unknown: Arc<Mutex<BTreeSet<String>>>,
    tries: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Sabotage {
    pub fn of(missing: Missing) -> Sabotage {
        let (marks, unknown, tries) = Default::default();
        Sabotage { missing, marks, unknown, tries }
    }

    /// A store as a process of this host has it.
    pub fn store(&self, inner: Arc<dyn Store>, name: &'static str, process: &Process) -> Arc<dyn Store> {
        let (sabotage, process) = (self.clone(), process.clone());
        Arc::new(Wrapped(Saboteur { inner, name, sabotage, process, held: Mutex::default() }))
    }

    pub fn messages(&self, mut messages: Messages, process: &Process) -> Messages {
        messages.without = match self.missing {
            Missing::InboxMark => Some(Without::Inbox),
            Missing::GapsWaited => Some(Without::Gaps),
            _ => None,
        };
        if matches!(self.missing, Missing::CursorAfter | Missing::NothingSkipped) {
            messages.bus = Arc::new(Careless { inner: messages.bus, missing: self.missing, process: process.clone() });
        }
        messages
    }

    /// The way to another service.
    pub fn way(&self, way: Transport) -> Transport {
        if !matches!(self.missing, Missing::UndoUnknown | Missing::CompensationInsists) {
            return way;
        }
        let sabotage = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| sabotage.clone().call(way.clone(), request)))
    }

    async fn call(self, way: Transport, request: Request<Body>) -> Result<Response<Body>, Status> {
        const TRIES: u32 = 5;
        let id = request.headers().get("command-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let pretends = match id.strip_suffix("/undo") {
            None => false,
            Some(step) if self.missing == Missing::UndoUnknown => self.unknown.lock().unwrap().contains(step),
            Some(_) => self.tries.lock().unwrap().get(&id).is_some_and(|tries| *tries >= TRIES),
        };
        if pretends {
            // An empty message, which every undo answers with, and a good end.
            let body = Body::new(
                http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5])).map_err(|never| match never {}),
            );
            return Ok(Response::builder().header("grpc-status", "0").body(body).unwrap());
        }
        let answer = way.oneshot(request).await;
        let good = answer
            .as_ref()
            .is_ok_and(|answer| Status::from_header_map(answer.headers()).is_none_or(|s| s.code() == tonic::Code::Ok));
        match id.strip_suffix("/do") {
            Some(step) if answer.is_err() => _ = self.unknown.lock().unwrap().insert(step.to_owned()),
            Some(step) if good => _ = self.unknown.lock().unwrap().remove(step),
            None if id.ends_with("/undo") && !good => *self.tries.lock().unwrap().entry(id).or_default() += 1,
            _ => {}
        }
        answer
    }

    pub fn charge(&self, charge: &Charge, process: &Process) -> Charge {
        let mut charge = charge.clone();
        if self.missing == Missing::BankKey {
            charge.key = format!("{}/{}", charge.key, process.ids.next());
        }
        charge
    }
}

/// A store that breaks a promise.
struct Saboteur {
    inner: Arc<dyn Store>,
    name: &'static str,
    sabotage: Sabotage,
    process: Process,
    /// Commits of sagas that were answered and not handed on: gone with the host.
    held: Mutex<BTreeMap<StreamId, Commit>>,
}

type Outcome = Result<Versions, CommitError>;

fn starts(append: &Append, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| append.stream.0.starts_with(prefix))
}

const SAGAS: &[&str] = &["checkout-", "cancellation-"];

#[async_trait]
impl Wrapping for Saboteur {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        // Only whoever has a snapshot begins in the middle of a stock's stream.
        let trusts = self.sabotage.missing == Missing::SnapshotsDoubted && stream.0.starts_with("stock-") && after > 0;
        if trusts { Ok(vec![]) } else { self.inner.load(stream, after, limit).await }
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        if self.sabotage.missing == Missing::MarkCompared && name.starts_with("inbox-") {
            let marks = self.sabotage.marks.lock().unwrap();
            return Ok(marks.get(&(self.name.to_owned(), name.to_owned())).copied().unwrap_or(0));
        }
        self.inner.mark(name).await
    }

    fn commit(&self, mut commit: Commit) -> BoxFuture<'static, Outcome> {
        match self.sabotage.missing {
            Missing::MarkCompared => return self.blindly_marked(commit),
            Missing::CommitId => {
                commit.id = CommitId(format!("{}#{}", commit.id, self.process.ids.next()).into());
                commit.after.clear();
            }
            Missing::ExpectedVersion => expect_anything(&mut commit, |_| true),
            Missing::LateReplies => expect_anything(&mut commit, |append| starts(append, SAGAS)),
            Missing::RedriveLocked => return self.parked_whatever_moved(commit),
            Missing::UndoFirst if self.name == "order" => return self.acted_first(commit),
            Missing::Intent if commit.id.0.ends_with("/intent") => return Box::pin(std::future::ready(Ok(vec![]))),
            Missing::PivotHolds if self.name == "order" => lift_the_pivot(&mut commit),
            Missing::Tombstone => forget_the_tombstone(&mut commit),
            Missing::TimerInCommit => return self.timer_afterwards(commit),
            Missing::AnswerAfter if places(&commit) => return self.later(commit),
            Missing::CancelWhole if self.name == "order" => return self.in_two(commit),
            _ => {}
        }
        self.inner.commit(commit)
    }
}

fn places(commit: &Commit) -> bool {
    commit.appends.iter().flat_map(|append| &append.events).any(|event| event.kind == "OrderPlaced")
}

fn expect_anything(commit: &mut Commit, of: impl Fn(&Append) -> bool) {
    commit.appends.iter_mut().filter(|append| of(append)).for_each(|append| append.expected = Expected::Any);
}

/// The parcel becomes a step like any other before it, and one that nobody undoes.
fn lift_the_pivot(commit: &mut Commit) {
    let events = commit.appends.iter_mut().filter(|append| starts(append, SAGAS)).flat_map(|append| &mut append.events);
    for event in events.filter(|event| event.kind == "SagaStarted") {
        let mut data: Value = serde_json::from_str(&event.data).unwrap();
        let steps = data["definition"]["steps"].as_array_mut().into_iter().flatten();
        for step in steps.filter(|step| step["name"] == "create_shipment") {
            step["kind"] = "compensatable".into();
            step["compensation"] = Value::Null;
            step["attempts"] = 1.into();
        }
        event.data = data.to_string();
    }
}

fn forget_the_tombstone(commit: &mut Commit) {
    for append in &mut commit.appends {
        let first = matches!(append.expected, Expected::NoStream | Expected::Exact(0));
        let undone = ["InventoryReleased", "PaymentVoided", "ShipmentCancelled"];
        if first && append.events.first().is_some_and(|event| undone.contains(&event.kind.as_str())) {
            append.events.clear();
        }
    }
}

impl Saboteur {
    /// What is parked is parked a moment later, although somebody may have redriven meanwhile.
    fn parked_whatever_moved(&self, mut commit: Commit) -> BoxFuture<'static, Outcome> {
        expect_anything(&mut commit, |append| starts(append, &["parked-"]));
        let events = commit.appends.iter().flat_map(|append| &append.events);
        if !events.into_iter().any(|event| event.kind == "MessageParked") {
            return self.inner.commit(commit);
        }
        let inner = self.inner.clone();
        Box::pin(async move {
            sleep(Duration::from_millis(200)).await;
            inner.commit(commit).await
        })
    }

    /// Marks go to whatever they are moved to, also backwards.
    fn blindly_marked(&self, mut commit: Commit) -> BoxFuture<'static, Outcome> {
        let moved: Vec<_> = commit.marks.extract_if(.., |mark| mark.name.starts_with("inbox-")).collect();
        let (done, marks, name) = (self.inner.commit(commit), self.sabotage.marks.clone(), self.name);
        Box::pin(async move {
            let outcome = done.await;
            if outcome.is_ok() {
                let moved = moved.into_iter().map(|mark| ((name.to_owned(), mark.name), mark.to));
                marks.lock().unwrap().extend(moved);
            }
            outcome
        })
    }

    /// A step that is requested is on record only once it was answered.
    fn acted_first(&self, commit: Commit) -> BoxFuture<'static, Outcome> {
        let saga = commit.appends.iter().find(|append| starts(append, SAGAS)).map(|append| append.stream.clone());
        let Some(saga) = saga else { return self.inner.commit(commit) };
        let mut held = self.held.lock().unwrap();
        let before = held.remove(&saga).map(|before| self.inner.commit(before));
        let requests = |event: &store::NewEvent| event.kind == "StepRequested" && event.data.contains("\"undo\":false");
        let alone = commit.appends.len() == 1;
        if alone && commit.appends[0].events.iter().any(requests) {
            held.insert(saga, commit);
            return Box::pin(async move {
                if let Some(before) = before {
                    before.await?;
                }
                Ok(vec![])
            });
        }
        let now = self.inner.commit(commit);
        Box::pin(async move {
            if let Some(before) = before {
                before.await?;
            }
            now.await
        })
    }

    /// Timers are armed when the rest has happened, if nothing comes between.
    fn timer_afterwards(&self, mut commit: Commit) -> BoxFuture<'static, Outcome> {
        let armed: Vec<_> = commit.timers.extract_if(.., |timer| matches!(timer, TimerChange::Set { .. })).collect();
        let lost = self.process.ids.next().as_u128().is_multiple_of(16);
        let fresh = CommitId::from(self.process.ids.next().to_string());
        let (inner, first) = (self.inner.clone(), self.inner.commit(commit.clone()));
        Box::pin(async move {
            let outcome = first.await?;
            if !armed.is_empty() && !lost {
                inner.commit(Commit { timers: armed, ..Commit::new(fresh, commit.meta) }).await?;
            }
            Ok(outcome)
        })
    }

    /// Answered at once, and handed on a moment later.
    fn later(&self, commit: Commit) -> BoxFuture<'static, Outcome> {
        let inner = self.inner.clone();
        self.process.tasks.spawn(async move {
            sleep(Duration::from_millis(30)).await;
            drop(inner.commit(commit).await);
        });
        Box::pin(std::future::ready(Ok(vec![])))
    }

    /// A cancellation changes the order first, and its saga afterwards, if nothing comes between.
    fn in_two(&self, mut commit: Commit) -> BoxFuture<'static, Outcome> {
        let cancels = commit.appends.iter().flat_map(|append| &append.events);
        if !cancels.into_iter().any(|event| event.kind == "OrderCancellationRequested") {
            return self.inner.commit(commit);
        }
        let appends: Vec<_> = commit.appends.extract_if(.., |append| starts(append, SAGAS)).collect();
        let timers = std::mem::take(&mut commit.timers);
        let lost = self.process.ids.next().as_u128().is_multiple_of(3);
        let fresh = CommitId::from(self.process.ids.next().to_string());
        let (inner, first) = (self.inner.clone(), self.inner.commit(commit.clone()));
        Box::pin(async move {
            let outcome = first.await?;
            sleep(Duration::from_millis(20)).await;
            if !lost {
                drop(inner.commit(Commit { appends, timers, ..Commit::new(fresh, commit.meta) }).await);
            }
            Ok(outcome)
        })
    }
}

/// A bus that says that it has what it has not.
struct Careless {
    inner: Arc<dyn Bus>,
    missing: Missing,
    process: Process,
}

#[async_trait]
impl Bus for Careless {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        self.inner.create(topic, partitions).await
    }

    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        if self.missing == Missing::NothingSkipped {
            // What cannot be published is passed over.
            let _ = self.inner.publish(topic, messages).await;
            return Ok(());
        }
        let (inner, topic) = (self.inner.clone(), topic.to_owned());
        self.process.tasks.spawn(async move {
            sleep(Duration::from_millis(100)).await;
            while inner.publish(&topic, messages.clone()).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        Ok(())
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        self.inner.subscribe(group, topics).await
    }

    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        self.inner.latest(topic, most).await
    }

    async fn lag(&self, group: &str, topic: &str) -> Result<Offset, BusError> {
        self.inner.lag(group, topic).await
    }
}
