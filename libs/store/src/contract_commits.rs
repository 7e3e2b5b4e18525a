//! The contract of [`Store`](crate::Store): what a commit does, and what it does not.

use futures::FutureExt;
use futures::future::join_all;

use crate::contract::{START, Subject, conflict, handled, meta};
use crate::{
    Append, Commit, CommitError, Expected, MAX_DATA_BYTES, MAX_EVENTS, MAX_MARK, MAX_NAME_BYTES, MarkMove, Meta,
    NewEvent, TimerChange,
};
use std::time::Duration;

use Expected::{Any, Exact, NoStream};

pub(crate) async fn versions_count_from_1_without_holes(subject: &Subject) {
    assert_eq!(subject.version("order-1").await, 0);
    assert_eq!(subject.store.commit(subject.step("a", "order-1", NoStream, 2)).await, Ok(vec![2]));
    assert_eq!(subject.store.commit(subject.step("b", "order-1", Exact(2), 1)).await, Ok(vec![3]));
    assert_eq!(subject.store.commit(subject.step("c", "order-2", NoStream, 1)).await, Ok(vec![1]));
    let versions: Vec<_> = subject.stream("order-1").await.iter().map(|event| event.version).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert_eq!((subject.version("order-1").await, subject.version("order-2").await), (3, 1));
}

pub(crate) async fn an_expectation_is_met_or_names_what_is_there(subject: &Subject) {
    let cases = [
        ("missing-1", NoStream, Ok(vec![1])),
        ("missing-2", Any, Ok(vec![1])),
        ("missing-3", Exact(0), Ok(vec![1])),
        ("missing-4", Exact(1), Err(conflict("missing-4", 1, 0))),
        ("missing-4", Exact(u64::MAX), Err(conflict("missing-4", u64::MAX, 0))),
        ("missing-1", NoStream, Err(conflict("missing-1", 0, 1))),
        ("missing-1", Exact(0), Err(conflict("missing-1", 0, 1))),
        ("missing-1", Exact(2), Err(conflict("missing-1", 2, 1))),
        ("missing-1", Exact(1), Ok(vec![2])),
        ("missing-1", Any, Ok(vec![3])),
    ];
    for (n, (stream, expected, answer)) in cases.into_iter().enumerate() {
        let commit = subject.step(&n.to_string(), stream, expected, 1);
        assert_eq!(subject.store.commit(commit).await, answer, "case {n}: {stream} {expected:?}");
    }
}

/// A commit that changes one of everything, on stream `s` at version 1.
fn everything(subject: &Subject, id: &str, expected: Expected) -> Commit {
    let set = TimerChange::Set { key: "timer".into(), due: START };
    let mark = MarkMove { name: "mark".into(), from: 0, to: 1 };
    Commit { timers: vec![set], marks: vec![mark], ..subject.step(id, "s", expected, 1) }
}

async fn nothing_happened(subject: &Subject, id: &str) {
    assert_eq!((subject.version("s").await, subject.version("t").await), (1, 0));
    assert_eq!(subject.stream("s").await.len(), 1);
    assert_eq!(subject.reply(id).await, None);
    assert_eq!(subject.store.mark("mark").await, Ok(0));
    assert_eq!(subject.due_after(Duration::from_secs(9)).await, [""; 0]);
    assert_eq!(subject.log(1).await.len(), 1);
    assert_eq!(subject.names("", "", 9).await, ["s"]);
}

pub(crate) async fn a_conflict_changes_nothing(subject: &Subject) {
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    let refused = subject.store.commit(everything(subject, "b", Exact(5))).await;
    assert_eq!(refused, Err(conflict("s", 5, 1)));
    nothing_happened(subject, "b").await;
    // The id is not spent: what was decided anew goes under the same.
    assert_eq!(subject.store.commit(everything(subject, "b", Exact(1))).await, Ok(vec![2]));
    assert_eq!(subject.store.mark("mark").await, Ok(1));
    assert_eq!(subject.due_after(Duration::from_secs(9)).await, ["timer"]);
}

