//! The contract on a real server, and what only several processes on one can show.
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::{join, join_all};
use sqlx::Connection;
use tokio::time::timeout;

use super::server::Database;
use super::*;
use crate::contract::{HandClock, Subject, conflict, handled, hold_the_contract};
use crate::postgres_sequencer::TURN;
use crate::wrapped::{Wrapped, Wrapping};
use crate::{Expected, MarkMove, TimerChange, contract_extras, contract_log};

use Expected::{Exact, NoStream};

async fn make() -> Option<Subject> {
    let database = Database::make().await?;
    let clock = HandClock::new();
    let store = database.open(clock.clone()).await;
    Some(Subject::new(Arc::new(store), clock, database))
}
hold_the_contract!(make);

/// Several processes on one database; each call goes to the next of them.
struct Several {
    stores: Vec<Postgres>,
    next: AtomicUsize,
}

#[async_trait]
impl Wrapping for Several {
    fn inner(&self) -> &dyn Store {
        &self.stores[self.next.fetch_add(1, Ordering::SeqCst) % self.stores.len()]
    }
}

async fn several(count: usize) -> Option<Subject> {
    let database = Database::make().await?;
    let clock = HandClock::new();
    let stores = join_all((0..count).map(|_| database.open(clock.clone()))).await;
    let several = Wrapped(Several { stores, next: AtomicUsize::new(0) });
    Some(Subject::new(Arc::new(several), clock, database))
}

// ES-2 over several processes, each with writers and a sequencer.
#[tokio::test]
async fn a_reader_that_tails_misses_nothing_of_any_process() {
    let Some(subject) = several(4).await else { return };
    contract_log::a_reader_that_tails_misses_nothing(&subject).await;
}

#[tokio::test]
async fn timers_leases_marks_and_snapshots_are_those_of_all_processes() {
    let Some(subject) = several(3).await else { return };
    contract_extras::two_claimers_share_nothing(&subject).await;
    let Some(subject) = several(3).await else { return };
    contract_extras::a_lease_has_one_holder_until_it_runs_out(&subject).await;
    contract_extras::a_mark_moves_from_where_it_must_be(&subject).await;
}

// ES-7: of several at once the latest is kept, whole.
#[tokio::test]
async fn snapshots_that_are_kept_at_once_leave_the_latest() {
    let Some(subject) = several(3).await else { return };
    subject.store.commit(subject.step("long", "long", NoStream, 40)).await.unwrap();
    let keep = |version: u64| {
        let snapshot = Snapshot { version, schema: 1, data: version.to_string() };
        let store = subject.store.clone();
        async move { store.keep_snapshot(&"long".into(), snapshot).await.unwrap() }
    };
    join_all((1..=40).map(|n| keep(n * 7 % 41))).await;
    let latest = Snapshot { version: 40, schema: 1, data: "40".into() };
    assert_eq!(subject.store.snapshot(&"long".into()).await, Ok(Some(latest)));
}

const APPEND: &str = "INSERT INTO streams (name, version, timestamp) VALUES ('slow', 1, 0);
    INSERT INTO events (id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent)
    SELECT gen_random_uuid(), key, 1, 'Happened', 1, '{}', 0, '', '', '', '' FROM streams WHERE name = 'slow'";

/// What a reader meets that looks before and after somebody slow ends his transaction.
async fn tailed(before: &'static str, after: &'static str, end: &'static str) -> Option<(Vec<String>, Vec<String>)> {
    let subject = make().await?;
    let database = subject.database();
    let mut slow = database.connect().await;
    sqlx::raw_sql("BEGIN").execute(&mut slow).await.unwrap();
    sqlx::raw_sql(before).execute(&mut slow).await.unwrap();
    subject.store.commit(subject.step("quick", "quick", NoStream, 1)).await.unwrap();
    let names = |log: &[Recorded]| log.iter().map(|event| event.stream.to_string()).collect::<Vec<_>>();
    let early = subject.log(1).await;
    sqlx::raw_sql(after).execute(&mut slow).await.unwrap();
    sqlx::raw_sql(end).execute(&mut slow).await.unwrap();
    subject.store.commit(subject.step("last", "last", NoStream, 1)).await.unwrap();
    let all = subject.log(if end == "COMMIT" { 3 } else { 2 }).await;
    let place = early.last().and_then(|event| event.position).unwrap();
    let late = subject.store.read_all(place, 99).await.unwrap();
    assert_eq!(all, [early.clone(), late.clone()].concat(), "a second look shows what the tail showed");
    assert!(all.iter().zip(1..).all(|(event, position)| event.position == Some(position)));
    Some((names(&early), names(&late)))
}

