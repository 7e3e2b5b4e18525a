//! What seals find out, on a real file that is tampered with behind the store's back.
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::sqlite::Sqlite;
use crate::{Append, Commit, Expected};
use clock::{Ids, SystemClock};
use rusqlite::Connection;
use tempfile::TempDir;

struct Sealed {
    folder: TempDir,
    events: u64,
}

impl Sealed {
    /// A log of so many events, of which so many are sealed.
    async fn new(events: u64, sealed: u64) -> Sealed {
        let this = Sealed { folder: tempfile::tempdir().unwrap(), events };
        let clock = Arc::new(SystemClock);
        let (store, ids) = (Sqlite::create(&this.db(), clock.clone()).unwrap(), Ids::random(clock));
        let mut seals = Seals::open(&this.seals(), true, None).unwrap();
        for n in 1..=events {
            let data = format!(r#"{{"n":{n}}}"#);
            let event = NewEvent { id: ids.next(), kind: "Happened".into(), schema: 1, data };
            let stream = format!("s-{}", n % 7).as_str().into();
            let appends = vec![Append { stream, expected: Expected::Any, events: vec![event] }];
            let meta = Meta { actor: "customer:1".into(), ..Meta::default() };
            store.commit(Commit { appends, ..Commit::new(format!("c{n}").as_str().into(), meta) }).await.unwrap();
            if n == sealed {
                while seal_page(&store, &mut seals).await.unwrap() > 0 {}
            }
        }
        this
    }
    fn db(&self) -> PathBuf {
        self.folder.path().join("a.db")
    }
    fn seals(&self) -> PathBuf {
        self.folder.path().join("a.seals")
    }
    /// Does something to the database that no store would.
    fn tamper(&self, sql: &str) {
        Connection::open(self.db()).unwrap().execute_batch(sql).unwrap();
    }
    async fn verdict(&self) -> Verdict {
        // Not by the store, which refuses some of this at once.
        let store = Sqlite::open(&self.db(), Arc::new(SystemClock)).unwrap();
        verify(&store, &self.seals()).await.unwrap()
    }
    async fn broken_at(&self) -> Position {
        match self.verdict().await {
            Verdict::Broken { position, .. } => position,
            good @ Verdict::Good { .. } => panic!("{good:?} of {}", self.events),
        }
    }
}

/// The first thing that sealing a log says is the matter.
async fn trouble(store: &dyn Store, seals: &Path) -> String {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let (watch, tell) = (FileWatch::default(), |why: Option<&SealError>| _ = told.send(why.map(ToString::to_string)));
    let sealing = std::pin::pin!(run(store, seals, &watch, tell));
    let heard = std::pin::pin!(heard.recv());
    let said = futures::future::select(heard, sealing).await;
    let futures::future::Either::Left((Some(Some(why)), _)) = said else { panic!("nothing is the matter") };
    why
}

#[tokio::test]
async fn an_untouched_log_is_good_and_what_has_no_seal_is_said_to_have_none() {
    assert_eq!(Sealed::new(20, 20).await.verdict().await, Verdict::Good { sealed: 20, unsealed: 0 });
    assert_eq!(Sealed::new(20, 12).await.verdict().await, Verdict::Good { sealed: 12, unsealed: 8 });
    assert_eq!(Sealed::new(1, 0).await.verdict().await, Verdict::Good { sealed: 0, unsealed: 1 });
}

/// ES-13: a change in any column of any event is found, by its position.
#[tokio::test]
async fn one_changed_column_is_found_at_its_position() {
    let changes = [
        "data = '{\"n\":99}'",
        "data = data || ' '",
        "type = 'Undone'",
        "schema = 2",
        "timestamp = timestamp + 1",
        "actor = 'customer:2'",
        "causation_id = 'x'",
        "correlation_id = 'x'",
        "traceparent = 'x'",
        "id = randomblob(16)",
        "version = 77",
        "stream = 1 + stream % 7",
    ];
    for (n, change) in changes.iter().enumerate() {
        let sealed = Sealed::new(20, 20).await;
        let position = 1 + n as u64 % 20;
        // A version that stands elsewhere in the new stream would be refused by the database.
        let also = if change.starts_with("stream") { ", version = version + 1000" } else { "" };
        sealed.tamper(&format!("UPDATE events SET {change}{also} WHERE position = {position}"));
        assert_eq!(sealed.broken_at().await, position, "{change}");
    }
}

#[tokio::test]
async fn a_cut_tail_is_found_and_not_sealed_over() {
    let sealed = Sealed::new(20, 20).await;
    sealed.tamper("DELETE FROM events WHERE position > 17");
    assert_eq!(sealed.broken_at().await, 18);
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    let refused = trouble(&store, &sealed.seals()).await;
    assert!(refused.contains("the log ends at position 17") && refused.contains("seals up to 20"), "{refused}");
}

#[tokio::test]
async fn a_row_put_in_is_found_where_it_stands() {
    let sealed = Sealed::new(20, 20).await;
    sealed.tamper(
        "UPDATE events SET position = -position - 1 WHERE position >= 9;
         UPDATE events SET position = -position WHERE position < 0;
         INSERT INTO events (position, id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent)
         SELECT 9, randomblob(16), stream, 900, type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent
         FROM events WHERE position = 8;",
    );
    assert_eq!(sealed.broken_at().await, 9);
}

#[tokio::test]
async fn half_a_seal_is_what_a_kill_left_and_is_made_anew() {
    let sealed = Sealed::new(20, 20).await;
    let whole = std::fs::read(sealed.seals()).unwrap();
    std::fs::write(sealed.seals(), &whole[..whole.len() - 5]).unwrap();
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    let mut seals = Seals::open(&sealed.seals(), true, None).unwrap();
    assert_eq!(seals.count, 19);
    assert_eq!(seal_page(&store, &mut seals).await.unwrap(), 1);
    assert_eq!(std::fs::read(sealed.seals()).unwrap(), whole);
}

#[tokio::test]
async fn what_is_no_file_of_seals_is_left_alone() {
    let sealed = Sealed::new(3, 3).await;
    std::fs::write(sealed.seals(), "a diary, and a long one at that, of forty or so characters").unwrap();
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    assert!(trouble(&store, &sealed.seals()).await.contains("is no file of seals"));
    assert!(matches!(verify(&store, &sealed.seals()).await, Err(SealError::Foreign(_))));
    assert!(std::fs::read_to_string(sealed.seals()).unwrap().starts_with("a diary"));
    std::fs::write(sealed.seals(), "a note").unwrap();
    assert!(trouble(&store, &sealed.seals()).await.contains("is no file of seals"));
    assert_eq!(std::fs::read_to_string(sealed.seals()).unwrap(), "a note");
    // Half of the first bytes is what a kill left of making the file.
    std::fs::write(sealed.seals(), &MAGIC[..9]).unwrap();
    assert_eq!(Seals::open(&sealed.seals(), true, None).unwrap().count, 0);
    assert_eq!(std::fs::read(sealed.seals()).unwrap(), MAGIC);
}

/// A store that is away the first few times that it is read.
struct AwayAtFirst(Sqlite, std::sync::atomic::AtomicU32);

#[async_trait::async_trait]
impl crate::wrapped::Wrapping for AwayAtFirst {
    fn inner(&self) -> &dyn Store {
        &self.0
    }

