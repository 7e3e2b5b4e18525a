//! What only the embedded bus can show: reopening, kills and bad files.
use std::fs;
use std::path::PathBuf;

use futures::FutureExt;
use store::sqlite::Refusal;
use tempfile::TempDir;

use super::*;
use crate::contract::{Subject, acknowledge, hold_the_contract, message, numbers, soon, take, waits};

async fn make() -> Subject {
    let (folder, file) = place();
    Subject::new(Arc::new(Sqlite::create(&file).unwrap()), folder)
}
hold_the_contract!(make);

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bus.db");
    (folder, file)
}

fn open(file: &Path) -> Subject {
    Subject::new(Arc::new(Sqlite::open(file).unwrap()), ())
}

fn change(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

fn refused(file: &Path) -> Refusal {
    let refused = Sqlite::open(file).err().expect("it is refused");
    assert!(refused.to_string().starts_with(&*file.to_string_lossy()), "{refused}");
    refused.reason
}

#[tokio::test]
async fn reopening_keeps_messages_and_what_was_acknowledged() {
    let (folder, file) = place();
    let subject = Subject::new(Arc::new(Sqlite::create(&file).unwrap()), ());
    subject.filled(3, 10, 60).await;
    let mut sub = subject.subscribe("g").await;
    let taken = take(&mut sub, 60, 9).await;
    let (done, left): (Vec<_>, Vec<_>) = taken.into_iter().partition(|one| one.partition > 0);
    acknowledge(&mut sub, &done).await;
    drop(sub);
    drop(subject);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "one file is left, without a log");

    let subject = open(&file);
    assert_eq!((subject.lag("g").await, subject.lag("new").await), (left.len() as u64, 60));
    let mut sub = subject.subscribe("g").await;
    assert_eq!(take(&mut sub, left.len(), 7).await, left);
    waits(&mut sub);
    subject.publish(10, 60..80).await;
    assert_eq!(take(&mut subject.subscribe("new").await, 80, 20).await.len(), 80);
}

/// A copy of the file and its log, made while the bus is open, is what a killed process leaves.
#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let (folder, file) = place();
    let subject = Subject::new(Arc::new(Sqlite::create(&file).unwrap()), ());
    subject.filled(1, 1, 10).await;
    let mut sub = subject.subscribe("g").await;
    take(&mut sub, 10, 10).await;
    sub.acknowledge("t", 0, 6).await.unwrap();
    sub.acknowledge("t", 0, 2).await.unwrap();
    // What is answered after an acknowledgement was queued behind it.
    subject.publish(1, 10..11).await;
    let copy = folder.path().join("copy.db");
    fs::copy(&file, &copy).unwrap();
    fs::copy(folder.path().join("bus.db-wal"), folder.path().join("copy.db-wal")).unwrap();
    let after = open(&copy);
    assert_eq!(numbers(&take(&mut after.subscribe("g").await, 4, 9).await), [7, 8, 9, 10]);
}

#[tokio::test]
async fn a_subscription_that_is_left_says_that_the_bus_is_closed() {
    let subject = make().await;
    subject.filled(1, 1, 1).await;
    let mut sub = subject.subscribe("g").await;
    let mut waiting = subject.subscribe("g").await;
    take(&mut sub, 1, 1).await;
    let mut next = waiting.next(1);
    assert!((&mut next).now_or_never().is_none());
    let closed = |error| matches!(error, Err(BusError::Unavailable(why)) if why.ends_with("bus.db: it is closed"));
    drop(subject);
    assert!(closed(soon(next).await.map(drop)));
    assert!(closed(soon(sub.next(1)).await.map(drop)));
    assert!(closed(sub.acknowledge("t", 0, 0).await));
}

