//! What every adapter of [`Store`] promises, as tests.
//!
//! # Problem
//! A trait says what can be asked, not what the answers mean; two adapters drift apart where nobody looks, and code that
//! was tested on one breaks on the other.
//!
//! # Pattern
//! A contract suite: the promises are written once, against the port, and every adapter runs all of them.
//!
//! # Here
//! Each statement is a function over a [`Subject`]; [`hold_the_contract`] makes a test of each for one adapter, so that a
//! failure names the statement. They stand in `contract_commits`, `contract_log` and `contract_extras`.
//!
//! # Limits
//! What only some adapters can show (reopening, bad files, faults of the disk) is tested beside them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use clock::{Clock, Ids, Timestamp};

use crate::{Append, Commit, CommitError, Expected, Meta, NewEvent, Recorded, Store, StreamId, Version};

/// The moment at which every subject's clock starts.
pub(crate) const START: Timestamp = Timestamp(1_700_000_000_000_000);

/// A clock that shows what it was last set to.
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn new() -> Arc<HandClock> {
        Arc::new(HandClock(AtomicI64::new(START.0)))
    }

    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// An empty store to make statements about, and what it takes to make them.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<HandClock>,
    ids: Ids,
    /// What must live as long as the store, such as its folder. Dropped after it.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

impl Subject {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<HandClock>, keep: impl Any + Send + Sync) -> Subject {
        Subject { store, ids: Ids::random(clock.clone()), clock, _keep: Box::new(keep) }
    }

    /// A new event with `data`.
    pub(crate) fn event(&self, data: &str) -> NewEvent {
        NewEvent { id: self.ids.next(), kind: "Happened".into(), schema: 1, data: data.into() }
    }

    /// An append of `events` new events.
    pub(crate) fn append(&self, stream: &str, expected: Expected, events: usize) -> Append {
        let events = (0..events).map(|n| self.event(&format!(r#"{{"n":{n}}}"#))).collect();
        Append { stream: stream.into(), expected, events }
    }

    /// A commit of one such append; its reply is its id.
    pub(crate) fn step(&self, id: &str, stream: &str, expected: Expected, events: usize) -> Commit {
        self.steps(id, vec![self.append(stream, expected, events)])
    }

    /// A commit of `appends`; its reply is its id.
    pub(crate) fn steps(&self, id: &str, appends: Vec<Append>) -> Commit {
        Commit { appends, reply: id.into(), ..Commit::new(id.into(), meta()) }
    }

    /// The whole stream, without its positions.
    pub(crate) async fn stream(&self, stream: &str) -> Vec<Recorded> {
        let events = self.store.load(&stream.into(), 0, usize::MAX).await.unwrap();
        events.into_iter().map(|event| Recorded { position: None, ..event }).collect()
    }

    pub(crate) async fn version(&self, stream: &str) -> Version {
        self.store.version(&stream.into()).await.unwrap()
    }

    pub(crate) async fn reply(&self, id: &str) -> Option<Vec<u8>> {
        self.store.reply(&id.into()).await.unwrap()
    }

    pub(crate) async fn names(&self, prefix: &str, after: &str, limit: usize) -> Vec<String> {
        let names: Vec<StreamId> = self.store.streams(prefix, after, limit).await.unwrap();
        names.iter().map(ToString::to_string).collect()
    }

    /// All timers that are due `wait` after the clock's start, claimed.
    pub(crate) async fn due_after(&self, wait: Duration) -> Vec<String> {
        self.clock.set(START.after(wait));
        self.store.claim_due(Duration::from_secs(3_600), usize::MAX).await.unwrap()
    }

    /// Everything that has a position, once `events` events have one.
    pub(crate) async fn log(&self, events: usize) -> Vec<Recorded> {
        let seen = async {
            loop {
                let log = self.store.read_all(0, usize::MAX).await.unwrap();
                if log.len() >= events {
                    return log;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("every event gets a position")
    }
}

pub(crate) fn meta() -> Meta {
    let [correlation_id, causation_id, actor] = ["order-1", "command-1", "customer:1"].map(String::from);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into();
    Meta { correlation_id, causation_id, actor, traceparent }
}

pub(crate) fn conflict(what: &str, expected: u64, actual: u64) -> CommitError {
    CommitError::Conflict { what: what.into(), expected, actual }
}

pub(crate) fn handled(reply: &str) -> CommitError {
    CommitError::AlreadyHandled(reply.into())
}

/// Makes a test of each statement, for the adapter that `$make` makes.
macro_rules! hold_the_contract {
    ($make:path) => {
        $crate::contract::hold_the_contract! { $make;
            contract_commits: versions_count_from_1_without_holes, an_expectation_is_met_or_names_what_is_there,
                a_conflict_changes_nothing, what_comes_after_a_commit_needs_it, several_streams_are_all_or_nothing, an_append_without_events_asserts_a_version,
                the_same_id_again_answers_the_first_reply, two_at_once_under_one_id_are_one,
                an_empty_reply_is_remembered, commits_apply_in_the_order_they_were_handed_over,
                dropping_the_future_revokes_nothing, what_no_store_takes_changes_nothing,
                an_event_id_under_another_commit_is_malformed, names_are_only_names;
            contract_log: load_pages_through_a_stream, data_is_kept_byte_for_byte, recorded_time_never_goes_backwards,
                positions_are_dense_and_in_stream_order, what_is_refused_leaves_no_hole, a_reader_that_tails_misses_nothing,
                streams_are_listed_by_prefix_in_byte_order, ten_thousand_versions_fit_one_stream,
                a_reader_sees_a_commit_as_soon_as_it_is_answered,
                whoever_waits_for_growth_reads_everything_without_looking_twice;
            contract_extras: a_timer_is_due_at_its_time, armed_timers_are_counted_due_or_not,
                armed_timers_are_listed_by_key, a_claim_holds_for_its_lease, two_claimers_share_nothing,
                timers_of_a_refused_commit_are_not_set, a_commits_timer_changes_apply_in_order,
                a_lease_has_one_holder_until_it_runs_out, a_lease_that_is_renewed_does_not_run_out,
                leases_of_two_names_are_apart,
                a_mark_moves_from_where_it_must_be, a_mark_that_cannot_move_stops_the_commit,
                a_remembered_id_comes_before_a_mark, the_latest_snapshot_is_kept,
                a_snapshot_ahead_of_its_stream_is_ignored, dropping_snapshots_changes_no_answer;
        }
    };
    ($make:path; $($file:ident: $($statement:ident),*;)*) => {$($(
        #[tokio::test]
        async fn $statement() {
            // Absent where the adapter's server is.
            let subject: Option<$crate::contract::Subject> = $make().await.into();
            if let Some(subject) = subject {
                $crate::$file::$statement(&subject).await;
            }
        }
    )*)*};
}
pub(crate) use hold_the_contract;
