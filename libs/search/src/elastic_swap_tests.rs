//! An index on a real server is made anew while replicas write and search it, and by processes that are killed.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use clock::{Clock, SystemClock, Timestamp};
use store::{ReadError, Store, StreamId};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::tests::{Left, indices, nothing_yet, other, server};
use super::*;
use crate::contract::put_there;
use crate::projection::tests::{Notes, World, query};
use crate::projection::{Projection, Projector, Stopped};
use crate::rebuild::{Rebuilt, renew};
use crate::{Document, search};

const NOTES: usize = 120;

/// The machine's clock, and what a test adds: leases run out without a wait.
#[derive(Default)]
struct Later(AtomicI64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0.load(Ordering::SeqCst))
    }
}

struct Scene {
    server: String,
    elastic: Arc<Elastic>,
    clock: Arc<Later>,
    world: World,
    _left: Left,
}

async fn scene() -> Option<Scene> {
    let server = server()?;
    let (elastic, left) = nothing_yet(server.clone());
    let clock = Arc::new(Later::default());
    let world = World::at(clock.clone());
    for n in 0..NOTES {
        world.write(&format!("note-{n}"), "tea").await;
    }
    Some(Scene { server, elastic, clock, world, _left: left })
}

impl Scene {
    async fn renew(&self) -> Result<Rebuilt, Stopped> {
        let store: Arc<dyn Store> = self.world.store.clone();
        let again = other(&self.elastic, &self.server);
        renew(&store, &Notes("note"), &again, self.world.process.ids.next()).await
    }

