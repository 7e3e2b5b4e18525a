//! Replicas that have an index together: one writes it, and none of them answers from one that is not complete.
use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use clock::{Timestamp, TokioClock};
use tokio::sync::Semaphore;

use super::tests::{Notes, World, query};
use super::*;
use crate::fts::Fts;
use crate::words::Term;

/// An index that replicas have together, and how often it was written.
#[derive(Default)]
struct Together {
    there: Mutex<Option<Arc<Fts>>>,
    beside: Mutex<BTreeMap<String, Arc<Fts>>>,
    earlier: AtomicBool,
    writes: AtomicUsize,
}

impl Together {
    fn there(&self) -> Result<Arc<Fts>, SearchError> {
        self.there.lock().unwrap().clone().ok_or_else(|| SearchError::Unavailable("there is none".to_owned()))
    }
}

#[async_trait]
impl Index for Together {
    async fn write(&self, change: Change) -> Result<(), SearchError> {
        assert!(!self.earlier.load(Ordering::SeqCst), "nobody writes one of an earlier form");
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.there()?.write(change).await
    }
    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        self.there()?.checkpoint().await
    }
    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        self.there()?.version(id).await
    }
    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        self.there()?.find(terms, query, before).await
    }
    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.there()?.all().await
    }
    async fn clear(&self) -> Result<(), SearchError> {
        *self.there.lock().unwrap() = None;
        Ok(())
    }
    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }
}

#[async_trait]
impl Shared for Together {
    async fn standing(&self) -> Result<Standing, SearchError> {
        Ok(match self.there() {
            Err(_) => Standing::Absent,
            Ok(_) if self.earlier.load(Ordering::SeqCst) => Standing::Earlier,
            Ok(_) => Standing::Current,
        })
    }
    async fn tidy(&self) -> Result<(), SearchError> {
        self.beside.lock().unwrap().clear();
        Ok(())
    }
    async fn beside(&self) -> Result<(String, Arc<dyn Index>), SearchError> {
        let (name, new) = ("new".to_owned(), Arc::new(Fts::in_memory()));
        assert!(self.beside.lock().unwrap().insert(name.clone(), new.clone()).is_none(), "one at a time");
        Ok((name, new))
    }
    async fn put_in_place(&self, name: &str) -> Result<(), SearchError> {
        *self.there.lock().unwrap() = self.beside.lock().unwrap().remove(name);
        self.earlier.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// Notes, each of which takes a permit: without one an index stays half made.
struct Slowly(Arc<Semaphore>);

#[async_trait]
impl Projection for Slowly {
    fn name(&self) -> &'static str {
        "note"
    }
    fn concerns(&self, stream: &StreamId) -> bool {
        Notes("note").concerns(stream)
    }
    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
        self.0.acquire().await.unwrap().forget();
        Notes("note").document(store, stream).await
    }
}

/// Two replicas that are slow, over a log of ten notes.
struct Two {
    index: Arc<Together>,
    permits: Arc<Semaphore>,
    world: World,
    replicas: [(World, Projector); 2],
}

const MANY: usize = 1_000;

async fn two(earlier: Option<&World>) -> Two {
    let (index, permits) = (Arc::new(Together::default()), Arc::new(Semaphore::new(MANY)));
    let world = World::at(Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000))));
    for n in 0..10 {
        world.write(&format!("note-{n}"), "tea").await;
    }
    // Its positions are there: another log is told by its events, not by its length.
    world.store.read_all(0, 1).await.unwrap();
    if let Some(earlier) = earlier {
        let (earlier, projector) = earlier.replica(index.clone(), Notes("note"));
        projector.start();
        sleep(Duration::from_secs(2)).await;
        assert!(earlier.process.tasks.drain(Duration::from_secs(1)).await);
    }
    let replicas = [(); 2].map(|()| world.replica(index.clone(), Slowly(permits.clone())));
    Two { index, permits, world, replicas }
}

