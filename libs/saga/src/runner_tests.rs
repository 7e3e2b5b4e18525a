//! What a runner says of sagas that cannot be carried on.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use clock::{Ids, Timestamp, TokioClock};
use serde_json::Value;
use store::memory::Memory;
use store::wrapped::{Wrapped, Wrapping};
use store::{Recorded, Version};
use tokio::time::sleep;

use super::*;
use crate::definition::{Definition, Offers};

/// A store in which some streams cannot be read.
struct Corrupting {
    inner: Memory,
    corrupt: Mutex<BTreeSet<StreamId>>,
}

#[async_trait]
impl Wrapping for Corrupting {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        if self.corrupt.lock().unwrap().contains(stream) {
            return Err(ReadError::Corrupt(format!("{stream} version 1 is no event")));
        }
        self.inner.load(stream, after, limit).await
    }
}

/// Whoever is asked does it.
struct Willing;

#[async_trait]
impl Participants for Willing {
    async fn send(&self, _: &Saga, _: &Command) -> Outcome {
        Outcome::Accepted(Value::Null)
    }
}

/// Whose sagas end in a stream that it reads.
struct Reading {
    store: Arc<Wrapped<Corrupting>>,
    ended: AtomicUsize,
}

#[async_trait]
impl Owner for Reading {
    async fn ending(&self, saga: &Saga, _: End) -> Result<Vec<Append>, ReadError> {
        self.store.load(&format!("of-{}", saga.id()).into(), 0, 1).await.map(|_| vec![])
    }
    fn ended(&self, _: &Saga, _: End) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where a test reads the log lines of its thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sagas over one store, and the runner of one of its replicas.
struct World {
    store: Arc<Wrapped<Corrupting>>,
    process: Process,
    owner: Arc<Reading>,
    runner: Runner,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        let store = Arc::new(Wrapped(Corrupting { inner: Memory::new(clock.clone()), corrupt: Mutex::default() }));
        let process = Process::new(clock.clone(), Arc::new(Ids::random(clock)));
        let owner = Arc::new(Reading { store: store.clone(), ended: AtomicUsize::new(0) });
        let runner = Runner::new(&process, store.clone(), Arc::new(Willing), owner.clone());
        World { store, process, owner, runner }
    }

    /// Begins a saga of one step, and leaves it to its timer.
    async fn begin(&self, id: &str) {
        let offers = Offers::from([("a-service", ["one"].as_slice())]);
        let text = "
name: checkout
timeout: 30s
steps:
  - {name: one, service: a-service, kind: retriable, retry: {attempts: 2, first: 100ms, max: 1s}}
";
        let start = Input::Start {
            saga: id.into(),
            definition: Arc::new(Definition::from_yaml(text, &offers).unwrap()),
            data: Arc::new(Value::Null),
            correlation_id: id.into(),
            traceparent: String::new(),
        };
        let pending = self.runner.decide(&id.into(), &Folded::default(), &start).await.unwrap().unwrap();
        let (appends, timers) = (pending.appends, vec![pending.timer]);
        let commit = Commit { appends, timers, ..Commit::new(format!("{id} begins").into(), Meta::default()) };
        self.store.commit(commit).await.unwrap();
    }

    fn is_corrupt(&self, stream: &str, corrupt: bool) {
        let mut all = self.store.0.corrupt.lock().unwrap();
        _ = if corrupt { all.insert(stream.into()) } else { all.remove(&stream.into()) };
    }

    fn impaired(&self) -> String {
        self.process.health.impaired().get(PART).cloned().unwrap_or_default()
    }
}

/// Of each saga that cannot be read it is said once, and all the time in the health, until that saga goes on.
#[tokio::test(start_paused = true)]
async fn a_corrupt_saga_is_said_once_and_stays_said_until_it_goes_on() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _until_the_end = tracing::subscriber::set_default(subscriber);
    let count = |sentence: &str| String::from_utf8_lossy(&lines.0.lock().unwrap()).matches(sentence).count();
    let world = World::new();
    for saga in ["checkout-1", "checkout-2", "checkout-3"] {
        world.begin(saga).await;
    }
    world.is_corrupt("checkout-1", true);
    world.is_corrupt("of-checkout-2", true);
    world.runner.listen();
    sleep(Duration::from_secs(120)).await;
    for _ in 0..600 {
        sleep(Duration::from_secs(1)).await;
        assert!(world.impaired().contains("and 1 more"), "{:?}", world.impaired());
    }
    assert_eq!(world.owner.ended.load(Ordering::SeqCst), 1, "the third waits for nobody");
    assert_eq!(count("a saga cannot be read"), 2);

    world.is_corrupt("checkout-1", false);
    sleep(Duration::from_secs(120)).await;
    assert!(world.impaired().starts_with("checkout-2 cannot be read"), "{:?}", world.impaired());
    world.is_corrupt("of-checkout-2", false);
    sleep(Duration::from_secs(120)).await;
    assert_eq!((world.impaired().as_str(), world.owner.ended.load(Ordering::SeqCst)), ("", 3));
    assert_eq!((count("a saga cannot be read"), count("a saga that could not be read goes on")), (2, 2));

    // Another replica carries one on.
    world.begin("checkout-4").await;
    world.is_corrupt("checkout-4", true);
    sleep(Duration::from_secs(120)).await;
    assert!(world.impaired().starts_with("checkout-4 cannot be read"), "{:?}", world.impaired());
    world.is_corrupt("checkout-4", false);
    let process = Process::new(world.process.clock.clone(), world.process.ids.clone());
    let other = Runner::new(&process, world.store.clone(), Arc::new(Willing), world.owner.clone());
    let saga = other.load(&"checkout-4".into()).await.unwrap();
    if let Some(pending) = other.apply(&"checkout-4".into(), saga, &Input::Tick).await.unwrap() {
        other.carry(pending).await;
    }
    sleep(LOOK_AGAIN * 2).await;
    assert_eq!((world.impaired().as_str(), world.owner.ended.load(Ordering::SeqCst)), ("", 4));
}
