//! A projection that is stopped, started, killed and rebuilt shows the same as one that was not.
use clock::{Clock, Ids, SystemClock};
use decider::Decider;
use serde::{Deserialize, Serialize};
use store::folded::{self, Folded};
use store::memory::Memory;
use store::{Append, Commit, Expected, Meta, NewEvent};

use super::*;
use crate::fts::Fts;
use crate::rebuild::rebuild;

#[derive(Clone, Debug, Default, PartialEq)]
struct Note(String);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    Written { text: String },
}
impl Decider for Note {
    type Command = ();
    type Event = Event;
    type Rejection = ();
    fn decide(&self, (): &()) -> Result<Vec<Event>, ()> {
        Ok(vec![])
    }
    fn evolve(self, Event::Written { text }: &Event) -> Note {
        Note(text.clone())
    }
}

pub(crate) struct Notes(pub(crate) &'static str);

#[async_trait]
impl Projection for Notes {
    fn name(&self) -> &'static str {
        self.0
    }
    fn concerns(&self, stream: &StreamId) -> bool {
        stream.0.starts_with(self.0)
    }
    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
        let Folded { state, version }: Folded<Note> = folded::load(store, stream).await?;
        let (id, owner, facets) = (stream.0.to_string(), String::new(), Default::default());
        Ok(Some(Document { id, version, owner, facets, text: vec![state.0] }))
    }
}

pub(crate) struct World {
    pub(crate) process: Process,
    pub(crate) store: Arc<Memory>,
    pub(crate) meters: Meters,
}

impl World {
    fn new() -> World {
        World::at(Arc::new(SystemClock))
    }

    pub(crate) fn at(clock: Arc<dyn Clock>) -> World {
        let process = Process::new(clock.clone(), Arc::new(Ids::random(clock.clone())));
        World { store: Arc::new(Memory::new(clock)), meters: Meters::new(&process), process }
    }

    pub(crate) async fn write(&self, stream: &str, text: &str) {
        self.append(stream, folded::encode(&Event::Written { text: text.into() }, &self.process.ids)).await;
    }

    pub(crate) async fn append(&self, stream: &str, event: NewEvent) {
        let append = Append { stream: stream.into(), expected: Expected::Any, events: vec![event] };
        let id = self.process.ids.next().to_string();
        let commit = Commit { appends: vec![append], ..Commit::new(id.as_str().into(), Meta::default()) };
        self.store.commit(commit).await.unwrap();
    }

    fn projector(&self, index: &Arc<Fts>, notes: Notes) -> Projector {
        Projector::new(&self.process, self.store.clone(), index.clone(), Arc::new(notes), &self.meters)
    }

    /// A process over the same store.
    pub(crate) fn replica(&self, index: Arc<dyn Index>, notes: impl Projection) -> (World, Projector) {
        let process = Process::new(self.process.clock.clone(), self.process.ids.clone());
        let (store, meters) = (self.store.clone(), Meters::new(&process));
        let projector = Projector::new(&process, store.clone(), index, Arc::new(notes), &meters);
        (World { process, store, meters }, projector)
    }
}

pub(crate) fn query(text: &str) -> Query {
    Query { text: text.into(), size: 10, ..Query::default() }
}

/// ES-10: made anew or grown, stopped anywhere: the same documents, in the same order.
#[tokio::test]
async fn a_rebuilt_index_is_the_grown_one() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("notes.db");
    for n in 0..1_300 {
        world.write(&format!("note-{}", n * 7 % 311), &format!("text {n}")).await;
        // Killed and started again, at any point of the log; the memory store shows its latest on the second look.
        if n % 97 == 0 {
            let index = Arc::new(Fts::open(&file).unwrap());
            for _ in 0..n % 4 {
                world.projector(&index, Notes("note")).step().await.unwrap();
            }
        }
    }
    let rebuilt = rebuild(world.store.as_ref(), &Notes("note"), &file).await.unwrap();
    assert_eq!(rebuilt, Rebuilt { documents: 311, differences: 0 });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let index = Fts::open(&file).unwrap();
    assert_eq!(crate::search(&index, &query("1299")).await.unwrap().ids, ["note-74"]);
    drop(index);
    // What somebody changed behind its back is noticed.
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch("UPDATE documents SET version = version - 1 WHERE key = 5; DELETE FROM documents WHERE key = 7")
        .unwrap();
    drop(db);
    let rebuilt = rebuild(world.store.as_ref(), &Notes("note"), &file).await.unwrap();
    assert_eq!(rebuilt, Rebuilt { documents: 311, differences: 2 });
}

