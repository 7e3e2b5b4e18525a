//! The contract of [`Store`](crate::Store): timers, leases, marks and snapshots, which change with a commit or beside it.

use std::time::Duration;

use uuid::Uuid;

use crate::contract::{START, Subject, conflict, handled};
use crate::{Commit, Expected, MarkMove, Snapshot, TimerChange};

use Expected::{Any, Exact, NoStream};

const SECOND: Duration = Duration::from_secs(1);

fn set(key: &str, after: Duration) -> TimerChange {
    TimerChange::Set { key: key.into(), due: START.after(after) }
}

async fn arm(subject: &Subject, id: &str, timers: Vec<TimerChange>) {
    subject.store.commit(Commit { timers, ..subject.steps(id, Vec::new()) }).await.unwrap();
}

pub(crate) async fn a_timer_is_due_at_its_time(subject: &Subject) {
    arm(subject, "a", vec![set("early", SECOND), set("late", SECOND * 9), set("gone", SECOND), set("moved", SECOND)])
        .await;
    arm(subject, "b", vec![TimerChange::Clear { key: "gone".into() }, set("moved", SECOND * 5)]).await;
    arm(subject, "c", vec![TimerChange::Clear { key: "never armed".into() }]).await;
    assert_eq!(subject.due_after(SECOND - Duration::from_micros(1)).await, [""; 0]);
    assert_eq!(subject.due_after(SECOND).await, ["early"]);
    assert_eq!(subject.due_after(SECOND * 8).await, ["moved"]);
    assert_eq!(subject.due_after(SECOND * 9).await, ["late"]);
    arm(subject, "d", vec![TimerChange::Clear { key: "late".into() }, set("early", SECOND * 20)]).await;
    assert_eq!(subject.due_after(SECOND * 19).await, [""; 0]);
    assert_eq!(subject.due_after(SECOND * 10_000).await, ["early", "moved"], "late is disarmed");
}

pub(crate) async fn armed_timers_are_counted_due_or_not(subject: &Subject) {
    assert_eq!(subject.store.armed().await, Ok(0));
    arm(subject, "a", vec![set("x", SECOND), set("y", SECOND), set("z", SECOND * 9)]).await;
    arm(subject, "b", vec![set("x", SECOND * 2), TimerChange::Clear { key: "y".into() }]).await;
    assert_eq!(subject.due_after(SECOND * 2).await, ["x"]);
    assert_eq!(subject.store.armed().await, Ok(2), "claimed is armed again");
}

pub(crate) async fn armed_timers_are_listed_by_key(subject: &Subject) {
    arm(subject, "a", vec![set("z", SECOND), set("y", SECOND * 9), set("x", SECOND)]).await;
    arm(subject, "b", vec![TimerChange::Clear { key: "z".into() }, set("x", SECOND * 2)]).await;
    let [x, y] = [("x", 2), ("y", 9)].map(|(key, due)| (key.to_owned(), START.after(SECOND * due)));
    assert_eq!(subject.store.timers("", 9).await, Ok(vec![x.clone(), y.clone()]));
    assert_eq!(subject.store.timers("", 1).await, Ok(vec![x]));
    assert_eq!(subject.store.timers("x", 9).await, Ok(vec![y]));
}

pub(crate) async fn a_claim_holds_for_its_lease(subject: &Subject) {
    arm(subject, "a", vec![set("t", SECOND)]).await;
    let claim = async |after: Duration| {
        subject.clock.set(START.after(after));
        subject.store.claim_due(SECOND * 10, 9).await.unwrap()
    };
    assert_eq!(claim(SECOND * 3).await, ["t"]);
    assert_eq!(claim(SECOND * 3).await, [""; 0], "re-armed by the claim");
    assert_eq!(claim(SECOND * 13 - Duration::from_micros(1)).await, [""; 0]);
    assert_eq!(claim(SECOND * 13).await, ["t"], "the claimer died");
    assert_eq!(claim(SECOND * 2).await, [""; 0], "the clock goes back");
}

pub(crate) async fn two_claimers_share_nothing(subject: &Subject) {
    // The order of the keys is not the order in which they are due; two of each are due at once, which their keys decide.
    let mut keys: Vec<_> = (0..20).map(|n| (SECOND * (n / 2), format!("t-{:02}", n * 7 % 20))).collect();
    let timers = keys.iter().map(|(due, key)| set(key, *due)).collect();
    keys.sort();
    let keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
    arm(subject, "a", timers).await;
    subject.clock.set(START.after(SECOND * 99));
    assert_eq!(subject.store.claim_due(SECOND, 0).await, Ok(vec![]));
    let (one, two) = futures::join!(subject.store.claim_due(SECOND, 7), subject.store.claim_due(SECOND, 7));
    let place = |key: String| keys.iter().position(|other| *other == key).unwrap();
    let [one, two] = [one, two].map(|claimed| claimed.unwrap().into_iter().map(place).collect::<Vec<_>>());
    assert!(one.is_sorted() && two.is_sorted(), "earliest first: {one:?} {two:?}");
    let mut both = [one, two].concat();
    both.sort_unstable();
    assert!(both.iter().copied().eq(0..14), "the earliest, and each once: {both:?}");
    assert_eq!(subject.store.claim_due(SECOND, 99).await.unwrap(), keys[14..]);
}