// ES-1: he appends and waits, others commit and are read, then he commits.
#[tokio::test]
async fn whoever_commits_late_is_read_once_by_those_who_were_there_before() {
    let inbox = "INSERT INTO marks VALUES ('inbox', 1)";
    for (before, after) in [(APPEND, "SELECT 1"), (inbox, APPEND), ("SELECT 1", APPEND)] {
        let Some((early, mut late)) = tailed(before, after, "COMMIT").await else { return };
        late.sort();
        assert_eq!((early, late), (vec!["quick".to_owned()], vec!["last".to_owned(), "slow".to_owned()]));
    }
}

// ES-3: he takes it all back.
#[tokio::test]
async fn what_is_rolled_back_leaves_no_hole_and_nobody_waits() {
    let Some((early, late)) = tailed(APPEND, "SELECT 1", "ROLLBACK").await else { return };
    assert_eq!((early, late), (vec!["quick".to_owned()], vec!["last".to_owned()]));
}

#[tokio::test]
async fn what_a_process_left_without_positions_is_numbered_by_another() {
    let Some(subject) = make().await else { return };
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    subject.log(1).await;
    // Nobody tells its sequencer, which has nothing to do.
    subject.database().run(APPEND).await;
    assert_eq!(subject.log(2).await[1].stream, "slow".into());
}

/// Where the server would start them for anything.
#[tokio::test]
async fn no_processes_are_started_for_a_page_of_the_log() {
    let Some(subject) = make().await else { return };
    let database = subject.database();
    for free in
        ["parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size", "min_parallel_index_scan_size"]
    {
        database.run(&format!("ALTER DATABASE {} SET {free} = 0", database.name)).await;
    }
    let mut db = Address::parse(&database.url).unwrap().connect().await.unwrap();
    let page = sqlx::AssertSqlSafe(format!("PREPARE page (bigint, bigint) AS {READ_ALL}"));
    sqlx::raw_sql(page).execute(&mut db).await.unwrap();
    let plan = sqlx::raw_sql("EXPLAIN EXECUTE page (0, 500)").fetch_all(&mut db).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("events_position_key")), "{plan:?}");
    assert!(!plan.iter().any(|line| line.contains("Gather")), "{plan:?}");
}

