use super::*;
use crate::Found;
use crate::contract::kept;
use async_trait::async_trait;
use futures::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const FRESH: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(1);

/// A store of one value that is its version, and takes its time.
#[derive(Default)]
struct Store {
    version: AtomicU64,
    loads: AtomicU64,
    away: AtomicBool,
    hangs: AtomicBool,
}

impl Store {
    fn write(&self) -> Version {
        self.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn read(self: &Arc<Store>, through: &ReadThrough) -> Result<Option<Kept>, ReadError> {
        let store = self.clone();
        let load = move |_| {
            let load = async move {
                store.loads.fetch_add(1, Ordering::SeqCst);
                if store.hangs.load(Ordering::SeqCst) {
                    futures::future::pending::<()>().await;
                }
                if store.away.load(Ordering::SeqCst) {
                    return Err(ReadError::Unavailable("it is away".into()));
                }
                let version = store.version.load(Ordering::SeqCst);
                tokio::time::sleep(10 * TICK).await;
                Ok((version > 0).then(|| (version, Bytes::from(version.to_string()))))
            };
            load.boxed()
        };
        through.read("tea", load).await
    }

    async fn version(self: &Arc<Store>, through: &ReadThrough) -> Version {
        let kept = self.read(through).await.unwrap().unwrap();
        assert_eq!(kept.value, kept.version.to_string());
        kept.version
    }
}

/// A cache that can be away: it takes its time to say so.
struct Door(Memory, AtomicBool);

impl Door {
    fn new() -> Arc<Door> {
        Arc::new(Door(Memory::new(100, KEEP), AtomicBool::new(true)))
    }

    async fn pass(&self) -> Result<(), Away> {
        if self.1.load(Ordering::SeqCst) {
            return Ok(());
        }
        tokio::time::sleep(50 * TICK).await;
        Err(Away("it is away".into()))
    }
}

#[async_trait]
impl Cache for Door {
    async fn get(&self, key: &str) -> Result<Found, Away> {
        self.pass().await?;
        self.0.get(key).await
    }