pub(crate) async fn timers_of_a_refused_commit_are_not_set(subject: &Subject) {
    subject
        .store
        .commit(Commit { timers: vec![set("kept", SECOND)], ..subject.step("a", "s", NoStream, 1) })
        .await
        .unwrap();
    let timers = vec![set("refused", SECOND), TimerChange::Clear { key: "kept".into() }];
    let refused = Commit { timers: timers.clone(), ..subject.step("b", "s", NoStream, 1) };
    assert_eq!(subject.store.commit(refused).await, Err(conflict("s", 0, 1)));
    let known = Commit { timers, ..subject.step("a", "s", Exact(1), 1) };
    assert_eq!(subject.store.commit(known).await, Err(handled("a")));
    assert_eq!(subject.due_after(SECOND).await, ["kept"]);
}

pub(crate) async fn a_commits_timer_changes_apply_in_order(subject: &Subject) {
    let clear = |key: &str| TimerChange::Clear { key: key.into() };
    let timers =
        vec![set("a", SECOND), clear("a"), clear("b"), set("b", SECOND), set("c", SECOND), set("c", SECOND * 2)];
    arm(subject, "a", timers).await;
    assert_eq!(subject.due_after(SECOND).await, ["b"]);
    assert_eq!(subject.due_after(SECOND * 2).await, ["c"]);
}

/// Who has the lease `name` for a while after it was asked for by the first and then by the second.
async fn asked(subject: &Subject, name: &str, after: Duration, length: Duration, holders: [u128; 2]) -> [bool; 2] {
    subject.clock.set(START.after(after));
    let ask = async |holder| subject.store.lease(name, Uuid::from_u128(holder), length).await.unwrap();
    [ask(holders[0]).await, ask(holders[1]).await]
}

pub(crate) async fn a_lease_has_one_holder_until_it_runs_out(subject: &Subject) {
    let moment = Duration::from_micros(1);
    assert_eq!(asked(subject, "relay", SECOND, SECOND * 5, [1, 2]).await, [true, false]);
    assert_eq!(asked(subject, "relay", SECOND * 6 - moment, SECOND, [2, 3]).await, [false, false]);
    assert_eq!(asked(subject, "relay", SECOND * 6, SECOND * 5, [2, 1]).await, [true, false], "the other takes over");
}

pub(crate) async fn a_lease_that_is_renewed_does_not_run_out(subject: &Subject) {
    for second in 0..9 {
        assert_eq!(asked(subject, "relay", SECOND * second, SECOND * 2, [1, 2]).await, [true, false], "{second}");
    }
    // A length of zero gives it back.
    assert_eq!(asked(subject, "relay", SECOND * 9, Duration::ZERO, [1, 2]).await, [true, true]);
}

pub(crate) async fn leases_of_two_names_are_apart(subject: &Subject) {
    assert_eq!(asked(subject, "relay", SECOND, SECOND * 5, [1, 2]).await, [true, false]);
    assert_eq!(asked(subject, "projector", SECOND, SECOND * 5, [2, 1]).await, [true, false]);
    assert_eq!(asked(subject, "relay", SECOND * 2, SECOND * 5, [2, 1]).await, [false, true]);
}

fn moving(subject: &Subject, id: &str, name: &str, from: u64, to: u64) -> Commit {
    Commit { marks: vec![MarkMove { name: name.into(), from, to }], ..subject.step(id, id, NoStream, 1) }
}

pub(crate) async fn a_mark_moves_from_where_it_must_be(subject: &Subject) {
    let store = &subject.store;
    assert_eq!(store.mark("m").await, Ok(0));
    assert_eq!(store.commit(moving(subject, "a", "m", 0, 3)).await, Ok(vec![1]));
    assert_eq!(store.commit(moving(subject, "b", "m", 3, 7)).await, Ok(vec![1]));
    assert_eq!(store.commit(moving(subject, "c", "other", 0, 1)).await, Ok(vec![1]));
    assert_eq!((store.mark("m").await, store.mark("other").await), (Ok(7), Ok(1)));
    assert_eq!(store.commit(moving(subject, "d", "m", 8, 9)).await, Err(conflict("m", 8, 7)), "it is behind");
    assert_eq!(store.commit(moving(subject, "e", "m", 3, 7)).await, Err(handled("")), "it is there already");
    assert_eq!(store.commit(moving(subject, "f", "m", 0, 3)).await, Err(handled("")), "it is past that");
    assert_eq!(store.commit(moving(subject, "g", "m", 5, 9)).await, Err(conflict("m", 5, 7)), "8 and 9 are unhandled");
    assert_eq!(store.mark("m").await, Ok(7));
}