/// Statements that list read what they give and nothing else, however much there is beside it. The plan must not know the parameters:
/// it is the one that is made once.
#[tokio::test]
async fn a_list_reads_nothing_but_what_it_gives() {
    let Some(subject) = make().await else { return };
    subject.store.commit(subject.step("a", "product-1", NoStream, 3)).await.unwrap();
    let foreign = "
        INSERT INTO streams (name, version, timestamp)
            SELECT format('%s-%s', kind, n), 1, 1 FROM generate_series(1, 100000) n, unnest('{a,reservation}'::text[]) kind;
        INSERT INTO events (position, id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent)
            SELECT 1000 + n, gen_random_uuid(), n + 100, 1, 'Foreign', 1, '{}', 1, '', '', '', '' FROM generate_series(1, 20000) n;
        INSERT INTO timers SELECT format('timer-%s', n), 1000000000000000000 + n FROM generate_series(1, 20000) n";
    subject.database().run(foreign).await;
    subject.database().run("ANALYZE").await;
    let mut db = Address::parse(&subject.database().url).unwrap().connect().await.unwrap();
    let given = |list: &str| if list.is_empty() { String::new() } else { format!("({list})") };
    for (statement, types, parameters) in [
        (NAMES, "text, text, text, bigint", "'product-', '', 'product.', 1000"),
        (NAMES, "text, text, text, bigint", "'product-', 'product-0', 'product.', 1000"),
        (ALL_NAMES, "text, text, bigint", "'', 'reservation-99', 1000"),
        (LOAD, "text, bigint, bigint", "'product-1', 1, 1000"),
        (READ_ALL, "bigint, bigint", "2000, 500"),
        (TIMERS, "text, bigint", "'timer-5', 100"),
        (END, "", ""),
        (CLAIM, "bigint, bigint, bigint", "NULL, 1000, 100"),
    ] {
        let prepare = sqlx::AssertSqlSafe(format!("DEALLOCATE ALL; PREPARE list {} AS {statement}", given(types)));
        sqlx::raw_sql(prepare).execute(&mut db).await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (ANALYZE, COSTS OFF) EXECUTE list {}", given(parameters)));
        let plan = sqlx::raw_sql(explain).fetch_all(&mut db).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
        assert!(plan.iter().any(|line| line.contains("Index")), "{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("Rows Removed")), "{statement}: {plan:#?}");
    }
    let names = subject.store.streams("product-", "", 1000).await.unwrap();
    assert_eq!(names, ["product-1".into()]);
}

/// `xmin` is the transaction that wrote a row.
#[tokio::test]
async fn a_busy_writer_waits_a_moment_for_more_and_an_idle_one_does_not() {
    let Some(subject) = make().await else { return };
    let mut db = subject.database().connect().await;
    for (before, together) in [(1, false), (20, true)] {
        let name = |part: &str| format!("{part}-{before}");
        let commit = |part: &str| subject.store.commit(subject.step(&name(part), &name(part), NoStream, 1));
        join_all((0..before).map(|n| commit(&n.to_string()))).await.into_iter().for_each(|done| _ = done.unwrap());
        let first = commit("first");
        // Whoever does not wait takes it now.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let (first, second) = join(first, commit("second")).await;
        assert_eq!((first, second), (Ok(vec![1]), Ok(vec![1])));
        let transactions =
            sqlx::query_scalar::<_, i64>("SELECT count(DISTINCT xmin::text) FROM commits WHERE id = ANY ($1)")
                .bind([name("first"), name("second")])
                .fetch_one(&mut db)
                .await
                .unwrap();
        assert_eq!(transactions == 1, together, "after a batch of {before}");
    }
}

#[tokio::test]
async fn a_commit_whose_turn_it_is_can_be_read_at_once() {
    let Some(subject) = make().await else { return };
    for n in 0..5 {
        subject.store.commit(subject.step(&n.to_string(), "s", Exact(3 * n), 3)).await.unwrap();
        let log = subject.store.read_all(0, 99).await.unwrap();
        assert!(log.iter().zip(1..).all(|(event, place)| event.position == Some(place)), "{log:?}");
        assert_eq!(log.len() as u64, 3 * (n + 1));
    }
}

// What comes after them in their stream, at least, must come after them in the log.
#[tokio::test]
async fn events_that_were_left_without_positions_are_not_overtaken() {
    let Some(subject) = make().await else { return };
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    // Nobody tells its sequencer, which has nothing to do.
    subject.database().run(APPEND).await;
    subject.store.commit(subject.step("b", "slow", Exact(1), 1)).await.unwrap();
    let log = subject.log(3).await;
    assert_eq!(
        log[1..].iter().map(|event| (&*event.stream.0, event.version)).collect::<Vec<_>>(),
        [("slow", 1), ("slow", 2)]
    );
}

/// Waits until a sequencer waits for its turn.
async fn somebody_waits(database: &Database) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut operator = database.connect().await;
    let seen = async { while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut operator).await.unwrap() == 0 {} };
    timeout(Duration::from_secs(10), seen).await.expect("they take turns");
}