impl Two {
    /// What both are answered.
    async fn both(&self, text: &str) -> Result<usize, String> {
        let found = async |n: usize| {
            let page = self.replicas[n].1.search(&query(text)).await;
            page.map(|page| page.ids.len()).map_err(|why| why.to_string())
        };
        let (one, other) = (found(0).await, found(1).await);
        assert_eq!(one.is_ok(), other.is_ok(), "{one:?} {other:?}");
        one.and_then(|one| other.map(|other| assert_eq!(one, other)).map(|()| one))
    }

    fn start(&self) {
        self.replicas.iter().for_each(|(_, projector)| projector.start());
    }

    /// Half of it is made, and for longer than the lease of whoever makes it would run.
    async fn is_half_made(&self, answer: &Result<usize, &str>) {
        for _ in 0..20 {
            sleep(Duration::from_secs(1)).await;
            match (self.both("tea").await, answer) {
                (Ok(is), Ok(expected)) => assert_eq!(is, *expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (is, expected) => panic!("{is:?} {expected:?}"),
            }
        }
        assert_eq!(self.index.beside.lock().unwrap().len(), 1, "one of them makes it");
        assert_eq!(self.permits.available_permits(), 0);
    }

    async fn goes_on(&self) {
        self.permits.add_permits(MANY);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(self.both("tea").await, Ok(10));
        assert!(self.replicas.iter().all(|(world, _)| world.process.health.unready().is_empty()));
    }

    fn take_permits(&self, left: usize) {
        self.permits.forget_permits(self.permits.available_permits() - left);
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_index_searches_are_refused_until_one_is_complete() {
    let two = two(None).await;
    two.take_permits(5);
    two.start();
    two.is_half_made(&Err("the search index is unavailable")).await;
    two.goes_on().await;
    // Deleted under replicas that have answered already.
    two.take_permits(5);
    two.index.clear().await.unwrap();
    two.is_half_made(&Err("there is none")).await;
    two.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn an_index_of_another_log_answers_nobody_and_is_made_anew() {
    let older = World::at(Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000))));
    for _ in 0..3 {
        older.write("note-lost", "tea").await;
    }
    let two = two(Some(&older)).await;
    assert_eq!(two.index.all().await.unwrap(), [("note-lost".to_owned(), 3)]);
    two.take_permits(5);
    two.start();
    two.is_half_made(&Err("the search index is unavailable")).await;
    two.goes_on().await;
    // The log becomes another one while they run, as by a backup that is played back: theirs is further than it.
    let event = uuid::Uuid::from_u128(1);
    let further = Checkpoint { position: 1_000, event };
    two.index.write(Change { after: 0, documents: vec![], checkpoint: further }).await.unwrap();
    two.take_permits(5);
    sleep(EVERY + 2 * SHARED_PAUSE).await;
    two.is_half_made(&Err("the search index is unavailable")).await;
    two.goes_on().await;
}

/// Carried on, it would look like one of this log, and hold both: until it is replaced, and for good if whoever does that is killed.
#[tokio::test(start_paused = true)]
async fn a_rebuild_does_not_carry_an_index_of_another_log_on() {
    let older = World::at(Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000))));
    older.write("note-lost", "tea").await;
    let two = two(Some(&older)).await;
    let writes = two.index.writes.load(Ordering::SeqCst);
    let store: Arc<dyn Store> = two.world.store.clone();
    let rebuilt = renew(&store, &Notes("note"), two.index.as_ref(), two.world.process.ids.next()).await.unwrap();
    assert_eq!(rebuilt, Rebuilt { documents: 10, differences: 11 });
    assert_eq!(two.index.writes.load(Ordering::SeqCst), writes);
}