    async fn reading(&self) -> Result<(), ReadError> {
        match self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..6 => Err(ReadError::Unavailable("away".to_owned())),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_for_a_while_is_sealed_afterwards() {
    let sealed = Sealed::new(20, 5).await;
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    let store = crate::wrapped::Wrapped(AwayAtFirst(store, 0.into()));
    let for_ever =
        tokio::time::timeout(Duration::from_secs(60), run(&store, &sealed.seals(), &FileWatch::default(), |_| ()))
            .await;
    assert!(for_ever.is_err(), "it goes on: {for_ever:?}");
    drop(store);
    assert_eq!(sealed.verdict().await, Verdict::Good { sealed: 20, unsealed: 0 });
}

/// What passes is no end: sealing goes on once the file can be made, and once it can be written again.
#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_for_a_while_is_sealed_afterwards() {
    let sealed = Sealed::new(20, 0).await;
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    std::fs::remove_file(sealed.seals()).unwrap();
    let (later, watch) = (sealed.folder.path().join("later"), FileWatch::default());
    let seals = later.join("a.seals");
    let (told, heard) = std::sync::mpsc::channel();
    let sealing = run(&store, &seals, &watch, |why| told.send(why.map(ToString::to_string)).unwrap());
    let mended = async {
        sleep(5 * EVERY).await;
        std::fs::create_dir(&later).unwrap();
        sleep(5 * EVERY).await;
    };
    futures::future::select(std::pin::pin!(sealing), std::pin::pin!(mended)).await;
    let told: Vec<_> = heard.try_iter().collect();
    assert!(matches!(&told[0], Some(why) if why.contains("a.seals cannot be used")), "{told:?}");
    assert_eq!(told.last(), Some(&None), "it is over");
    assert_eq!(verify(&store, &seals).await.unwrap(), Verdict::Good { sealed: 20, unsealed: 0 });

    // A write that fails half-way leaves what nobody knows.
    let mut sealer = Sealer { path: &seals, watch: &watch, seals: None, kept: Some(12) };
    let mut broken = Seals::open(&seals, false, Some(12)).unwrap();
    std::fs::OpenOptions::new().append(true).open(&seals).unwrap().write_all(&[7; 100]).unwrap();
    broken.file = File::open(&seals).unwrap();
    sealer.seals = Some(broken);
    assert!(matches!(sealer.seal_page(&store).await, Err(SealError::File { .. })), "it cannot be written");
    assert_eq!(sealer.seal_page(&store).await.unwrap(), 8);
    assert_eq!(verify(&store, &seals).await.unwrap(), Verdict::Good { sealed: 20, unsealed: 0 });
}

/// A file that is gone is never made anew: the log would be sealed as it is by then.
#[tokio::test(start_paused = true)]
async fn a_file_that_was_removed_is_not_made_anew_and_goes_on_when_it_is_back() {
    let sealed = Sealed::new(20, 0).await;
    let store = Sqlite::open(&sealed.db(), Arc::new(SystemClock)).unwrap();
    let (seals, aside, watch) = (sealed.seals(), sealed.folder.path().join("aside"), FileWatch::default());
    let mut sealer = Sealer { path: &seals, watch: &watch, seals: None, kept: None };
    assert_eq!(sealer.seal_page(&store).await.unwrap(), 20);
    std::fs::rename(&seals, &aside).unwrap();
    for _ in 0..3 {
        let lost = sealer.seal_page(&store).await.unwrap_err();
        assert!(matches!(lost, SealError::Lost(_)), "{lost}");
        assert!(!seals.exists(), "it was made anew");
    }
    std::fs::rename(&aside, &seals).unwrap();
    assert_eq!(sealer.seal_page(&store).await.unwrap(), 0);
    assert_eq!(verify(&store, &seals).await.unwrap(), Verdict::Good { sealed: 20, unsealed: 0 });
}
