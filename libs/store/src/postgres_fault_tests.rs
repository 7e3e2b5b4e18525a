//! Connections that are cut, and a server that goes away.
use std::pin::pin;
use std::time::Duration;

use futures::future::{join_all, select};
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep, timeout};

use super::proxy::{Cut, Proxy};
use super::server::Database;
use super::*;
use crate::contract::{HandClock, Subject, handled};
use crate::{Append, Expected, NewEvent};

use Expected::{Any, Exact, NoStream};

const SECOND: Duration = Duration::from_secs(1);

/// A store that is reached through a proxy, and the way back to its database.
async fn cuttable() -> Option<(Subject, Proxy)> {
    let database = Database::make().await?;
    let proxy = Proxy::to(&database).await;
    let clock = HandClock::new();
    let store = Postgres::open(&proxy.url, Some(clock.clone())).await.unwrap();
    let subject = Subject::new(Arc::new(store), clock, database);
    // Its writer is connected.
    subject.store.commit(subject.step("first", "first", NoStream, 1)).await.unwrap();
    subject.log(1).await;
    Some((subject, proxy))
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(answer: &Result<T, CommitError>) {
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_commit_that_never_arrived_happens_when_it_is_tried_again() {
    let Some((subject, proxy)) = cuttable().await else { return };
    let commit = subject.step("a", "s", NoStream, 2);
    proxy.cuts(Cut::BeforeCommit);
    unavailable(&subject.store.commit(commit.clone()).await);
    assert!(proxy.has_cut());
    assert_eq!(subject.store.commit(commit).await, Ok(vec![2]));
    assert_eq!(subject.log(3).await.len(), 3);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_known_when_it_is_tried_again() {
    let Some((subject, proxy)) = cuttable().await else { return };
    let commit = subject.step("a", "s", NoStream, 2);
    proxy.cuts(Cut::AfterCommit);
    unavailable(&subject.store.commit(commit.clone()).await);
    assert!(proxy.has_cut());
    assert_eq!(subject.store.commit(commit).await, Err(handled("a")));
    assert_eq!(subject.log(3).await.len(), 3, "its events are numbered although nobody knew of them");
}

/// The first is still under way in the server when the second comes.
#[tokio::test]
async fn a_retry_waits_for_the_first_that_is_still_under_way() {
    for appends in [1, 0] {
        let Some((subject, proxy)) = cuttable().await else { return };
        let append = (0..appends).map(|_| subject.append("s", NoStream, 2)).collect();
        let commit = subject.steps("a", append);
        proxy.cuts(Cut::LateCommit(SECOND));
        unavailable(&subject.store.commit(commit.clone()).await);
        assert!(proxy.has_cut());
        assert_eq!(subject.version("s").await, 0, "not yet");
        // Through another process, as a caller's second try comes.
        let other = subject.database().open(subject.clock.clone()).await;
        let (here, there) = futures::join!(subject.store.commit(commit.clone()), other.commit(commit));
        assert_eq!([here, there], [Err(handled("a")), Err(handled("a"))], "{appends} streams");
        assert_eq!(subject.version("s").await, 2 * appends);
    }
}

// ES-6: never a shorter stream.
#[tokio::test]
async fn a_stream_that_is_cut_off_in_the_middle_is_an_error() {
    let Some((subject, proxy)) = cuttable().await else { return };
    let event = |n: usize| NewEvent { data: format!("[{n}{}]", ",9".repeat(40_000)), ..subject.event("0") };
    for n in 0..5 {
        let append = Append { events: (0..10).map(event).collect(), ..subject.append("s", Exact(10 * n), 0) };
        subject.store.commit(subject.steps(&n.to_string(), vec![append])).await.unwrap();
    }
    subject.log(51).await;
    for most in [100_000, 1_000_000, 3_000_000] {
        proxy.cuts(Cut::Answer(most));
        let read = subject.store.load(&"s".into(), 0, 99).await;
        assert!(proxy.has_cut() && matches!(read, Err(ReadError::Unavailable(_))), "{:?}", read.map(|all| all.len()));
    }
    assert_eq!(subject.store.load(&"s".into(), 0, 99).await.unwrap().len(), 50, "and the next one is whole");
}

#[tokio::test]
async fn a_server_that_goes_away_is_unavailable_and_what_comes_back_is_used() {
    let Some((subject, proxy)) = cuttable().await else { return };
    let store = &subject.store;
    proxy.cuts(Cut::Always);
    let commit = subject.step("a", "s", NoStream, 1);
    unavailable(&store.commit(commit.clone()).await);
    for _ in 0..2 {
        assert!(matches!(store.version(&"s".into()).await, Err(ReadError::Unavailable(_))));
        assert!(matches!(store.read_all(0, 9).await, Err(ReadError::Unavailable(_))));
        assert!(matches!(store.claim_due(SECOND, 9).await, Err(ReadError::Unavailable(_))));
        unavailable(&store.commit(commit.clone()).await);
    }
    proxy.cuts(Cut::Never);
    let mut growth = store.growth();
    let back = async {
        while store.commit(commit.clone()).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        while store.version(&"s".into()).await.is_err() {}
        growth.changed().await.unwrap();
    };
    timeout(10 * SECOND, back).await.expect("it is back");
    assert_eq!(subject.log(2).await.len(), 2);
}

/// Ends all sessions of the database but its own, again and again.
async fn kill_sessions(database: &Database, for_as_long: Duration) -> u64 {
    let mut operator = database.connect().await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let (start, mut killed) = (Instant::now(), 0);
    while start.elapsed() < for_as_long {
        sleep(Duration::from_millis(40)).await;
        killed += sqlx::query_scalar::<_, i64>(kill).fetch_one(&mut operator).await.unwrap() as u64;
    }
    killed
}

#[tokio::test]
async fn whatever_session_is_killed_when_nothing_is_lost_and_nothing_happens_twice() {
    let Some(database) = Database::make().await else { return };
    let clock = HandClock::new();
    let stores: Vec<Arc<dyn Store>> =
        vec![Arc::new(database.open(clock.clone()).await), Arc::new(database.open(clock.clone()).await)];
    let subject = Subject::new(stores[0].clone(), clock, ());
    let writer = async |writer: usize| {
        let (stream, mut done, mut doubts) = (format!("s-{writer}"), 0, 0);
        loop {
            let commit = subject.steps(
                &format!("{writer} {done}"),
                vec![subject.append(&stream, Exact(done), 1), subject.append("all", Any, 1)],
            );
            // A retry may go through another process.
            let store = &stores[(writer + doubts) % 2];
            match store.commit(commit).await {
                Ok(_) | Err(CommitError::AlreadyHandled(_)) => done += 1,
                Err(CommitError::Unavailable(_)) => doubts += 1,
                Err(other) => panic!("{other:?}"),
            }
            if doubts > 10 && done > 20 {
                return done;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let writing = pin!(join_all((0..8).map(writer)));
    let killing = pin!(kill_sessions(&database, 60 * SECOND));
    let done = match select(writing, killing).await {
        futures::future::Either::Left((done, _)) => done,
        futures::future::Either::Right((killed, _)) => {
            panic!("{killed} sessions were killed, and some never in a commit")
        }
    };
    let total = done.iter().sum::<u64>();
    for (writer, done) in done.into_iter().enumerate() {
        assert_eq!(in_time(async || stores[0].version(&format!("s-{writer}").as_str().into()).await).await, done);
    }
    assert_eq!(in_time(async || stores[0].version(&"all".into()).await).await, total);
    let mut versions = std::collections::BTreeMap::new();
    for (event, position) in subject.log(2 * total as usize).await.iter().zip(1..) {
        let version = versions.entry(event.stream.clone()).or_insert(0);
        *version += 1;
        assert_eq!((event.position, event.version), (Some(position), *version));
    }
}

/// What is read once the last killed session was met.
async fn in_time<T>(read: impl AsyncFn() -> Result<T, ReadError>) -> T {
    let mut tries = 0;
    loop {
        match read().await {
            Ok(read) => return read,
            Err(why) if tries > 10 => panic!("{why}"),
            Err(_) => tries += 1,
        }
    }
}

#[tokio::test]
async fn a_full_queue_is_unavailable_at_once_and_takes_nothing() {
    let Some(database) = Database::make().await else { return };
    let clock = HandClock::new();
    let subject = Subject::new(Arc::new(database.open(clock.clone()).await), clock, database);
    subject.store.commit(subject.step("first", "s", NoStream, 1)).await.unwrap();
    let mut holder = subject.database().connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM streams FOR UPDATE").execute(&mut holder).await.unwrap();
    let (mut waiting, mut n) = (vec![], 1);
    let refused = loop {
        assert!(n <= 3 * QUEUE as u64, "the queue has an end");
        let mut answer = subject.store.commit(subject.step(&n.to_string(), "s", Exact(n), 1));
        match (&mut answer).now_or_never() {
            Some(answer) => break answer,
            None => waiting.push(answer),
        }
        n += 1;
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    };
    let Err(CommitError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("too many commits are waiting"), "{why}");
    assert!(waiting.len() >= QUEUE);
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    assert_eq!((subject.version("s").await, subject.reply(&n.to_string()).await), (n, None));
}

// The writer of another process is stopped while it holds what everybody wants.
#[tokio::test]
async fn a_stopped_writer_loses_its_locks() {
    let Some(database) = Database::make().await else { return };
    let clock = HandClock::new();
    let subject = Subject::new(Arc::new(database.open(clock.clone()).await), clock, database);
    subject.store.commit(subject.step("first", "s", NoStream, 1)).await.unwrap();
    let mut stopped = Address::parse(&subject.database().url).unwrap().connect().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM streams FOR UPDATE").execute(&mut stopped).await.unwrap();
    let waiting = subject.store.commit(subject.step("a", "s", Exact(1), 1));
    assert_eq!(timeout(8 * SECOND, waiting).await, Ok(Ok(vec![2])), "after five seconds");
    let late = "UPDATE streams SET version = 9; COMMIT";
    assert!(sqlx::raw_sql(AssertSqlSafe(late)).execute(&mut stopped).await.is_err());
    assert_eq!(subject.version("s").await, 2);
}
