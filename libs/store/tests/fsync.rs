//! An answered commit is on the disk. Alone in its process, for the fsyncs of a process are counted together.

use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Ids, SystemClock};
use store::fsync::fsyncs;
use store::sqlite::Sqlite;
use store::{Append, Commit, Expected, Meta, NewEvent, Store, TimerChange};

#[tokio::test]
async fn every_answered_commit_has_cost_an_fsync_and_what_changes_nothing_costs_none() {
    const COMMITS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let ids = Ids::random(clock.clone());
    let store = Sqlite::create(&folder.path().join("store.db"), clock.clone()).unwrap();
    let commit = |n: u64| {
        let event = NewEvent { id: ids.next(), kind: "Happened".into(), schema: 1, data: "{}".into() };
        let append = Append { stream: "s".into(), expected: Expected::Exact(n), events: vec![event] };
        Commit { appends: vec![append], ..Commit::new(n.to_string().into(), Meta::default()) }
    };
    for n in 0..COMMITS {
        let before = fsyncs();
        store.commit(commit(n)).await.unwrap();
        assert!(fsyncs() > before, "commit {n} was answered before it was on the disk");
    }

    let timer = TimerChange::Set { key: "t".into(), due: clock.now().after(Duration::from_secs(3_600)) };
    let timers = vec![timer];
    store.commit(Commit { timers, ..Commit::new("timer".into(), Meta::default()) }).await.unwrap();
    let before = fsyncs();
    for n in 0..COMMITS {
        assert_eq!(store.claim_due(Duration::from_secs(1), 9).await, Ok(vec![]));
        assert!(store.commit(commit(n)).await.is_err(), "known");
        assert_eq!(store.version(&"s".into()).await, Ok(COMMITS));
    }
    assert_eq!(fsyncs(), before);

    // Handed over at once, they share.
    let before = fsyncs();
    let group: Vec<_> = (COMMITS..2 * COMMITS).map(|n| store.commit(commit(n))).collect();
    assert!(futures::future::join_all(group).await.iter().all(Result::is_ok));
    let spent = fsyncs() - before;
    assert!((1..COMMITS / 2).contains(&spent), "{spent} fsyncs for {COMMITS} commits");
}