// ES-4: a sequencer is stopped inside a batch, with positions given that nobody saw, and replaced within five seconds.
#[tokio::test]
async fn a_stopped_sequencer_loses_its_turn_and_can_number_nothing_any_more() {
    let Some(subject) = several(2).await else { return };
    let database = subject.database();
    subject.store.commit(subject.step("a", "s", NoStream, 3)).await.unwrap();
    subject.log(3).await;
    let mut leader = Address::parse(&database.url).unwrap().connect().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut leader).await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TURN).execute(&mut leader).await.unwrap();
    subject.store.commit(subject.step("b", "s", Exact(3), 1)).await.unwrap();
    somebody_waits(database).await;
    let number = "UPDATE events SET position = 4 WHERE position IS NULL";
    assert_eq!(sqlx::raw_sql(number).execute(&mut leader).await.unwrap().rows_affected(), 1);
    subject.store.commit(subject.step("c", "s", Exact(4), 1)).await.unwrap();
    assert_eq!(subject.log(3).await.len(), 3, "its turn is not over");
    let log = subject.log(5).await;
    assert!(log.iter().zip(1..).all(|(event, n)| (event.position, event.version) == (Some(n), n)), "{log:?}");
    // It goes on.
    assert!(sqlx::raw_sql("COMMIT").execute(&mut leader).await.is_err());
    subject.store.commit(subject.step("d", "s", Exact(5), 1)).await.unwrap();
    assert_eq!(subject.log(6).await[..5], log);
}

#[tokio::test]
async fn readers_of_every_process_are_woken() {
    let Some(database) = Database::make().await else { return };
    let clock = HandClock::new();
    let (one, other) = (database.open(clock.clone()).await, Arc::new(database.open(clock.clone()).await));
    let subject = Subject::new(Arc::new(one), clock, ());
    let mut growth = other.growth();
    for n in 0..5 {
        subject.store.commit(subject.step(&n.to_string(), "s", Exact(n), 1)).await.unwrap();
        while other.read_all(n, 9).await.unwrap().is_empty() {
            // Each look is after a change that was not looked at yet, so the last one shows it.
            timeout(Duration::from_secs(10), growth.changed()).await.expect("it is told").unwrap();
        }
    }
}

/// Two processes at once, many times: what each of the two was answered.
async fn races(
    rounds: u64,
    commit: impl Fn(&Subject, u64, bool) -> Commit,
) -> Option<(Subject, Vec<[Result<Versions, CommitError>; 2]>)> {
    let subject = several(2).await?;
    let mut answers = vec![];
    for round in 0..rounds {
        let [one, two] = [false, true].map(|second| subject.store.commit(commit(&subject, round, second)));
        let (one, two) = join(one, two).await;
        answers.push([one, two]);
    }
    Some((subject, answers))
}

fn one_of_each(answers: &[Result<Versions, CommitError>; 2], won: &Versions, lost: &CommitError) -> bool {
    answers.iter().any(|answer| answer.as_ref() == Ok(won)) && answers.iter().any(|answer| answer.as_ref() == Err(lost))
}

#[tokio::test]
async fn of_two_processes_that_make_the_same_streams_one_does() {
    let both = |subject: &Subject, round: u64, second: bool| {
        let mut streams = [format!("a-{round}"), format!("b-{round}")];
        if second {
            streams.reverse();
        }
        let appends = streams.map(|stream| subject.append(&stream, NoStream, 1)).to_vec();
        subject.steps(&format!("{round} {second}"), appends)
    };
    let Some((subject, answers)) = races(50, both).await else { return };
    for (round, answers) in answers.iter().enumerate() {
        let lost = [conflict(&format!("a-{round}"), 0, 1), conflict(&format!("b-{round}"), 0, 1)];
        assert!(lost.iter().any(|lost| one_of_each(answers, &vec![1, 1], lost)), "{answers:?}");
    }
    assert_eq!(subject.log(100).await.len(), 100);
}