/// ES-11: an unknown event stops its projection, loudly, and no other; a program that knows it goes on.
#[tokio::test(start_paused = true)]
async fn an_unknown_event_stops_one_projection_and_is_not_passed_over() {
    let world = World::new();
    let (notes, memos) = (Arc::new(Fts::in_memory()), Arc::new(Fts::in_memory()));
    let (of_notes, of_memos) = (world.projector(&notes, Notes("note")), world.projector(&memos, Notes("memo")));
    of_notes.start();
    of_memos.start();
    world.write("note-1", "first").await;
    sleep(Duration::from_secs(2)).await;
    let unheard = NewEvent { id: world.process.ids.next(), kind: "Unheard".into(), schema: 1, data: "{}".into() };
    world.append("note-2", unheard).await;
    world.write("note-3", "third").await;
    world.write("memo-1", "other").await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(notes.checkpoint().await.unwrap().position, 1, "not passed over");
    assert_eq!(of_memos.search(&query("other")).await.unwrap().ids, ["memo-1"]);
    assert_eq!(of_notes.search(&query("first")).await.unwrap().ids, ["note-1"], "what was found is found");
    let missing = world.process.health.impaired();
    assert_eq!(missing.keys().collect::<Vec<_>>(), ["note search"]);
    assert!(missing["note search"].contains("Unheard"), "{missing:?}");

    /// As the next version of the program reads it.
    struct Wiser;
    #[async_trait]
    impl Projection for Wiser {
        fn name(&self) -> &'static str {
            "note"
        }
        fn concerns(&self, stream: &StreamId) -> bool {
            stream.0.starts_with("note") && *stream.0 != *"note-2"
        }
        async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
            Notes("note").document(store, stream).await
        }
    }
    let again = Projector::new(&world.process, world.store.clone(), notes.clone(), Arc::new(Wiser), &world.meters);
    while again.step().await.unwrap() > 0 {}
    assert_eq!(crate::search(notes.as_ref(), &query("third")).await.unwrap().ids, ["note-3"]);
}

/// Once the event can be read, nobody has to start anything again.
#[tokio::test(start_paused = true)]
async fn a_projection_goes_on_when_what_stopped_it_is_repaired() {
    /// Notes, of which one is beyond it at first.
    struct Learning(Arc<AtomicBool>);
    #[async_trait]
    impl Projection for Learning {
        fn name(&self) -> &'static str {
            "note"
        }
        fn concerns(&self, stream: &StreamId) -> bool {
            Notes("note").concerns(stream)
        }
        async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
            if *stream.0 == *"note-2" && !self.0.load(Ordering::SeqCst) {
                return Err(ReadError::Corrupt("it is beyond me".into()));
            }
            Notes("note").document(store, stream).await
        }
    }
    let (world, index, knows) = (World::new(), Arc::new(Fts::in_memory()), Arc::new(AtomicBool::new(false)));
    let learning = Arc::new(Learning(knows.clone()));
    let projector = Projector::new(&world.process, world.store.clone(), index, learning, &world.meters);
    projector.start();
    world.write("note-1", "first").await;
    sleep(Duration::from_secs(2)).await;
    world.write("note-2", "second").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.process.health.impaired()["note search"], "it stopped after position 1: it is beyond me");
    knows.store(true, Ordering::SeqCst);
    sleep(AFTER_UNREADABLE + Duration::from_secs(1)).await;
    assert_eq!(projector.search(&query("second")).await.unwrap().ids, ["note-2"]);
    assert!(world.process.health.impaired().is_empty());
    assert!(world.process.tasks.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn an_index_of_another_log_is_made_anew_and_nothing_is_answered_before() {
    let index = Arc::new(Fts::in_memory());
    let older = World::new();
    older.write("note-1", "lost").await;
    let projector = older.projector(&index, Notes("note"));
    while index.checkpoint().await.unwrap().position == 0 {
        projector.step().await.unwrap();
    }
    let world = World::new();
    world.write("note-2", "present").await;
    // Its positions are there: another log is told by its events, not by its length.
    world.store.read_all(0, 1).await.unwrap();
    let projector = world.projector(&index, Notes("note"));
    assert!(matches!(projector.search(&query("present")).await, Err(SearchError::Unavailable(_))));
    projector.start();
    assert!(projector.wait_for("note-2", 1, Duration::from_secs(5)).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(projector.search(&query("present")).await.unwrap().ids, ["note-2"]);
    assert_eq!(projector.search(&query("lost")).await.unwrap().ids, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn whoever_wrote_can_wait_to_read_it() {
    let (world, index) = (World::new(), Arc::new(Fts::in_memory()));
    let projector = world.projector(&index, Notes("note"));
    projector.start();
    sleep(Duration::from_secs(1)).await;
    world.write("note-1", "mine").await;
    assert_eq!(projector.search(&query("mine")).await.unwrap().ids, Vec::<String>::new(), "not yet");
    assert!(projector.wait_for("note-1", 1, Duration::from_secs(2)).await.unwrap());
    assert_eq!(projector.search(&query("mine")).await.unwrap().ids, ["note-1"]);
    world.write("note-1", "later").await;
    let seen = |seen: &str| Query { seen: seen.into(), ..query("later") };
    assert_eq!(projector.search(&seen("note-1@2")).await.unwrap().ids, ["note-1"]);
    for bad in ["note-1", "@1", "note-1@x", "note-1@-1"] {
        assert!(matches!(projector.search(&seen(bad)).await, Err(SearchError::Refused { field: "seen", .. })), "{bad}");
    }
    assert!(matches!(projector.search(&seen("note-1@9")).await, Err(SearchError::NotYet(_))));
    let started = Instant::now();
    assert!(!projector.wait_for("note-1", 3, Duration::from_secs(2)).await.unwrap());
    assert_eq!(started.elapsed().as_secs(), 2);
}
