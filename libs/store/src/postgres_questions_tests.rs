//! Reads that wait together, on a real server.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::*;
use crate::contract::{HandClock, Subject};
use crate::postgres::Postgres;
use crate::postgres::server::Database;
use crate::postgres_schema::Address;
use crate::{Expected, MarkMove};

static STATEMENTS: AtomicUsize = AtomicUsize::new(0);

/// Is answered with itself.
struct Echo(i64);

#[async_trait]
impl Question for Echo {
    type Answer = i64;

    async fn ask(all: &[Echo], db: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
        STATEMENTS.fetch_add(1, Ordering::SeqCst);
        let asked: Vec<i64> = all.iter().map(|Echo(n)| *n).collect();
        sqlx::query_scalar("SELECT unnest($1::bigint[])").bind(asked).fetch_all(db).await
    }
}

#[tokio::test]
async fn what_waits_together_is_one_statement_and_each_gets_its_own_answer() {
    let Some(database) = Database::make().await else { return };
    let readers = Arc::new(Readers::new(Address::parse(&database.url).unwrap()));
    let mut tasks = JoinSet::new();
    let counter = Counter::open(&readers, &mut tasks);
    let count = 100;
    let answers = join_all((0..count).map(|n| counter.ask(Echo(n)))).await;
    assert!((0..count).zip(&answers).all(|(n, answer)| *answer == Ok(n)), "{answers:?}");
    assert_eq!(STATEMENTS.load(Ordering::SeqCst), 2);
}

/// No name holds a zero byte: the server refuses the whole statement for it.
#[tokio::test]
async fn nobody_gets_the_error_of_another() {
    let Some(subject) = made().await else { return };
    let moving = MarkMove { name: "m".into(), from: 0, to: 7 };
    let commit = subject.step("a", "s", Expected::NoStream, 3);
    subject.store.commit(crate::Commit { marks: vec![moving], ..commit }).await.unwrap();
    let (here, bad) = (StreamId::from("s"), StreamId::from("\0"));
    let marks = join_all(["m", "\0", "none"].map(|name| subject.store.mark(name))).await;
    assert_eq!((&marks[0], &marks[2]), (&Ok(7), &Ok(0)));
    assert!(marks[1].is_err(), "{marks:?}");
    let loaded = join_all([&bad, &here].map(|stream| subject.store.load(stream, 1, 9))).await;
    assert!(loaded[0].is_err(), "{loaded:?}");
    assert_eq!(loaded[1].as_ref().unwrap().iter().map(|event| event.version).collect::<Vec<_>>(), [2, 3]);
}

/// The first events are read together with other streams', the rest alone.
#[tokio::test]
async fn long_streams_are_whole_beside_short_ones() {
    let Some(subject) = made().await else { return };
    let streams = [("long", SHORT + 10), ("full", SHORT), ("short", 2)];
    for (name, count) in streams {
        subject.store.commit(subject.steps(name, vec![subject.append(name, Expected::NoStream, count)])).await.unwrap();
    }
    for (after, limit) in [(0, 1_000), (0, SHORT), (0, SHORT + 3), (0, 5), (7, 1_000), (0, 0)] {
        let loads = streams.map(|(name, _)| (StreamId::from(name), name));
        let loaded = join_all(loads.iter().map(|(stream, _)| subject.store.load(stream, after, limit))).await;
        for ((name, count), loaded) in streams.into_iter().zip(loaded) {
            let versions: Vec<u64> = loaded.unwrap().iter().map(|event| event.version).collect();
            let expected: Vec<u64> = (after + 1..=count as u64).take(limit).collect();
            assert_eq!(versions, expected, "{name} after {after}, {limit} at most");
        }
    }
}

async fn made() -> Option<Subject> {
    let database = Database::make().await?;
    let clock = HandClock::new();
    let store: Postgres = database.open(clock.clone()).await;
    Some(Subject::new(Arc::new(store), clock, database))
}