    /// A replica that has come to the end of the log.
    async fn replica(&self) -> (World, Projector) {
        let (world, projector) = self.world.replica(Arc::new(other(&self.elastic, &self.server)), Notes("note"));
        projector.start();
        for _ in 0..200 {
            if projector.search(&query("tea")).await.is_ok() {
                return (world, projector);
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", projector.search(&query("tea")).await);
    }
}

/// All pages of a search, which must hold every note once.
async fn all_pages(projector: &Projector) {
    let (mut ids, mut asked) = (vec![], Query { size: 25, ..query("tea") });
    loop {
        let page = projector.search(&asked).await.unwrap();
        ids.extend(page.ids);
        if page.next_page_token.is_empty() {
            break;
        }
        asked.page_token = page.next_page_token;
    }
    let once: BTreeSet<_> = ids.iter().cloned().collect();
    assert_eq!(once.len(), ids.len(), "nothing twice: {ids:?}");
    let missing: Vec<_> = (0..NOTES).map(|n| format!("note-{n}")).filter(|id| !once.contains(id)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[tokio::test]
async fn while_it_is_made_anew_everything_is_found_and_nothing_that_is_written_is_lost() {
    let Some(scene) = scene().await else { return };
    let ((one_world, one), (other_world, other)) = tokio::join!(scene.replica(), scene.replica());
    assert_eq!(indices(&scene.elastic).await.len(), 1, "both met none");
    let (done, written, searched) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let writes = async {
        while !done.load(Ordering::SeqCst) {
            let n = written.fetch_add(1, Ordering::SeqCst);
            scene.world.write(&format!("note-{}", n % NOTES), "green tea").await;
            scene.world.write(&format!("note-new-{n}"), "coffee").await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    let searches = async |projector: &Projector| {
        while !done.load(Ordering::SeqCst) {
            all_pages(projector).await;
            searched.fetch_add(1, Ordering::SeqCst);
        }
    };
    let renewals = async {
        for _ in 0..4 {
            let Rebuilt { differences, .. } = scene.renew().await.unwrap();
            assert_eq!(differences, 0, "what is written meanwhile is no difference");
        }
        let (first, second) = tokio::join!(scene.renew(), scene.renew());
        let why = [first, second].into_iter().find_map(Result::err).unwrap().to_string();
        assert!(why.contains("by another process"), "{why}");
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(writes, searches(&one), searches(&other), renewals);
    let (written, searched) = (written.into_inner(), searched.into_inner());
    assert!(written > 20 && searched > 5, "{written} {searched}");
    let last = format!("note-new-{}", written - 1);
    assert_eq!(one.wait_for(&last, 1, Duration::from_secs(10)).await, Ok(true));
    assert_eq!(
        scene.elastic.all().await.unwrap().len(),
        NOTES + written,
        "by those who wrote it, before it is made anew"
    );
    assert_eq!(scene.renew().await.unwrap(), Rebuilt { documents: NOTES + written, differences: 0 });
    assert_eq!(indices(&scene.elastic).await.len(), 1);
    assert!(one_world.process.tasks.drain(Duration::from_secs(2)).await);
    assert!(other_world.process.tasks.drain(Duration::from_secs(2)).await);
}

#[tokio::test]
async fn a_rebuild_that_is_killed_anywhere_leaves_one_whole_index_and_the_next_removes_what_it_left() {
    let Some(scene) = scene().await else { return };
    scene.renew().await.unwrap();
    let (mut killed, mut orphans, mut after) = (0, 0, Duration::from_millis(5));
    loop {
        let ended = timeout(after, scene.renew()).await;
        let found = search(&other(&scene.elastic, &scene.server), &Query { size: 1_000, ..query("tea") }).await;
        assert_eq!(found.unwrap().ids.len(), NOTES, "after {after:?}");
        if let Ok(renewed) = ended {
            renewed.unwrap();
            break;
        }
        killed += 1;
        orphans += usize::from(indices(&scene.elastic).await.len() > 1);
        // Its lease runs out.
        scene.clock.0.fetch_add(6_000_000, Ordering::SeqCst);
        after += Duration::from_millis(15);
    }
    assert!(killed > 3 && orphans > 1, "{killed} {orphans}");
    // What the last of them asked for may have been carried out after the one that came to its end had looked.
    scene.renew().await.unwrap();
    assert_eq!(indices(&scene.elastic).await.len(), 1);
}

#[tokio::test]
async fn what_somebody_changed_behind_its_back_is_counted_and_healed() {
    let Some(scene) = scene().await else { return };
    assert_eq!(scene.renew().await.unwrap(), Rebuilt { documents: NOTES, differences: NOTES }, "there was none");
    let index = scene.elastic.behind().await.unwrap().name.clone();
    let client = &scene.elastic.client;
    for path in ["note-3", "note-5"] {
        client.accepted(client.delete(&format!("/{index}/_doc/{path}")).await.unwrap()).unwrap();
    }
    let extra = serde_json::json!({"place": 100_000, "owner": "", "words": ["tea"]});
    client.accepted(client.put(&format!("/{index}/_doc/extra"), extra).await.unwrap()).unwrap();
    // Not read yet, and so no difference.
    scene.world.write("note-0", "green tea").await;
    assert_eq!(scene.renew().await.unwrap(), Rebuilt { documents: NOTES, differences: 3 });
    assert_eq!(scene.renew().await.unwrap(), Rebuilt { documents: NOTES, differences: 0 });
}

/// A log that cannot be read to its end: what is there stays, and nothing is left beside it.
#[tokio::test]
async fn a_rebuild_that_fails_changes_nothing() {
    let Some(scene) = scene().await else { return };
    scene.renew().await.unwrap();
    let before = indices(&scene.elastic).await;
    let event =
        store::NewEvent { id: scene.world.process.ids.next(), kind: "Unheard".into(), schema: 1, data: "{}".into() };
    scene.world.append("note-7", event).await;
    assert!(matches!(scene.renew().await, Err(Stopped::Log(ReadError::Corrupt(_)))));
    assert_eq!((indices(&scene.elastic).await, scene.elastic.all().await.unwrap().len()), (before, NOTES));
}

/// Waits in the middle of a step.
struct Waiting(Arc<Semaphore>);

#[async_trait]
impl Projection for Waiting {
    fn name(&self) -> &'static str {
        "note"
    }
    fn concerns(&self, stream: &StreamId) -> bool {
        Notes("note").concerns(stream)
    }
    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
        let _permit = self.0.acquire().await.unwrap();
        Notes("note").document(store, stream).await
    }
}

/// The dangerous one, with the writer as it is: its step began at the end of the old index, and the new one is behind that.
#[tokio::test]
async fn a_step_that_began_before_the_swap_leaves_no_gap_in_the_new_index() {
    let Some(scene) = scene().await else { return };
    put_there(scene.elastic.as_ref()).await;
    let gate = Arc::new(Semaphore::new(1));
    let (_world, writer) = scene.world.replica(scene.elastic.clone(), Waiting(gate.clone()));
    while scene.elastic.checkpoint().await.unwrap().position < NOTES as u64 {
        writer.step().await.unwrap();
    }
    scene.world.write("note-last", "tea").await;
    // The memory store shows its latest on the second look.
    assert_eq!(writer.step().await.unwrap(), 0);
    gate.forget_permits(1);
    let swap = async {
        sleep(Duration::from_millis(300)).await;
        put_there(&other(&scene.elastic, &scene.server)).await;
        gate.add_permits(1);
    };
    let (step, ()) = tokio::join!(writer.step(), swap);
    let why = step.unwrap_err().to_string();
    assert!(why.contains("it is at position 0 and was to go on after 120"), "{why}");
    while writer.step().await.unwrap() > 0 {}
    assert_eq!(scene.elastic.all().await.unwrap().len(), NOTES + 1);
}
