//! The contract of [`Store`](crate::Store): what can be read, in which order, and when.

use std::cell::Cell;
use std::time::Duration;

use futures::future::{join, join_all};

use crate::contract::{START, Subject, meta};
use crate::{Append, Commit, Expected, Recorded};

use Expected::{Any, Exact, NoStream};

pub(crate) async fn load_pages_through_a_stream(subject: &Subject) {
    subject.store.commit(subject.step("a", "s", NoStream, 7)).await.unwrap();
    subject.store.commit(subject.step("b", "t", NoStream, 3)).await.unwrap();
    let page = async |after, limit| {
        let events = subject.store.load(&"s".into(), after, limit).await.unwrap();
        events.iter().map(|event| event.version).collect::<Vec<_>>()
    };
    assert_eq!(page(0, 3).await, [1, 2, 3]);
    assert_eq!(page(3, 3).await, [4, 5, 6]);
    assert_eq!(page(6, 3).await, [7]);
    assert_eq!(page(5, usize::MAX).await, [6, 7]);
    for (after, limit) in [(7, 3), (0, 0), (u64::MAX, 3)] {
        assert_eq!(page(after, limit).await, [0; 0]);
    }
    assert_eq!(subject.store.load(&"missing".into(), 0, 9).await, Ok(vec![]));
}

pub(crate) async fn data_is_kept_byte_for_byte(subject: &Subject) {
    let texts = [
        "{}",
        r#"{"b":1,  "a" : 2, "a":3}"#,
        "{\"n\":1.0, \"m\":1e2,\t\"x\":\r\n 0}",
        r#""\u00e9 is not é""#,
        "\"장터 \u{1f980} e\u{301}\"",
        "\"'; -- \\u0000 \\ud800\"",
        " null\n",
        "-0.0e-0",
        &format!("[{}1]", "9,".repeat(50_000)),
    ];
    let mut append = subject.append("s", NoStream, 0);
    append.events = texts.iter().map(|text| subject.event(text)).collect();
    append.events[3].kind = "Grüße \u{1f980}".into();
    append.events[4].schema = u16::MAX;
    let events = append.events.clone();
    subject.store.commit(subject.steps("a", vec![append])).await.unwrap();
    let loaded = subject.stream("s").await;
    assert_eq!(loaded.iter().map(|recorded| &recorded.event).collect::<Vec<_>>(), events.iter().collect::<Vec<_>>());
    assert!(loaded.iter().all(|event| event.meta == meta() && event.timestamp == START && event.stream == "s".into()));
    assert_eq!(without_positions(subject.log(texts.len()).await), loaded);
}

pub(crate) async fn recorded_time_never_goes_backwards(subject: &Subject) {
    let wait = |seconds| START.after(Duration::from_secs(seconds));
    for (n, (shown, recorded)) in [(10, 10), (4, 10), (10, 10), (11, 11), (0, 11)].into_iter().enumerate() {
        subject.clock.set(wait(shown));
        subject.store.commit(subject.step(&n.to_string(), "s", Any, 2)).await.unwrap();
        assert!(subject.stream("s").await[2 * n..].iter().all(|event| event.timestamp == wait(recorded)), "step {n}");
    }
    // What records no event moves no recorded time.
    subject.clock.set(wait(99));
    subject.store.commit(subject.step("none", "s", Exact(10), 0)).await.unwrap();
    subject.clock.set(wait(12));
    subject.store.commit(subject.step("more", "s", Any, 1)).await.unwrap();
    assert_eq!(subject.stream("s").await[10].timestamp, wait(12));
    // All events of a commit have one time, which is behind in none of their streams.
    subject.clock.set(wait(3));
    let appends = vec![subject.append("t", NoStream, 1), subject.append("s", Any, 1), subject.append("u", NoStream, 0)];
    subject.store.commit(subject.steps("both", appends)).await.unwrap();
    assert_eq!((subject.stream("t").await[0].timestamp, subject.stream("s").await[11].timestamp), (wait(12), wait(12)));
}

