use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::*;
use crate::contract::{HandClock, START, Subject};
use crate::postgres::Postgres;
use crate::postgres::server::Database;
use crate::{Commit, Expected, Snapshot, TimerChange};

/// Times as psql shows them to whoever is in Seoul.
async fn rows(db: &mut PgConnection, query: &'static str) -> Vec<String> {
    sqlx::query("SET TIME ZONE 'Asia/Seoul'").execute(&mut *db).await.unwrap();
    sqlx::query_scalar(query).fetch_all(db).await.unwrap()
}

#[tokio::test]
async fn what_is_stored_is_read_by_name_and_time() {
    let Some(database) = Database::make().await else { return };
    let clock = HandClock::new();
    let subject = Subject::new(Arc::new(database.open(clock.clone()).await), clock.clone(), ());
    let timers = vec![TimerChange::Set { key: "saga-1".into(), due: START.after(Duration::from_micros(60_000_001)) }];
    let placed = Commit { timers, ..subject.step("a", "order-1", Expected::NoStream, 2) };
    subject.store.commit(placed).await.unwrap();
    let snapshot = Snapshot { version: 2, schema: 1, data: r#"{"n":1}"#.into() };
    subject.store.keep_snapshot(&"order-1".into(), snapshot).await.unwrap();
    let holder = uuid::Uuid::from_u128(7);
    assert_eq!(subject.store.lease("relay", holder, Duration::from_secs(30)).await, Ok(true));
    let ids: Vec<_> = subject.log(2).await.iter().map(|event| event.event.id.to_string()).collect();

    let mut db = database.connect().await;
    let events = "SELECT concat_ws(' ', position, stream, version, type, recorded_at, data->>'n', actor, correlation_id, causation_id,
        trace_id, event_id, schema) FROM events_readable WHERE stream = 'order-1' ORDER BY version";
    let event = |n: usize| {
        let (version, id) = (n + 1, &ids[n]);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        format!(
            "{version} order-1 {version} Happened 2023-11-15 07:13:20+09 {n} customer:1 order-1 command-1 {trace} {id} 1"
        )
    };
    assert_eq!(rows(&mut db, events).await, [event(0), event(1)]);
    let streams = "SELECT concat_ws(' ', stream, version, changed_at) FROM streams_readable";
    assert_eq!(rows(&mut db, streams).await, ["order-1 2 2023-11-15 07:13:20+09"]);
    let timers = "SELECT concat_ws(' ', key, due_at) FROM timers_readable";
    assert_eq!(rows(&mut db, timers).await, ["saga-1 2023-11-15 07:14:20.000001+09"]);
    let leases = "SELECT concat_ws(' ', name, holder, held_until) FROM leases_readable WHERE name = 'relay'";
    assert_eq!(rows(&mut db, leases).await, [format!("relay {holder} 2023-11-15 07:13:50+09")]);
    let snapshots = "SELECT concat_ws(' ', stream, version, schema, data) FROM snapshots_readable";
    assert_eq!(rows(&mut db, snapshots).await, [r#"order-1 2 1 {"n":1}"#]);
}

/// A table that gets a column of moments or of streams' keys gets a view for it.
#[tokio::test]
async fn no_moment_and_no_key_of_a_stream_is_left_without_a_view() {
    let Some(database) = Database::make().await else { return };
    drop(Postgres::open(&database.url, None).await.unwrap());
    let columns = "SELECT relation.relname || '.' || attname || ' ' || format_type(atttypid, NULL)
        FROM pg_attribute JOIN pg_class AS relation ON relation.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND relkind = 'KIND' AND format_type(atttypid, NULL) IN (TYPES)
        ORDER BY 1";
    let of = async |kind: &str, types: &str| -> Vec<String> {
        let columns = columns.replace("KIND", kind).replace("TYPES", types);
        sqlx::query_scalar(sqlx::AssertSqlSafe(columns)).fetch_all(&mut database.connect().await).await.unwrap()
    };
    let numbers = of("r", "'bigint'").await;
    let plain =
        ["events.arrival", "events.position", "events.version", "marks.value", "snapshots.version", "streams.version"];
    let hidden: Vec<_> = numbers.iter().filter(|column| !plain.iter().any(|name| column.starts_with(name))).collect();
    let known = [
        "events.stream",
        "events.timestamp",
        "leases.until",
        "snapshots.stream",
        "streams.key",
        "streams.timestamp",
        "timers.due",
    ];
    assert_eq!(hidden, known.map(|name| format!("{name} bigint")).iter().collect::<Vec<_>>());
    let moments = [
        "events_readable.recorded_at",
        "leases_readable.held_until",
        "streams_readable.changed_at",
        "timers_readable.due_at",
    ];
    assert_eq!(
        of("v", "'timestamp with time zone'").await,
        moments.map(|name| format!("{name} timestamp with time zone"))
    );
}

#[tokio::test]
async fn a_database_of_an_earlier_program_gets_the_views_and_what_a_person_built_on_them_stays() {
    let Some(database) = Database::make().await else { return };
    drop(Postgres::open(&database.url, None).await.unwrap());
    for (name, _) in VIEWS {
        database.run(&format!("DROP VIEW {name}")).await;
    }
    drop(Postgres::open(&database.url, None).await.unwrap());
    database.run("CREATE VIEW mine AS SELECT stream FROM events_readable").await;
    // A person who forgot a transaction keeps no process from starting.
    let mut person = database.connect().await;
    let mut reading = person.begin().await.unwrap();
    for (name, _) in VIEWS {
        let query = format!("SELECT count(*) FROM {name}");
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut *reading).await.unwrap();
        assert_eq!(count, 0, "{name}");
    }
    let opened = timeout(Duration::from_secs(20), Postgres::open(&database.url, None)).await;
    assert!(opened.is_ok_and(|opened| opened.is_ok()));
    assert_eq!(rows(&mut database.connect().await, "SELECT stream FROM mine").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_role_that_may_make_no_view_opens_its_store_without() {
    let Some(database) = Database::make().await else { return };
    drop(Postgres::open(&database.url, None).await.unwrap());
    let role = &database.name;
    for (name, _) in VIEWS {
        database.run(&format!("DROP VIEW {name}")).await;
    }
    database
        .run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'role'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))
        .await;
    let (_, place) = database.url.rsplit_once('@').unwrap();
    let opened = Postgres::open(&format!("postgres://{role}:role@{place}"), None).await;
    let refused = opened.err().map(|why| why.to_string());
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    assert_eq!(refused, None);
}