/// A commit that was decided on another's outcome happens only if that one did, whatever the versions say.
pub(crate) async fn what_comes_after_a_commit_needs_it(subject: &Subject) {
    let after = |commit: Commit, id: &str| Commit { after: vec!["a".into(), id.into()], ..commit };
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    // "b" loses to "c", whose event has the version that "d" was decided on.
    let chain = [
        subject.step("c", "s", Exact(1), 1),
        subject.step("b", "s", Exact(1), 1),
        after(subject.step("d", "s", Exact(2), 1), "b"),
        after(subject.step("e", "s", Exact(2), 1), "c"),
    ];
    let answers = chain.map(|commit| subject.store.commit(commit));
    let expected = [Ok(vec![2]), Err(conflict("s", 1, 2)), Err(conflict("b", 1, 0)), Ok(vec![3])];
    assert_eq!(join_all(answers).await, expected);
    assert_eq!((subject.version("s").await, subject.reply("d").await), (3, None));
    assert_eq!(subject.store.commit(after(subject.step("e", "s", Any, 1), "b")).await, Err(handled("e")));
}

pub(crate) async fn several_streams_are_all_or_nothing(subject: &Subject) {
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    let both = |expected| vec![subject.append("t", NoStream, 1), subject.append("s", expected, 2)];
    assert_eq!(subject.store.commit(subject.steps("b", both(Exact(7)))).await, Err(conflict("s", 7, 1)));
    nothing_happened(subject, "b").await;
    assert_eq!(subject.store.commit(subject.steps("b", both(Exact(1)))).await, Ok(vec![1, 3]));
}

pub(crate) async fn an_append_without_events_asserts_a_version(subject: &Subject) {
    let both = |expected| vec![subject.append("guard", expected, 0), subject.append("s", Any, 1)];
    assert_eq!(subject.store.commit(subject.steps("a", both(Exact(1)))).await, Err(conflict("guard", 1, 0)));
    assert_eq!(subject.version("s").await, 0);
    assert_eq!(subject.store.commit(subject.steps("a", both(NoStream))).await, Ok(vec![0, 1]));
    assert_eq!(subject.names("", "", 9).await, ["s"], "an assertion makes no stream");
    assert_eq!(subject.store.commit(subject.step("b", "s", Exact(1), 0)).await, Ok(vec![1]));
}

// ES-5, with the commit's id in the place of its events' ids.
pub(crate) async fn the_same_id_again_answers_the_first_reply(subject: &Subject) {
    assert_eq!(subject.reply("a").await, None);
    let commit = subject.step("a", "s", NoStream, 1);
    assert_eq!(subject.store.commit(commit.clone()).await, Ok(vec![1]));
    assert_eq!(subject.reply("a").await, Some("a".into()));
    assert_eq!(subject.store.commit(commit).await, Err(handled("a")), "although s is no longer missing");
    let other = Commit { reply: "other".into(), ..subject.step("a", "t", Exact(4), 1) };
    assert_eq!(subject.store.commit(other).await, Err(handled("a")));
    assert_eq!((subject.version("s").await, subject.version("t").await), (1, 0));
    assert_eq!(subject.reply("a").await, Some("a".into()));
}

pub(crate) async fn two_at_once_under_one_id_are_one(subject: &Subject) {
    let [one, two] = ["s", "t"].map(|stream| subject.store.commit(subject.step("a", stream, NoStream, 1)));
    assert_eq!((one.await, two.await), (Ok(vec![1]), Err(handled("a"))));
    assert_eq!(subject.names("", "", 9).await, ["s"]);
}

pub(crate) async fn an_empty_reply_is_remembered(subject: &Subject) {
    let commit = Commit { reply: Vec::new(), ..subject.step("a", "s", Any, 1) };
    assert_eq!(subject.store.commit(commit.clone()).await, Ok(vec![1]));
    assert_eq!(subject.reply("a").await, Some(Vec::new()));
    assert_eq!(subject.store.commit(commit).await, Err(handled("")));
    let bytes = Commit { reply: vec![0, 255, 0], ..subject.steps("b", Vec::new()) };
    assert_eq!(subject.store.commit(bytes).await, Ok(vec![]));
    assert_eq!(subject.reply("b").await, Some(vec![0, 255, 0]));
}