    async fn put(&self, key: &str, new: Kept) -> Result<(), Away> {
        self.pass().await?;
        self.0.put(key, new).await
    }
}

fn replica(far: &Arc<Door>) -> ReadThrough {
    ReadThrough::new(&Metrics::default(), far.clone(), FRESH)
}

fn counted(through: &ReadThrough, outcome: &str) -> u64 {
    through.0.reads.with_label_values(&[outcome]).get() as u64
}

#[tokio::test(start_paused = true)]
async fn of_many_readers_at_once_one_asks_the_store() {
    let (store, through) = (Arc::new(Store::default()), replica(&Door::new()));
    store.write();
    assert_eq!(join_all((0..64).map(|_| store.version(&through))).await, [1; 64]);
    assert_eq!((store.loads(), counted(&through, "miss"), counted(&through, "joined")), (1, 1, 63));
    assert_eq!(store.version(&through).await, 1);
    assert_eq!((store.loads(), counted(&through, "near")), (1, 1));
    assert!(lock(&through.0.flights).is_empty());
}

/// The one that asks goes away in the middle, and the others do not wait for ever.
#[tokio::test(start_paused = true)]
async fn a_reader_who_leaves_takes_nobody_along() {
    let (store, through) = (Arc::new(Store::default()), replica(&Door::new()));
    store.write();
    let impatient = timeout(5 * TICK, store.version(&through));
    let (left, read) = tokio::join!(impatient, store.version(&through));
    assert!(left.is_err());
    assert_eq!((read, store.loads()), (1, 1));
    // Nobody is left who waits: what was read then is not what the next one gets.
    tokio::time::advance(FRESH).await;
    timeout(5 * TICK, store.version(&through)).await.unwrap_err();
    store.write();
    tokio::time::advance(5 * TICK).await;
    assert_eq!(store.version(&through).await, 2);
}

#[tokio::test(start_paused = true)]
async fn replicas_share_what_one_has_read_and_none_shows_it_for_longer() {
    let (store, far) = (Arc::new(Store::default()), Door::new());
    let (one, two) = (replica(&far), replica(&far));
    store.write();
    assert_eq!(store.version(&one).await, 1);
    store.write();
    tokio::time::advance(200 * TICK).await;
    assert_eq!(store.version(&two).await, 1, "what the other has read, while it is fresh");
    assert_eq!((store.loads(), counted(&two, "hit")), (1, 1));
    tokio::time::advance(50 * TICK).await;
    assert_eq!(store.version(&two).await, 2, "its age counts from the reading of the store");
    assert_eq!(store.version(&one).await, 2);
    assert_eq!(store.loads(), 2);
}

/// A write during a load, which then brings less than the writer has shown.
#[tokio::test(start_paused = true)]
async fn a_reader_never_goes_back() {
    let (store, far) = (Arc::new(Store::default()), Door::new());
    let (one, two) = (replica(&far), replica(&far));
    store.write();
    let write = async {
        tokio::time::sleep(5 * TICK).await;
        one.wrote("tea".into(), store.write(), "2".into()).await;
    };
    let (read, ()) = tokio::join!(store.version(&one), write);
    assert_eq!(read, 2);
    assert_eq!(store.version(&one).await, 2);
    assert_eq!(far.0.look("tea").map(|kept| kept.version), Some(2));
    // The shared cache has lost it and got an older one, which is fresh.
    tokio::time::advance(FRESH).await;
    let older = Door::new();
    older.put("tea", Kept { complete: older.0.now(), ..kept(1, 0, "1") }).await.unwrap();
    let inner = Arc::try_unwrap(one.0).unwrap_or_else(|_| panic!("it is shared"));
    let one = ReadThrough(Arc::new(Inner { far: older, ..inner }));
    assert_eq!(store.version(&one).await, 2);
    drop(two);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_what_is_known_is_shown_up_to_its_limit() {
    let (store, far) = (Arc::new(Store::default()), Door::new());
    let (one, two) = (replica(&far), replica(&far));
    store.write();
    assert_eq!(store.version(&one).await, 1);
    store.away.store(true, Ordering::SeqCst);
    tokio::time::advance(KEEP - 20 * TICK).await;
    assert_eq!(store.version(&one).await, 1);
    assert_eq!(store.version(&two).await, 1, "it has never seen the store");
    assert_eq!((counted(&one, "stale"), counted(&two, "stale")), (1, 1));
    tokio::time::advance(20 * TICK).await;
    for replica in [&one, &two] {
        assert!(matches!(store.read(replica).await, Err(ReadError::Unavailable(_))));
    }
}

/// A store that hangs costs a reader some time, and the next ones none.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_left_alone_for_a_while() {
    let (store, through) = (Arc::new(Store::default()), replica(&Door::new()));
    store.write();
    assert_eq!(store.version(&through).await, 1);
    store.hangs.store(true, Ordering::SeqCst);
    tokio::time::advance(FRESH).await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(store.version(&through).await, 1);
    }
    assert!(begun.elapsed() <= PATIENCE + TICK, "{:?}", begun.elapsed());
    store.hangs.store(false, Ordering::SeqCst);
    store.write();
    tokio::time::advance(REST).await;
    assert_eq!(store.version(&through).await, 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_shared_cache_it_is_slower_and_never_wrong() {
    let (store, far) = (Arc::new(Store::default()), Door::new());
    far.1.store(false, Ordering::SeqCst);
    let through = replica(&far);
    let begun = Instant::now();
    for version in (1..20).step_by(2) {
        through.wrote("tea".into(), store.write(), version.to_string().into()).await;
        assert_eq!(store.version(&through).await, version, "its own");
        store.write();
        tokio::time::advance(FRESH).await;
        assert_eq!(store.version(&through).await, version + 1, "another one's");
    }
    let (fresh, asked) = (10 * FRESH, 30 * 50 * TICK);
    assert!(begun.elapsed() <= fresh + asked + 20 * 15 * TICK, "{:?}", begun.elapsed());
    assert!(through.0.errors.get() > 0.0);
}