/// Another process is about to commit to the stream that a commit asserts the version of.
#[tokio::test]
async fn what_is_asserted_stays_true_until_the_commit() {
    let Some(subject) = make().await else { return };
    subject.store.commit(subject.step("a", "guard", NoStream, 1)).await.unwrap();
    let mut other = subject.database().connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM streams WHERE name = 'guard' FOR UPDATE").execute(&mut other).await.unwrap();
    let asserting = vec![subject.append("guard", Exact(1), 0), subject.append("s", NoStream, 1)];
    let mut answer = subject.store.commit(subject.steps("b", asserting));
    assert!(timeout(Duration::from_millis(300), &mut answer).await.is_err(), "it waits");
    sqlx::raw_sql("UPDATE streams SET version = 2 WHERE name = 'guard'; COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(answer.await, Err(conflict("guard", 1, 2)));
    assert_eq!(subject.names("", "", 9).await, ["guard"]);
}

#[tokio::test]
async fn of_two_processes_under_one_id_one_commits() {
    let own = |subject: &Subject, round: u64, second: bool| {
        // Without a stream in common: only the id is.
        let stream = format!("{second}-{round}");
        Commit { reply: "one reply".into(), ..subject.step(&format!("{round}"), &stream, NoStream, 1) }
    };
    let Some((subject, answers)) = races(50, own).await else { return };
    assert!(answers.iter().all(|answers| one_of_each(answers, &vec![1], &handled("one reply"))), "{answers:?}");
    assert_eq!(subject.log(50).await.len(), 50);
}

#[tokio::test]
async fn of_two_processes_that_move_one_mark_one_does() {
    let own = |subject: &Subject, round: u64, second: bool| {
        let marks = vec![MarkMove { name: "m".into(), from: round, to: round + 1 }];
        Commit { marks, ..subject.step(&format!("{round} {second}"), &format!("{second}-{round}"), NoStream, 1) }
    };
    let Some((subject, answers)) = races(50, own).await else { return };
    assert!(answers.iter().all(|answers| one_of_each(answers, &vec![1], &handled(""))), "{answers:?}");
    assert_eq!((subject.store.mark("m").await, subject.log(50).await.len()), (Ok(50), 50));
}

#[tokio::test]
async fn a_claim_passes_by_what_another_is_claiming() {
    let Some(subject) = make().await else { return };
    let set = |key: &str| TimerChange::Set { key: key.into(), due: Timestamp(1) };
    let timers = vec![set("a"), set("b"), set("c")];
    subject.store.commit(Commit { timers, ..subject.steps("timers", vec![]) }).await.unwrap();
    let mut other = subject.database().connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM timers WHERE key = 'a' FOR UPDATE").execute(&mut other).await.unwrap();
    let claim = timeout(Duration::from_secs(5), subject.store.claim_due(Duration::from_secs(60), 2));
    assert_eq!(claim.await.expect("it does not wait").unwrap(), ["b", "c"]);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(subject.store.claim_due(Duration::from_secs(60), 2).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn the_server_is_asked_for_timers_only_when_one_may_be_due() {
    let Some(database) = Database::make().await else { return };
    let [store, other] = [(), ()].map(|()| Postgres::open(&database.url, None));
    let (store, other) = join(store, other).await;
    let subject = Subject::new(Arc::new(store.unwrap()), HandClock::new(), ());
    let claim = async || subject.store.claim_due(Duration::from_secs(60), 9).await.unwrap();
    assert_eq!(claim().await, [""; 0]);
    let mut operator = database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE timers").execute(&mut operator).await.unwrap();
    let unasked = timeout(Duration::from_millis(300), claim()).await;
    assert_eq!(unasked.expect("whoever asks waits"), [""; 0]);
    sqlx::raw_sql("ROLLBACK").execute(&mut operator).await.unwrap();
    let set = |key: &str| {
        let timers = vec![TimerChange::Set { key: key.into(), due: Timestamp(1) }];
        Commit { timers, ..subject.steps(key, vec![]) }
    };
    subject.store.commit(set("own")).await.unwrap();
    assert_eq!(claim().await, ["own"], "at once");
    other.unwrap().commit(set("other's")).await.unwrap();
    let found = async {
        loop {
            match claim().await {
                found if found.is_empty() => tokio::time::sleep(Duration::from_millis(20)).await,
                found => return found,
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(5), found).await.expect("after a while"), ["other's"]);
}

#[tokio::test]
async fn time_is_the_servers_where_no_clock_is_given() {
    let Some(database) = Database::make().await else { return };
    let store = Postgres::open(&database.url, None).await.unwrap();
    let subject = Subject::new(Arc::new(store), HandClock::new(), ());
    let mut operator = database.connect().await;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let before: i64 = sqlx::query_scalar(now).fetch_one(&mut operator).await.unwrap();
    let due = TimerChange::Set { key: "due".into(), due: Timestamp(before) };
    let later = TimerChange::Set { key: "later".into(), due: Timestamp(before).after(Duration::from_secs(3_600)) };
    let commit = Commit { timers: vec![due, later], ..subject.step("a", "s", NoStream, 1) };
    subject.store.commit(commit).await.unwrap();
    let after: i64 = sqlx::query_scalar(now).fetch_one(&mut operator).await.unwrap();
    assert!((before..=after).contains(&subject.stream("s").await[0].timestamp.0));
    assert_eq!(subject.store.claim_due(Duration::from_secs(60), 9).await.unwrap(), ["due"]);
    assert_eq!(subject.store.claim_due(Duration::from_secs(60), 9).await.unwrap(), [""; 0]);
    let lease = async |holder, seconds| {
        subject.store.lease("l", Uuid::from_u128(holder), Duration::from_secs(seconds)).await.unwrap()
    };
    assert_eq!(
        [lease(1, 60).await, lease(2, 60).await, lease(1, 0).await, lease(2, 60).await],
        [true, false, true, true]
    );
    operator.close().await.unwrap();
}

#[tokio::test]
async fn a_prefix_ends_where_the_next_text_begins() {
    assert_eq!(behind("order-"), Some("order.".to_owned()));
    assert_eq!(behind("a\u{10ffff}\u{10ffff}"), Some("b".to_owned()));
    assert_eq!(behind("\u{d7ff}"), Some("\u{e000}".to_owned()));
    assert_eq!([behind(""), behind("\u{10ffff}")], [None, None]);
}

// ES-13: what an operator changes, takes away or adds is found, by its position.
#[tokio::test]
async fn what_was_tampered_with_is_named() {
    let cases = [
        ("UPDATE events SET data = '{\"n\":9}' WHERE position = 4", 4),
        ("UPDATE events SET timestamp = timestamp + 1 WHERE position = 10", 10),
        ("DELETE FROM events WHERE position = 7", 7),
        (
            "UPDATE events SET position = 99 WHERE position = 3; UPDATE events SET position = 3 WHERE position = 2;
            UPDATE events SET position = 2 WHERE position = 99",
            2,
        ),
    ];
    for (tampering, found) in cases {
        let (Some(subject), folder) = (make().await, tempfile::tempdir().unwrap()) else { return };
        subject.store.commit(subject.step("a", "s", NoStream, 10)).await.unwrap();
        subject.log(10).await;
        let file = folder.path().join("seals");
        let watch = crate::file_watch::FileWatch::default();
        let sealing = crate::seal::run(subject.store.as_ref(), &file, &watch, |_| ());
        let sealing = timeout(Duration::from_millis(300), sealing);
        assert!(sealing.await.is_err(), "it goes on for ever");
        let good = crate::seal::Verdict::Good { sealed: 10, unsealed: 0 };
        assert_eq!(crate::seal::verify(subject.store.as_ref(), &file).await.unwrap(), good);
        subject.database().run(tampering).await;
        let verdict = crate::seal::verify(subject.store.as_ref(), &file).await.unwrap();
        assert!(matches!(verdict, crate::seal::Verdict::Broken { position, .. } if position == found), "{verdict:?}");
    }
}
