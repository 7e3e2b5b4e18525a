//! Wakes whoever follows an order when something happens to it.
//!
//! # Problem
//! A request that waits for one order, and looks whenever the log has grown, looks for every event of every other order: followers
//! times events.
//!
//! # Pattern
//! Fan-out: one subscription to the log for the whole process, which wakes the followers of the stream that has grown.
//!
//! # Here
//! What this process does to an order wakes its followers at once ([`Followers::wake`]). What other replicas do is found in the log,
//! which is read from its end on for as long as somebody asks for that ([`Follower::read_log`]).
//!
//! # Limits
//! While one order is followed so, every replica with a follower reads every event of the log once more.
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::select;
use host::tasks::Tasks;
use store::{Position, ReadError, Store, StreamId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// So many events are read at once.
const PAGE: usize = 500;
/// The least time between two looks at the log.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the log is read although nobody said that it grew, or it could not be read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Who follows which order. Clones share it.
#[derive(Clone)]
pub(crate) struct Followers(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    tasks: Tasks,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    streams: BTreeMap<StreamId, watch::Sender<()>>,
    /// How many followers want the log to be read.
    by_log: usize,
    is_read: bool,
}

/// Somebody who follows an order: what happens from here on is noticed.
pub(crate) struct Follower {
    followers: Followers,
    stream: StreamId,
    /// Present until it is dropped, under the lock.
    woken: Option<watch::Receiver<()>>,
    by_log: bool,
}

impl Followers {
    pub(crate) fn new(store: Arc<dyn Store>, tasks: Tasks) -> Followers {
        Followers(Arc::new(Inner { store, tasks, followed: Mutex::default() }))
    }

    /// Begins to follow the order with this stream.
    pub(crate) fn follow(&self, stream: StreamId) -> Follower {
        let woken = self.followed().streams.entry(stream.clone()).or_default().subscribe();
        Follower { followers: self.clone(), stream, woken: Some(woken), by_log: false }
    }

    /// Something durable happened to the order with this stream.
    pub(crate) fn wake(&self, stream: &StreamId) {
        if let Some(followers) = self.followed().streams.get(stream) {
            followers.send_replace(());
        }
    }

    fn wake_all(&self) {
        for followers in self.followed().streams.values() {
            followers.send_replace(());
        }
    }

    /// Reads the log for as long as somebody wants that.
    async fn read(self) {
        let (mut growth, mut after) = (self.0.store.growth(), None);
        while self.is_wanted() {
            // Before looking: what is recorded after the look ends the wait.
            growth.borrow_and_update();
            match self.read_page(&mut after).await {
                Ok(PAGE) => {}
                Ok(_) => {
                    // Either ends the wait.
                    let _ = timeout(LOOK_EVERY, growth.changed()).await;
                    sleep(PAUSE).await;
                }
                Err(_) => {
                    // They look for themselves, and answer why they cannot.
                    self.wake_all();
                    sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    async fn read_page(&self, after: &mut Option<Position>) -> Result<usize, ReadError> {
        let Inner { store, .. } = self.0.as_ref();
        let Some(position) = after else {
            *after = Some(store.end().await?);
            // What was recorded before the end is not read: it may be news to those who looked before this.
            self.wake_all();
            return Ok(0);
        };
        let page = store.read_all(*position, PAGE).await?;
        for recorded in &page {
            self.wake(&recorded.stream);
            *position = recorded.position.unwrap_or(*position);
        }
        Ok(page.len())
    }

    fn is_wanted(&self) -> bool {
        let mut followed = self.followed();
        followed.is_read = followed.by_log > 0;
        followed.is_read
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Lets also wake what other replicas do.
    pub(crate) fn read_log(&mut self) {
        if std::mem::replace(&mut self.by_log, true) {
            return;
        }
        let mut followed = self.followers.followed();
        followed.by_log += 1;
        if !std::mem::replace(&mut followed.is_read, true) {
            self.followers.0.tasks.spawn_until_stop(self.followers.clone().read());
        }
    }

    /// Whether what other replicas do wakes, too.
    pub(crate) fn reads_log(&self) -> bool {
        self.by_log
    }

    /// Resolves when something may have happened to the order since this resolved last, or since it is followed; and when the
    /// process stops.
    pub(crate) async fn woken(&mut self) {
        if let Some(woken) = &mut self.woken {
            // The sender lives as long as this does.
            select(pin!(woken.changed()), pin!(self.followers.0.tasks.stopping())).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followed = self.followers.followed();
        self.woken = None;
        followed.by_log -= usize::from(self.by_log);
        if followed.streams.get(&self.stream).is_some_and(|followers| followers.receiver_count() == 0) {
            followed.streams.remove(&self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clock::{Ids, SystemClock};
    use store::memory::Memory;
    use store::{Append, Commit, Expected, Meta, NewEvent};
    use tokio::time::Instant;

    struct World {
        store: Arc<Memory>,
        tasks: Tasks,
        followers: Followers,
        ids: Ids,
    }

    impl World {
        fn new() -> World {
            let clock = Arc::new(SystemClock);
            let (store, tasks) = (Arc::new(Memory::new(clock.clone())), Tasks::default());
            let followers = Followers::new(store.clone(), tasks.clone());
            World { store, tasks, followers, ids: Ids::random(clock) }
        }

        /// What another replica records.
        async fn record(&self, stream: &str) {
            let event = NewEvent { id: self.ids.next(), kind: "Happened".into(), schema: 1, data: "{}".into() };
            let append = Append { stream: stream.into(), expected: Expected::Any, events: vec![event] };
            let id = self.ids.next().to_string().into();
            self.store.commit(Commit { appends: vec![append], ..Commit::new(id, Meta::default()) }).await.unwrap();
        }

        fn follow(&self, stream: &str) -> Follower {
            let mut follower = self.followers.follow(stream.into());
            follower.read_log();
            follower
        }
    }

    /// Whether something wakes the follower within an hour; else nothing can.
    async fn wakes(follower: &mut Follower) -> bool {
        timeout(Duration::from_secs(3_600), follower.woken()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_is_woken_by_its_own_order_only() {
        let world = World::new();
        let (mut one, mut two) = (world.follow("order-1"), world.follow("order-2"));
        assert!(wakes(&mut one).await && wakes(&mut two).await, "what was recorded before the log is read may be news");
        for _ in 0..3 {
            world.record("order-1").await;
            let started = Instant::now();
            assert!(wakes(&mut one).await);
            assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
            assert!(!wakes(&mut two).await);
        }
        world.followers.wake(&"order-2".into());
        assert!(wakes(&mut two).await);
        assert!(!wakes(&mut one).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_between_a_look_and_the_first_read_of_the_log_wakes() {
        let world = World::new();
        let mut follower = world.follow("order-1");
        world.record("order-1").await;
        world.store.read_all(0, 1).await.unwrap();
        assert_eq!(world.store.end().await, Ok(1), "it will be read from there on");
        assert!(wakes(&mut follower).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_is_read_only_while_somebody_wants_it() {
        let world = World::new();
        let own = world.followers.follow("order-1".into());
        assert_eq!(world.tasks.count(), 0);
        let others = [world.follow("order-1"), world.follow("order-2")];
        assert_eq!(world.tasks.count(), 1, "once for both");
        drop(others);
        sleep(2 * LOOK_EVERY).await;
        assert_eq!((world.tasks.count(), world.followers.followed().streams.len()), (0, 1));
        let mut again = world.follow("order-3");
        assert!(wakes(&mut again).await, "it is read again");
        drop((own, again));
        assert!(world.followers.followed().streams.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_wakes_everybody() {
        let world = World::new();
        let mut follower = world.followers.follow("order-1".into());
        assert!(world.tasks.drain(Duration::from_secs(1)).await);
        assert!(wakes(&mut follower).await);
    }
}