pub(crate) async fn commits_apply_in_the_order_they_were_handed_over(subject: &Subject) {
    let chain = (0..100).map(|n| subject.store.commit(subject.step(&n.to_string(), "s", Exact(n), 1)));
    // Danger: `chain` is lazy; all must be handed over before one is awaited.
    let handed_over: Vec<_> = chain.collect();
    let answers = join_all(handed_over.into_iter().rev()).await;
    assert_eq!(answers, (1..=100).rev().map(|version| Ok(vec![version])).collect::<Vec<_>>());
}

pub(crate) async fn dropping_the_future_revokes_nothing(subject: &Subject) {
    drop(subject.store.commit(subject.step("a", "s", NoStream, 1)));
    let mut polled = subject.store.commit(subject.step("b", "s", Exact(1), 1));
    let _ = (&mut polled).now_or_never();
    drop(polled);
    assert_eq!(subject.store.commit(subject.step("c", "s", Exact(2), 1)).await, Ok(vec![3]));
    assert_eq!((subject.reply("a").await, subject.reply("b").await), (Some("a".into()), Some("b".into())));
}

pub(crate) async fn what_no_store_takes_changes_nothing(subject: &Subject) {
    subject.store.commit(subject.step("a", "s", NoStream, 1)).await.unwrap();
    let good = |id: &str| everything(subject, id, Any);
    let set = |key: String| vec![TimerChange::Set { key, due: START }];
    let mark = |from, to| MarkMove { name: "mark".into(), from, to };
    let of = |data: &str| Append { events: vec![subject.event(data)], ..subject.append("t", Any, 0) };
    let large = |bytes| of(&format!("\"{}\"", "x".repeat(bytes - 2)));
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    let twice = vec![subject.append("t", Any, 1), subject.append("t", Any, 1)];
    let many = vec![subject.append("s", Any, MAX_EVENTS), subject.append("t", Any, 1)];
    let mut nul = subject.append("t", Any, 1);
    nul.events[0].kind = "a\0b".into();
    let bad = [
        Commit { id: "".into(), ..good("b") },
        Commit { id: long.as_str().into(), ..good("b") },
        Commit { id: "a\0b".into(), ..good("b") },
        Commit { reply: vec![0; MAX_DATA_BYTES + 1], ..good("b") },
        Commit { appends: twice, ..good("b") },
        Commit { appends: many, ..good("b") },
        Commit { appends: vec![subject.append("", Any, 1)], ..good("b") },
        Commit { appends: vec![subject.append(&long, Any, 1)], ..good("b") },
        Commit { appends: vec![subject.append("\0", Any, 1)], ..good("b") },
        Commit { appends: vec![large(MAX_DATA_BYTES + 1)], ..good("b") },
        Commit { appends: vec![of("")], ..good("b") },
        Commit { appends: vec![of("{'a': 1}")], ..good("b") },
        Commit { appends: vec![of("{} {}")], ..good("b") },
        Commit { appends: vec![of("\"\0\"")], ..good("b") },
        Commit { appends: vec![nul], ..good("b") },
        Commit { meta: Meta { actor: "a\0b".into(), ..meta() }, ..good("b") },
        Commit { timers: set(long.clone()), ..good("b") },
        Commit { timers: vec![TimerChange::Clear { key: String::new() }], ..good("b") },
        Commit { marks: vec![MarkMove { name: long.clone(), from: 0, to: 1 }], ..good("b") },
        Commit { marks: vec![mark(0, 0)], ..good("b") },
        Commit { marks: vec![mark(0, MAX_MARK + 1)], ..good("b") },
        Commit { marks: vec![mark(0, 1), mark(1, 2)], ..good("b") },
    ];
    for commit in bad {
        let why = commit.check().unwrap_err();
        assert_eq!(subject.store.commit(commit).await, Err(CommitError::Malformed(why)));
    }
    nothing_happened(subject, "b").await;
    let longest = "n".repeat(MAX_NAME_BYTES);
    let most = vec![subject.append(&longest, Any, MAX_EVENTS - 1), large(MAX_DATA_BYTES)];
    let marks = vec![MarkMove { name: longest.clone(), from: 0, to: MAX_MARK }];
    let good = Commit { appends: most, timers: set(longest.clone()), marks, ..good(&longest) };
    let good = Commit { reply: vec![7; MAX_DATA_BYTES], ..good };
    assert_eq!(subject.store.commit(good).await, Ok(vec![MAX_EVENTS as u64 - 1, 1]));
    assert_eq!(subject.store.mark(&longest).await, Ok(MAX_MARK));
    assert_eq!(subject.reply(&longest).await.unwrap().len(), MAX_DATA_BYTES);
    assert_eq!(subject.due_after(Duration::ZERO).await, [longest]);
}