pub(crate) async fn a_mark_that_cannot_move_stops_the_commit(subject: &Subject) {
    subject.store.commit(moving(subject, "a", "m", 0, 3)).await.unwrap();
    for (from, to) in [(0, 3), (4, 5)] {
        let mut commit = moving(subject, "b", "m", from, to);
        commit.marks.insert(0, MarkMove { name: "other".into(), from: 0, to: 1 });
        commit.timers.push(set("t", SECOND));
        assert!(subject.store.commit(commit).await.is_err());
        assert_eq!((subject.version("b").await, subject.reply("b").await), (0, None));
        assert_eq!(subject.store.mark("other").await, Ok(0));
        assert_eq!(subject.due_after(SECOND).await, [""; 0]);
    }
    // A message that is handled a second time finds both its mark and its streams moved: it is not asked to try again.
    let again = Commit { appends: vec![subject.append("a", NoStream, 1)], ..moving(subject, "c", "m", 0, 3) };
    assert_eq!(subject.store.commit(again).await, Err(handled("")));
}

pub(crate) async fn a_remembered_id_comes_before_a_mark(subject: &Subject) {
    let commit = moving(subject, "a", "m", 0, 3);
    subject.store.commit(commit.clone()).await.unwrap();
    assert_eq!(subject.store.commit(commit).await, Err(handled("a")), "its own reply, not a mark's");
}

fn snapshot(version: u64, data: &str) -> Snapshot {
    Snapshot { version, schema: 2, data: data.into() }
}

pub(crate) async fn the_latest_snapshot_is_kept(subject: &Subject) {
    let store = &subject.store;
    store.commit(subject.steps("a", vec![subject.append("s", Any, 9), subject.append("t", Any, 9)])).await.unwrap();
    assert_eq!(store.snapshot(&"s".into()).await, Ok(None));
    for (kept, found) in [(3, 3), (5, 5), (4, 5), (9, 9), (1, 9)] {
        store.keep_snapshot(&"s".into(), snapshot(kept, &format!("'{kept}' é"))).await.unwrap();
        assert_eq!(store.snapshot(&"s".into()).await, Ok(Some(snapshot(found, &format!("'{found}' é")))));
    }
    // The same version in a newer form of the state takes its place.
    let newer = Snapshot { schema: 3, ..snapshot(9, "newer") };
    store.keep_snapshot(&"s".into(), newer.clone()).await.unwrap();
    assert_eq!(store.snapshot(&"s".into()).await, Ok(Some(newer)));
    assert_eq!(store.snapshot(&"t".into()).await, Ok(None));
}

pub(crate) async fn a_snapshot_ahead_of_its_stream_is_ignored(subject: &Subject) {
    subject.store.commit(subject.step("a", "s", Any, 2)).await.unwrap();
    for (stream, version) in [("s", 3), ("s", u64::MAX), ("s", 0), ("missing", 1), ("missing", 0), ("", 1)] {
        subject.store.keep_snapshot(&stream.into(), snapshot(version, "{}")).await.unwrap();
        assert_eq!(subject.store.snapshot(&stream.into()).await, Ok(None), "{stream} {version}");
    }
}

// ES-9: the store's half of it.
pub(crate) async fn dropping_snapshots_changes_no_answer(subject: &Subject) {
    let store = &subject.store;
    store.commit(subject.step("a", "s", Any, 5)).await.unwrap();
    store.keep_snapshot(&"s".into(), snapshot(4, "{}")).await.unwrap();
    let before = (subject.stream("s").await, subject.log(5).await, subject.reply("a").await);
    store.drop_snapshots().await.unwrap();
    assert_eq!(store.snapshot(&"s".into()).await, Ok(None));
    assert_eq!((subject.stream("s").await, subject.log(5).await, subject.reply("a").await), before);
    assert_eq!(store.commit(subject.step("b", "s", Exact(5), 1)).await, Ok(vec![6]));
    store.keep_snapshot(&"s".into(), snapshot(1, "{}")).await.unwrap();
    assert_eq!(store.snapshot(&"s".into()).await, Ok(Some(snapshot(1, "{}"))));
}