#[tokio::test]
async fn a_bad_file_is_refused_by_name_and_left_as_it_is() {
    let (folder, file) = place();
    assert_eq!(refused(&file), Refusal::Missing);
    let subject = Subject::new(Arc::new(Sqlite::create(&file).unwrap()), ());
    subject.filled(2, 9, 300).await;
    let mut sub = subject.subscribe("g").await;
    let taken = take(&mut sub, 300, 300).await;
    acknowledge(&mut sub, &taken).await;
    drop((sub, subject));
    assert_eq!(Sqlite::create(&file).err().map(|error| error.reason), Some(Refusal::Exists));

    let whole = fs::read(&file).unwrap();
    for (bytes, refusal) in [(vec![], Refusal::Empty), (b"no".repeat(99), Refusal::NotADatabase)] {
        fs::write(&file, &bytes).unwrap();
        assert_eq!(refused(&file), refusal);
        assert!(fs::read(&file).unwrap() == bytes, "{refusal} left it as it was");
    }
    fs::write(&file, &whole[..whole.len() - 4_096]).unwrap();
    assert!(matches!(refused(&file), Refusal::Torn { missing: 1, .. }));
    let mut scratched = whole.clone();
    scratched[3 * 4_096..4 * 4_096].fill(7);
    fs::write(&file, scratched).unwrap();
    assert!(matches!(refused(&file), Refusal::Damaged(_)));
    let store = folder.path().join("store.db");
    drop(store::sqlite::Sqlite::create(&store, Arc::new(clock::SystemClock)).unwrap());
    assert_eq!(refused(&store), Refusal::Foreign(0x4a41_4e47));

    for (sql, why) in [
        ("DELETE FROM messages WHERE partition = 0 AND offset = 5", "messages of t/0 are missing"),
        ("DELETE FROM messages WHERE partition = 1 AND offset = 0", "messages of t/1 are missing"),
        ("DELETE FROM messages WHERE partition = 1", "of t/1, which is missing"),
    ] {
        fs::write(&file, &whole).unwrap();
        change(&file, sql);
        let Refusal::Damaged(said) = refused(&file) else { panic!("{sql}") };
        assert!(said.ends_with(why), "{said}");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(open(&file).lag("g").await, 0);
}

#[tokio::test]
async fn messages_that_vanish_under_way_are_not_skipped() {
    let (_folder, file) = place();
    let subject = Subject::new(Arc::new(Sqlite::create(&file).unwrap()), ());
    subject.filled(1, 1, 10).await;
    change(&file, "DELETE FROM messages WHERE offset = 5");
    let mut sub = subject.subscribe("g").await;
    let answer = sub.next(10).await;
    let Err(BusError::Unavailable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.ends_with("bus.db: messages of t/0 after 0 are missing"), "{why}");
}

#[tokio::test]
async fn publishers_share_a_transaction() {
    let subject = make().await;
    subject.filled(1, 1, 0).await;
    let publishers = (0..200).map(|n| subject.bus.publish("t", vec![message("k", n)]));
    assert!(futures::future::join_all(publishers).await.iter().all(Result::is_ok));
    assert_eq!(numbers(&take(&mut subject.subscribe("g").await, 200, 50).await), (0..200).collect::<Vec<_>>());
}

/// A file of an earlier program has no views.
#[tokio::test]
async fn a_person_reads_topics_by_name() {
    let (_folder, file) = place();
    drop(Sqlite::create(&file).unwrap());
    change(&file, "DROP VIEW IF EXISTS messages_readable; DROP VIEW IF EXISTS acknowledged_readable");
    let subject = open(&file);
    subject.filled(1, 1, 2).await;
    let headers =
        vec![("ce_type".to_owned(), "OrderPlaced".to_owned()), ("ce_time".to_owned(), "2027-01-15".to_owned())];
    subject.bus.publish("t", vec![Message { headers, ..message("order-1", 7) }]).await.unwrap();
    let mut sub = subject.subscribe("g").await;
    let taken = take(&mut sub, 3, 3).await;
    acknowledge(&mut sub, &taken[..2]).await;
    drop(sub);
    drop(subject);
    let shown = |query: &str| {
        let db = Connection::open(&file).unwrap();
        let mut query = db.prepare(query).unwrap();
        query.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let messages =
        "SELECT concat_ws(' ', topic, partition, offset, key, type, time, hex(payload)) FROM messages_readable
        WHERE topic = 't' ORDER BY offset";
    let numbered = ["t 0 0 key-0 0000000000000000", "t 0 1 key-0 0000000000000001"];
    assert_eq!(shown(messages)[..2], numbered, "without the headers of an event");
    assert_eq!(shown(messages)[2..], ["t 0 2 order-1 OrderPlaced 2027-01-15 0000000000000007"]);
    assert_eq!(
        shown("SELECT concat_ws(' ', listener, topic, partition, next) FROM acknowledged_readable"),
        ["g t 0 2"]
    );
}