// ES-5: a partial overlap is an error of its own.
pub(crate) async fn an_event_id_under_another_commit_is_malformed(subject: &Subject) {
    let first = subject.step("a", "s", NoStream, 2);
    let stolen = first.appends[0].events[1].clone();
    subject.store.commit(first).await.unwrap();
    let reusing = |events: Vec<NewEvent>| {
        let append = Append { events, ..subject.append("t", Any, 0) };
        Commit { appends: vec![append], ..everything(subject, "b", Any) }
    };
    let fresh = subject.event("{}");
    for events in [vec![subject.event("{}"), stolen.clone()], vec![fresh.clone(), fresh.clone()]] {
        let id = events[1].id;
        // Its neighbours in the queue are judged on their own.
        let before = subject.store.commit(subject.step(&format!("before {id}"), "u", Any, 1));
        let refused = subject.store.commit(reusing(events));
        let after = subject.store.commit(subject.step(&format!("after {id}"), "u", Any, 1));
        assert!(before.await.is_ok());
        assert_eq!(refused.await, Err(CommitError::Malformed(format!("event {id} exists already"))));
        assert!(after.await.is_ok());
    }
    assert_eq!((subject.version("t").await, subject.version("u").await), (0, 4));
    assert_eq!(subject.reply("b").await, None);
    assert_eq!(subject.store.mark("mark").await, Ok(0));
    assert_eq!(subject.due_after(Duration::from_secs(9)).await, [""; 0]);
}

pub(crate) async fn names_are_only_names(subject: &Subject) {
    let names =
        ["'; DROP TABLE events; --", "\"", "%", "_", "a%b", "\\", "장터", "\n", "\u{1f980}", " ", "?1", "e\u{301}"];
    for (n, name) in names.into_iter().enumerate() {
        let set = TimerChange::Set { key: name.into(), due: START };
        let mark = MarkMove { name: name.into(), from: 0, to: n as u64 + 1 };
        let commit = Commit { timers: vec![set], marks: vec![mark], ..subject.step(name, name, NoStream, n + 1) };
        assert_eq!(subject.store.commit(commit).await, Ok(vec![n as u64 + 1]));
    }
    for (n, name) in names.into_iter().enumerate() {
        assert_eq!(subject.version(name).await, n as u64 + 1);
        assert_eq!(subject.stream(name).await.len(), n + 1);
        assert_eq!(subject.reply(name).await, Some(name.into()));
        assert_eq!(subject.store.mark(name).await, Ok(n as u64 + 1));
        let prefixed: Vec<_> = names.iter().filter(|other| other.starts_with(name)).collect();
        assert_eq!(subject.names(name, "", 99).await.len(), prefixed.len(), "{name:?} matches only itself");
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(subject.names("", "", 99).await, sorted);
    assert_eq!(subject.due_after(Duration::ZERO).await, sorted);
}