#[tokio::test(start_paused = true)]
async fn an_index_of_an_earlier_form_answers_until_its_successor_is_complete() {
    let two = two(None).await;
    two.start();
    two.goes_on().await;
    for (world, _) in &two.replicas {
        assert!(world.process.tasks.drain(Duration::from_secs(1)).await);
    }
    two.index.earlier.store(true, Ordering::SeqCst);
    two.world.write("note-10", "coffee").await;
    two.take_permits(5);
    let replicas = [(); 2].map(|()| two.world.replica(two.index.clone(), Slowly(two.permits.clone())));
    let two = Two { replicas, ..two };
    two.start();
    two.is_half_made(&Ok(10)).await;
    assert_eq!(two.both("coffee").await, Ok(0), "it is not written");
    let seen = Query { seen: "note-10@1".into(), ..query("coffee") };
    for (_, projector) in &two.replicas {
        assert!(matches!(projector.search(&seen).await, Err(SearchError::NotYet(_))), "nor is that hidden");
    }
    two.goes_on().await;
    assert_eq!(two.both("coffee").await, Ok(1));
}

/// While others write, the end of the log is never where the index is.
#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_under_load_answers_too() {
    let (index, world) = (Arc::new(Together::default()), World::at(Arc::new(TokioClock::starting_at(Timestamp(0)))));
    let (one, other) = (world.replica(index.clone(), Notes("note")), world.replica(index.clone(), Notes("note")));
    let load = async {
        for n in 0..2_000 {
            world.write(&format!("note-{}", n % 10), "tea").await;
            // Others read the log too, so that its latest positions are there.
            world.store.read_all(0, 1).await.unwrap();
            sleep(Duration::from_millis(2)).await;
        }
    };
    let start = async {
        one.1.start();
        sleep(Duration::from_secs(1)).await;
        other.1.start();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(one.1.search(&query("tea")).await.unwrap().ids.len(), 10);
        assert_eq!(other.1.search(&query("tea")).await.unwrap().ids.len(), 10);
    };
    futures::join!(load, start);
    // Four seconds of load, and a page each second.
    let writes = index.writes.load(Ordering::SeqCst);
    assert!(writes < 10, "{writes}");
}

/// Of two replicas one writes the index that they have together, both find what is in it, and when the one is killed or stops
/// the other goes on.
#[tokio::test(start_paused = true)]
async fn one_of_two_replicas_writes_the_index_that_they_share() {
    let index = Arc::new(Together::default());
    let first = World::at(Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000))));
    let replica = || first.replica(index.clone(), Notes("note"));
    let ((world, one), (other_world, other)) = (replica(), replica());
    one.start();
    other.start();
    sleep(Duration::from_secs(2)).await;
    let (version, patience) = (1, Duration::from_secs(10));
    for n in 0..5 {
        world.write(&format!("note-{n}"), "tea").await;
        let id = format!("note-{n}");
        let before = Instant::now();
        assert_eq!(other.wait_for(&id, version, patience).await, Ok(true));
        // The memory store shows its latest on the second look.
        assert!(before.elapsed() < 2 * SHARED_PAUSE + 2 * PAUSE, "{:?}", before.elapsed());
        assert_eq!(one.wait_for(&id, version, patience).await, Ok(true));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(index.writes.load(Ordering::SeqCst), 5, "each page by one of them");
    for projector in [&one, &other] {
        assert_eq!(projector.search(&query("tea")).await.unwrap().ids.len(), 5);
    }
    assert!(other_world.process.health.unready().is_empty());

    assert!(world.process.tasks.drain(Duration::from_secs(1)).await);
    other_world.write("note-5", "tea").await;
    assert_eq!(other.wait_for("note-5", version, Duration::from_secs(4)).await, Ok(true));

    // Killed with the lease: nobody gives it back.
    let mut killed = Turn::new(first.store.clone(), "projector-note".into(), first.process.ids.next());
    assert!(other_world.process.tasks.drain(Duration::from_secs(1)).await);
    assert_eq!(killed.is_mine().await, Ok(true));
    let (last_world, last) = replica();
    last.start();
    last_world.write("note-6", "tea").await;
    assert_eq!(last.wait_for("note-6", version, Duration::from_secs(3)).await, Ok(false));
    assert_eq!(last.wait_for("note-6", version, Duration::from_secs(6)).await, Ok(true));
    assert!(last_world.process.tasks.drain(Duration::from_secs(1)).await);
}