pub(crate) async fn whoever_waits_for_growth_reads_everything_without_looking_twice(subject: &Subject) {
    let mut growth = subject.store.growth();
    let waiting = async {
        let mut seen = 0;
        while seen < 60 {
            growth.changed().await.unwrap();
            seen += subject.store.read_all(seen as u64, 100).await.unwrap().len();
        }
    };
    let growing = async {
        for n in 0..20 {
            subject.store.commit(subject.step(&format!("a{n}"), "s", Any, 3)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let both = futures::future::join(waiting, growing);
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("the last commit is told of too");
}

pub(crate) async fn a_reader_sees_a_commit_as_soon_as_it_is_answered(subject: &Subject) {
    for n in 0..20 {
        subject.store.commit(subject.step(&n.to_string(), "s", Exact(n), 1)).await.unwrap();
        assert_eq!(subject.version("s").await, n + 1);
        assert_eq!(subject.stream("s").await.len() as u64, n + 1);
    }
}

fn without_positions(log: Vec<Recorded>) -> Vec<Recorded> {
    log.into_iter().map(|event| Recorded { position: None, ..event }).collect()
}

/// Positions count from 1 without holes, and every stream's versions do along them.
fn dense(log: &[Recorded]) {
    let mut versions = std::collections::BTreeMap::new();
    for (event, position) in log.iter().zip(1..) {
        let version = versions.entry(&event.stream).or_insert(0);
        *version += 1;
        assert_eq!((event.position, event.version), (Some(position), *version), "{}", event.stream);
    }
}

pub(crate) async fn positions_are_dense_and_in_stream_order(subject: &Subject) {
    assert_eq!(subject.store.read_all(0, 9).await, Ok(vec![]));
    assert_eq!(subject.store.end().await, Ok(0));
    for n in 0..10 {
        let appends = vec![subject.append("s", Any, 2), subject.append(&format!("t-{}", n % 3), Any, 1)];
        subject.store.commit(subject.steps(&n.to_string(), appends)).await.unwrap();
    }
    let log = subject.log(30).await;
    dense(&log);
    assert_eq!(subject.store.end().await, Ok(30));
    let page = subject.store.read_all(7, 5).await.unwrap();
    assert_eq!(page, log[7..12]);
    assert_eq!(subject.store.read_all(28, 5).await.unwrap(), log[28..]);
    for (after, limit) in [(30, 5), (0, 0), (u64::MAX, 5)] {
        assert_eq!(subject.store.read_all(after, limit).await, Ok(vec![]));
    }
    let loaded = subject.store.load(&"s".into(), 0, 99).await.unwrap();
    let same: Vec<_> = log.into_iter().filter(|event| event.stream == "s".into()).collect();
    assert_eq!(loaded, same, "a stream shows the same positions as the log");
}

// ES-3: a refused append leaves no hole, and nobody waits for it.
pub(crate) async fn what_is_refused_leaves_no_hole(subject: &Subject) {
    let stolen = subject.event("{}");
    let reusing = |id: &str| {
        let append = Append { events: vec![stolen.clone()], ..subject.append(id, Any, 0) };
        subject.steps(id, vec![append])
    };
    subject.store.commit(reusing("owner")).await.unwrap();
    // One kind after the other, for one kind may tidy up after another.
    for kind in 0..3 {
        let step = |n: u64| match (n % 2, kind) {
            (0, _) => subject.step(&format!("{kind} {n}"), "s", Any, 1),
            (_, 0) => subject.step(&format!("{kind} {n}"), "s", Exact(1_000), 3),
            (_, 1) => subject.step(&format!("{kind} {}", n - 1), "s", Any, 1),
            (_, _) => reusing(&format!("{kind} {n}")),
        };
        let answers: Vec<_> = (0..20).map(|n| subject.store.commit(step(n))).collect();
        let answers = join_all(answers).await;
        assert!(answers.iter().enumerate().all(|(n, answer)| answer.is_ok() == (n % 2 == 0)), "{answers:?}");
        let events = 1 + 10 * (kind + 1);
        let log = subject.log(events).await;
        assert_eq!(log.len(), events);
        dense(&log);
    }
}

// ES-1, ES-2: a reader that only ever asks for what comes after its last position gets every event, in stream order.
pub(crate) async fn a_reader_that_tails_misses_nothing(subject: &Subject) {
    const WRITERS: usize = 32;
    const STEPS: usize = 25;
    let open = Cell::new(WRITERS);
    let writer = async |writer: usize| {
        let mut done = 0;
        let mut attempt = 0;
        while done < STEPS {
            attempt += 1;
            // Five streams for all, so that writers meet: some are refused and try again.
            let stream = format!("s-{}", (writer + done) % 5);
            let expected = Exact(subject.version(&stream).await);
            tokio::task::yield_now().await;
            let id = format!("{writer} {attempt}");
            let appends = vec![subject.append(&stream, expected, 1), subject.append(&format!("own-{writer}"), Any, 1)];
            done += usize::from(subject.store.commit(subject.steps(&id, appends)).await.is_ok());
        }
        open.set(open.get() - 1);
    };
    let total = 2 * WRITERS * STEPS;
    let reader = async {
        let mut seen: Vec<Recorded> = Vec::new();
        while open.get() > 0 || seen.len() < total {
            let after = seen.last().and_then(|event| event.position).unwrap_or(0);
            seen.extend(subject.store.read_all(after, 7).await.unwrap());
            tokio::task::yield_now().await;
        }
        seen
    };
    let both = join(join_all((0..WRITERS).map(writer)), reader);
    let (_, seen) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("the reader sees all");
    assert_eq!(seen.len(), total);
    dense(&seen);
    assert_eq!(subject.log(total).await, seen);
}

pub(crate) async fn streams_are_listed_by_prefix_in_byte_order(subject: &Subject) {
    let names = ["order-10", "order-2", "order", "orders-1", "payment-1", "order-", "Order-3", "order-é", "order-z"];
    let appends = names.map(|name| subject.append(name, NoStream, 1)).to_vec();
    subject.store.commit(subject.steps("a", appends)).await.unwrap();
    let all = ["order-", "order-10", "order-2", "order-z", "order-é"];
    assert_eq!(subject.names("order-", "", 99).await, all);
    assert_eq!(subject.names("order-", "", 2).await, all[..2]);
    assert_eq!(subject.names("order-", "order-10", 2).await, all[2..4]);
    assert_eq!(subject.names("order-", "order-1", 2).await, all[1..3], "after a name that there is not");
    assert_eq!(subject.names("order-", "a", 1).await, all[..1]);
    for (prefix, after, limit) in [("order-", "order-é", 9), ("order-", "p", 9), ("order-", "", 0), ("x", "", 9)] {
        assert_eq!(subject.names(prefix, after, limit).await, [""; 0]);
    }
    assert_eq!(subject.names("", "", 99).await.len(), names.len());
}

pub(crate) async fn ten_thousand_versions_fit_one_stream(subject: &Subject) {
    for n in 0..10 {
        let commit: Commit = subject.step(&n.to_string(), "s", Exact(n * 1_000), 1_000);
        assert_eq!(subject.store.commit(commit).await, Ok(vec![(n + 1) * 1_000]));
    }
    let events = subject.stream("s").await;
    assert!(events.iter().map(|event| event.version).eq(1..=10_000));
    assert_eq!(subject.store.load(&"s".into(), 9_990, 99).await.unwrap().len(), 10);
    dense(&subject.log(10_000).await);
}
