//! What every cache promises, as tests over any of them.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Cache, Kept, Moment};

/// A cache under test, and what it stands on.
pub(crate) struct Subject {
    pub(crate) cache: Arc<dyn Cache>,
    _rest: Box<dyn std::any::Any>,
}

impl Subject {
    pub(crate) fn new(cache: Arc<dyn Cache>, rest: impl std::any::Any) -> Subject {
        Subject { cache, _rest: Box::new(rest) }
    }

    async fn kept(&self, key: &str) -> Option<Kept> {
        self.cache.get(key).await.unwrap().kept
    }
}

pub(crate) fn kept(version: u64, complete: u64, value: &'static str) -> Kept {
    Kept { version, complete: Moment(complete), value: value.into() }
}

pub(crate) async fn what_is_put_is_found_under_its_key_alone(subject: &Subject) {
    assert_eq!(subject.kept("tea").await, None);
    subject.cache.put("tea", kept(3, 7, "green\0\u{feff}")).await.unwrap();
    assert_eq!(subject.kept("tea").await, Some(kept(3, 7, "green\0\u{feff}")));
    assert_eq!(subject.kept("te").await, None);
    assert_eq!(subject.kept("tea*").await, None);
}

pub(crate) async fn a_newer_version_replaces_and_an_older_does_not(subject: &Subject) {
    let steps = [
        (kept(9, 50, "nine"), kept(9, 50, "nine")),
        (kept(8, 99, "eight, later"), kept(9, 50, "nine")),
        (kept(9, 70, "nine, later"), kept(9, 70, "nine, later")),
        // Nine was complete up to 70, and so is what came after.
        (kept(10, 60, "ten"), kept(10, 70, "ten")),
        (kept(11, 0, "written"), kept(11, 70, "written")),
        (kept(1_000_000_000_000, 1_800_000_000_000, "far"), kept(1_000_000_000_000, 1_800_000_000_000, "far")),
    ];
    for (new, left) in steps {
        subject.cache.put("tea", new).await.unwrap();
        assert_eq!(subject.kept("tea").await, Some(left));
    }
}

pub(crate) async fn of_many_writers_the_newest_wins(subject: &Subject) {
    let versions = (1..=40).map(|n| n * 7 % 41);
    let puts = versions.map(|version| subject.cache.put("tea", kept(version, version, "tea")));
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(subject.kept("tea").await, Some(kept(40, 40, "tea")));
}

pub(crate) async fn its_clock_goes_on(subject: &Subject) {
    let (first, begun) = (subject.cache.get("tea").await.unwrap().asked, Instant::now());
    assert!(first > Moment::default());
    sleep(Duration::from_millis(30)).await;
    let second = subject.cache.get("tea").await.unwrap().asked;
    let (theirs, ours) = (second.since(first).unwrap(), begun.elapsed());
    assert!(theirs >= Duration::from_millis(20) && theirs <= ours + Duration::from_millis(60), "{theirs:?} {ours:?}");
}

pub(crate) async fn what_is_not_put_again_ends(subject: &Subject) {
    subject.cache.put("tea", kept(3, 7, "green")).await.unwrap();
    let begun = Instant::now();
    // An older one does not keep the newer alive; once that has ended, it is the first again.
    while subject.kept("tea").await != Some(kept(2, 9, "old")) {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is kept for ever");
        subject.cache.put("tea", kept(2, 9, "old")).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(40), "it ended too early");
}

/// The contract as tests of an adapter; `make` makes one that keeps values for a given time, or nothing where it needs a server
/// that is not there.
macro_rules! hold_the_contract {
    ($make:path) => {
        $crate::contract::hold_the_contract!(@ $make:
            what_is_put_is_found_under_its_key_alone 60_000,
            a_newer_version_replaces_and_an_older_does_not 60_000,
            of_many_writers_the_newest_wins 60_000,
            its_clock_goes_on 60_000,
            what_is_not_put_again_ends 80,
        );
    };
    (@ $make:path: $($name:ident $keep:literal,)*) => {$(
        #[tokio::test]
        async fn $name() {
            if let Some(subject) = $make(std::time::Duration::from_millis($keep)).await {
                $crate::contract::$name(&subject).await;
            }
        }
    )*};
}
pub(crate) use hold_the_contract;