/// An index that one replica reaches over connections of its own, which it may lose.
struct CutOff {
    inner: Arc<Together>,
    off: AtomicBool,
}

impl CutOff {
    fn reached(&self) -> Result<&Together, SearchError> {
        let there = !self.off.load(Ordering::SeqCst);
        there.then_some(&*self.inner).ok_or_else(|| SearchError::Unavailable("no connection".to_owned()))
    }
}

#[async_trait]
impl Index for CutOff {
    async fn write(&self, change: Change) -> Result<(), SearchError> {
        self.reached()?.write(change).await
    }
    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        self.reached()?.checkpoint().await
    }
    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        self.reached()?.version(id).await
    }
    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        self.reached()?.find(terms, query, before).await
    }
    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.reached()?.all().await
    }
    async fn clear(&self) -> Result<(), SearchError> {
        self.reached()?.clear().await
    }
    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }
}

#[async_trait]
impl Shared for CutOff {
    async fn standing(&self) -> Result<Standing, SearchError> {
        self.reached()?.standing().await
    }
    async fn tidy(&self) -> Result<(), SearchError> {
        self.reached()?.tidy().await
    }
    async fn beside(&self) -> Result<(String, Arc<dyn Index>), SearchError> {
        self.reached()?.beside().await
    }
    async fn put_in_place(&self, name: &str) -> Result<(), SearchError> {
        self.reached()?.put_in_place(name).await
    }
}

/// The age of the oldest event that is not in the index, as a process tells it.
fn oldest_seconds(world: &World) -> f64 {
    let text = world.process.metrics.text();
    let age = text.lines().find_map(|line| line.strip_prefix("projection_oldest_seconds{projection=\"note\"} "));
    age.expect("it is measured").parse().unwrap()
}

/// A replica that cannot reach the index leaves the lease to one that can, and does not take it back; meanwhile both say how old the
/// oldest event is that nobody wrote.
#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_write_the_index_lets_another_do_it() {
    let inner = Arc::new(Together::default());
    let world = World::at(Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000))));
    let indexes = [(); 2].map(|()| Arc::new(CutOff { inner: inner.clone(), off: AtomicBool::new(false) }));
    let replicas = indexes.each_ref().map(|index| world.replica(index.clone(), Notes("note")));
    for (_, projector) in &replicas {
        projector.start();
        sleep(Duration::from_secs(10)).await;
    }
    let cut = |n: usize, off| indexes[n].off.store(off, Ordering::SeqCst);
    cut(0, true);
    cut(1, true);
    world.write("note-1", "tea").await;
    sleep(Duration::from_secs(60)).await;
    for (replica, _) in &replicas {
        assert!((50.0..=61.0).contains(&oldest_seconds(replica)), "{}", oldest_seconds(replica));
    }
    cut(1, false);
    let other = &replicas[1].1;
    assert_eq!(other.wait_for("note-1", 1, Duration::from_secs(20)).await, Ok(true));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(oldest_seconds(&replicas[1].0), 0.0);
    assert!(oldest_seconds(&replicas[0].0) > 100.0, "it only knows where the index was");

    // Nobody notices from here on that one of them is cut off.
    world.write("note-2", "tea").await;
    assert_eq!(other.wait_for("note-2", 1, 2 * SHARED_PAUSE + 2 * PAUSE).await, Ok(true));
    for (replica, _) in &replicas {
        assert!(replica.process.tasks.drain(Duration::from_secs(1)).await);
    }
}
