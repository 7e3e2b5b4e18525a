//! What `cargo xtask mutants` breaks, as data: each pattern of the README's index switched off, and finer faults besides.

/// A change for the worse, and the test that has to notice it.
pub(crate) struct Mutation {
    /// What is broken.
    pub(crate) name: &'static str,
    /// The file, from the root.
    pub(crate) file: &'static str,
    /// A text that stands in it exactly once.
    pub(crate) find: &'static str,
    /// What is put in its place.
    pub(crate) put: &'static str,
    /// Whose tests are run.
    pub(crate) package: &'static str,
    /// Its library's own tests, or those of `tests/<name>`.
    pub(crate) tests: Option<&'static str>,
    /// The test that has to fail, as the README names tests.
    pub(crate) caught_by: &'static str,
}

const SHOP: (&str, Option<&str>) = ("monolith", Some("it"));

const fn mutation(
    name: &'static str,
    file: &'static str,
    (find, put): (&'static str, &'static str),
    (package, tests): (&'static str, Option<&'static str>),
    caught_by: &'static str,
) -> Mutation {
    Mutation { name, file, find, put, package, tests, caught_by }
}

/// The patterns of the index, each switched off where it stands.
const PATTERNS: &[Mutation] = &[
    mutation(
        "positions-with-the-row",
        "libs/store/src/postgres_writer.rs",
        ("SELECT $3::bigint + nth - 1, id,", "SELECT nextval('events_arrival_seq'), id,"),
        ("store", None),
        "postgres::tests::a_reader_that_tails_misses_nothing_of_any_process",
    ),
    mutation(
        "every-replica-publishes",
        "libs/messaging/src/relay.rs",
        ("if !self.turn.is_mine().await? {", "if !self.turn.is_mine().await? && self.topic.is_empty() {"),
        ("messaging", None),
        "relay::tests::one_of_two_replicas_publishes_and_another_goes_on_when_it_stops",
    ),
    mutation(
        "no-failover",
        "libs/host/src/replicas.rs",
        ("Err(status) if !was_sent(&status) => {", "Err(status) if !was_sent(&status) && replica.rests() => {"),
        ("host", None),
        "replicas::tests::a_call_that_was_not_sent_goes_to_the_next_and_one_that_was_does_not",
    ),
    mutation(
        "too-early-is-200",
        "libs/host/src/unavailable.rs",
        (r#"if kind.starts_with("application/grpc") {"#, r#"if !kind.starts_with("nothing") {"#),
        ("host", None),
        "unavailable::tests::each_client_is_refused_in_the_form_in_which_it_asked",
    ),
    mutation(
        "nobody-makes-room",
        "libs/host/src/slots.rs",
        ("(requests == 0).then_some((true, idle))", "(requests > 9).then_some((true, idle))"),
        ("host", None),
        "http_server::tests::an_idle_connection_makes_room_for_a_new_one",
    ),
    mutation(
        "no-write-timeout",
        "libs/host/src/client_io.rs",
        ("ready!(blocked.late.as_mut().poll(context));", "ready!(Poll::<()>::Pending);"),
        ("host", None),
        "http_server::tests::a_client_that_does_not_read_is_closed_in_time",
    ),
    mutation(
        "no-timeout-for-streams",
        "libs/host/src/answer_body.rs",
        (
            "if late.is_some_and(|late| late.is_ready()) {",
            "if late.is_some_and(|late| late.is_ready()) && PATIENCE.is_zero() {",
        ),
        ("host", None),
        "http_server::tests::a_stream_whose_window_stays_shut_ends_in_time_and_its_connection_does_not",
    ),
    mutation(
        "hang-ups-go-unnoticed",
        "libs/host/src/client_io.rs",
        ("Ok(()) | Err(_) => inner.ended = true,", "Ok(()) | Err(_) => return Poll::Pending,"),
        ("host", None),
        "http_server::tests::a_wait_ends_when_its_client_hangs_up_whatever_it_has_sent_before",
    ),
    mutation(
        "clients-take-all-files",
        "libs/program/src/open_files.rs",
        ("let left = allowed.saturating_sub(OWN + RESERVED);", "let left = allowed + CONNECTIONS - OWN - RESERVED;"),
        SHOP,
        "open_files::clients_do_not_take_the_files_of_the_stores",
    ),
    mutation(
        "one-connection-for-all-calls",
        "libs/host/src/network.rs",
        ("const CALLS: usize = 100;", "const CALLS: usize = 1_000;"),
        ("host", None),
        "network::tests::however_many_calls_wait_another_is_answered",
    ),
    mutation(
        "first-come-first-served",
        "services/gateway/src/fair_share.rs",
        ("unwrap_or_default() >= free {", "unwrap_or_default() >= free * self.limit {"),
        ("gateway", Some("edge")),
        "waiting::customers_share_the_places_to_wait_and_nobody_is_held_up_by_waits",
    ),
    mutation(
        "followers-of-this-process-only",
        "services/order/src/followers.rs",
        ("            self.wake(&recorded.stream);\n", ""),
        ("order", None),
        "followers::tests::a_follower_is_woken_by_its_own_order_only",
    ),
    mutation(
        "gateway-calls-nobody",
        "services/gateway/src/upstream.rs",
        (
            "    // The transport ends a call that gets no answer.",
            "    if !rpc.as_str().is_empty() {\n        return Ok(Bytes::new());\n    }\n    // The transport ends a call that gets no answer.",
        ),
        SHOP,
        "checkout::a_good_order_is_confirmed_and_everything_is_done_once",
    ),
    mutation(
        "compensation-undoes-nothing",
        "libs/saga/src/react.rs",
        ("match (0..steps.len()).rev().find(undoable) {", "match (0..0).rev().find(undoable) {"),
        SHOP,
        "saga_matrix::a_refused_step_is_compensated",
    ),
    mutation(
        "nobody-hears-of-confirmed-orders",
        "services/shipping/src/heard.rs",
        (r#"Interest::of(kind, &["shop.events.v1.OrderConfirmed"], KINDS)"#, "Interest::of(kind, &[], KINDS)"),
        SHOP,
        "fulfilment::a_confirmed_order_is_shipped_and_delivered_once_and_its_goods_leave_the_books",
    ),
    mutation(
        "marked-before-it-is-published",
        "libs/messaging/src/relay.rs",
        (
            "            self.bus.publish(&self.topic, messages).await?;\n",
            "            self.cursor = Some(Cursor { published: end, ..cursor });\n            self.keep().await?;\n            self.bus.publish(&self.topic, messages).await?;\n",
        ),
        ("messaging", None),
        "relay::tests::a_relay_that_is_killed_loses_nothing_and_leaves_no_gap",
    ),
    mutation(
        "what-comes-again-is-taken-in-again",
        "libs/messaging/src/consumer.rs",
        ("if self.0.without == Some(Without::Inbox) {", "if self.0.without != Some(Without::Inbox) {"),
        ("messaging", None),
        "consumer::tests::a_consumer_that_is_killed_at_any_commit_loses_and_doubles_nothing",
    ),
    mutation(
        "what-moves-under-a-redrive-stops-it",
        "libs/messaging/src/dead_letters.rs",
        (
            "Err(_) if self.moved(key, &stream, &parked, mark).await? => return",
            "Err(_) if self.moved(key, &stream, &parked, mark).await? && false => return",
        ),
        ("messaging", None),
        "dead_letters::tests::a_redrive_while_new_ones_arrive_loses_nothing",
    ),
    mutation(
        "auditor-hears-nothing",
        "services/auditor/src/heard.rs",
        ("                    desk.hear(delivered).await?;", "                    drop(delivered);"),
        SHOP,
        "auditing::what_is_wrong_shows_under_its_invariant_with_its_stream",
    ),
    mutation(
        "acknowledged-before-it-is-written",
        "services/auditor/src/heard.rs",
        (
            "                desk.write().await?;\n                acknowledge(member.as_mut(), std::mem::take(&mut ends)).await?;",
            "                acknowledge(member.as_mut(), std::mem::take(&mut ends)).await?;\n                desk.write().await?;",
        ),
        SHOP,
        "auditing::killed_between_write_and_acknowledgement_it_counts_nothing_twice",
    ),
    mutation(
        "operators-leave-no-record",
        "libs/saga/src/react.rs",
        (
            "Action::Skip => self.accepted(&Value::Null, vec![acted], at),",
            "Action::Skip => self.accepted(&Value::Null, vec![], at),",
        ),
        SHOP,
        "operators::a_saga_stuck_past_its_pivot_is_listed_and_ends_when_an_operator_says_what_is_done",
    ),
    mutation(
        "only-what-was-accepted-is-undone",
        "libs/saga/src/react.rs",
        (
            "matches!(after.progress[*step], Progress::Requested | Progress::Accepted)",
            "matches!(after.progress[*step], Progress::Accepted)",
        ),
        SHOP,
        "saga_matrix::a_step_before_the_pivot_that_never_answers_is_compensated_although_nobody_knows_whether_it_happened",
    ),
    mutation(
        "pivot-compensated-on-timeout",
        "libs/saga/src/react.rs",
        (
            "step.kind != Kind::Compensatable && *progress != Progress::Untouched",
            "step.kind == Kind::Retriable && *progress != Progress::Untouched",
        ),
        SHOP,
        "saga_matrix::a_pivot_that_does_not_answer_for_long_is_not_compensated",
    ),
    mutation(
        "bank-asked-before-the-intent-is-kept",
        "libs/saga/src/participant.rs",
        (
            "        match folded::change(store, ids, &stream, guess, &intent, decide).await {\n",
            "        let present = self.load(&stream).await?;\n        if let Some(change) = decide(&present).ok().filter(|change| !change.events.is_empty()) {\n            return Ok(Intent { folded: present.then(&change.events), to_settle: Some((stream, meta)) });\n        }\n        match folded::change(store, ids, &stream, guess, &intent, decide).await {\n",
        ),
        SHOP,
        "crash_matrix::an_order_called_off_right_after_the_restart_leaves_nothing_behind",
    ),
    mutation(
        "payment-without-tombstone",
        "services/payment/src/payment.rs",
        (
            "(Command::Refund { .. }, Stage::Untouched | Stage::Declined { .. }) => Ok(vec![Event::PaymentVoided {}]),",
            "(Command::Refund { .. }, Stage::Untouched | Stage::Declined { .. }) => Ok(vec![]),",
        ),
        SHOP,
        "saga_matrix::a_call_that_arrives_after_its_undo_is_refused",
    ),
    mutation(
        "timers-that-nobody-acts-on",
        "libs/store/src/timers.rs",
        ("for key in due {", "for key in due.into_iter().filter(|_| false) {"),
        SHOP,
        "crash_matrix::a_good_order_survives_a_kill_at_every_commit",
    ),
    mutation(
        "expected-version-not-checked",
        "libs/store/src/sqlite_writer.rs",
        (
            "if let Err(refused) = append.judge(head.version) {",
            "if let Err(refused) = append.judge(head.version) && false {",
        ),
        ("store", None),
        "contract_agreement::memory_and_sqlite_agree_on_any_history",
    ),
    mutation(
        "past-shown-as-it-is-now",
        "services/order/src/history.rs",
        (
            "events.iter().take_while(|event| event.version as i64 <= version).collect::<Vec<_>>()",
            "events.iter().collect::<Vec<_>>()",
        ),
        SHOP,
        "history::an_order_is_shown_as_it_was_at_every_version_and_at_every_moment",
    ),
    mutation(
        "checkpoint-ahead-of-the-index",
        "libs/search/src/projection.rs",
        (
            "let checkpoint = Checkpoint { position, event: last.event.id };",
            "let checkpoint = Checkpoint { position: position + 1, event: last.event.id };",
        ),
        ("search", None),
        "projection::tests::a_rebuilt_index_is_the_grown_one",
    ),
    mutation(
        "written-from-further-on-than-the-index",
        "libs/search/src/elastic_index.rs",
        ("if known.position < after {", "if false {"),
        ("search", None),
        "elastic::tests::a_write_that_is_interrupted_by_a_swap_tells_the_new_index_nothing",
    ),
    mutation(
        "watchers-begin-anew",
        "services/gateway/src/events.rs",
        ("    message.set_field(&events.resume, value);\n", "    let _ = (message, value);\n"),
        SHOP,
        "watch::an_order_is_followed_from_placed_to_delivered_and_resumed_anywhere",
    ),
    mutation(
        "seals-not-compared",
        "libs/store/src/seal.rs",
        ("if last != *sealed {", "if last != *sealed && false {"),
        SHOP,
        "program::verify_names_what_was_tampered_with",
    ),
    mutation(
        "every-request-is-another-command",
        "services/gateway/src/edge.rs",
        (
            "Some(command_id(&actor, found.route, &found.variables, idempotency_key(headers)?).into())",
            "Some(format!(\"{}-{:x}\", command_id(&actor, found.route, &found.variables, idempotency_key(headers)?), trace.trace_id).into())",
        ),
        SHOP,
        "kill::kill_nine_at_any_moment_loses_nothing_and_doubles_nothing",
    ),
    mutation(
        "groups-of-one",
        "libs/store/src/sqlite_writer.rs",
        ("const BATCH: usize = 256;", "const BATCH: usize = 1;"),
        ("store", Some("fsync")),
        "fsync::every_answered_commit_has_cost_an_fsync_and_what_changes_nothing_costs_none",
    ),
    mutation(
        "busy-streams-not-chained",
        "libs/store/src/hot.rs",
        ("            *held = std::mem::take(held).then(events);\n", "            let _ = held;\n"),
        SHOP,
        "checkout::everybody_wants_the_same_tea_and_nobody_has_to_try_again",
    ),
    mutation(
        "lost-database-made-anew",
        "services/monolith/src/folder.rs",
        ("let store = if listed || file.exists() {", "let store = if file.exists() {"),
        SHOP,
        "program::a_damaged_data_folder_is_refused_by_name_and_never_started_empty",
    ),
    mutation(
        "next-hop-gets-all-the-time",
        "libs/resilience/src/deadline.rs",
        (
            "request.headers_mut().insert(HEADER, encode(left));",
            "request.headers_mut().insert(HEADER, encode(self.longest));",
        ),
        ("resilience", None),
        "deadline::tests::the_next_hop_gets_what_is_left",
    ),
    mutation(
        "sagas-lose-the-trace",
        "libs/saga/src/runner.rs",
        (
            "            traceparent: traceparent.to_owned(),",
            "            traceparent: traceparent.get(..0).unwrap_or_default().to_owned(),",
        ),
        SHOP,
        "checkout::one_checkout_is_one_trace",
    ),
    mutation(
        "every-reader-asks-the-store",
        "libs/cache/src/read_through.rs",
        (
            "under_way.and_then(|(_, flight)| flight.upgrade())",
            "under_way.filter(|_| false).and_then(|(_, flight)| flight.upgrade())",
        ),
        ("cache", None),
        "read_through::tests::of_many_readers_at_once_one_asks_the_store",
    ),
    mutation(
        "nothing-is-shown-while-the-store-is-away",
        "libs/cache/src/read_through.rs",
        ("Err(ReadError::Unavailable(why)) if known.is_some() => {", "Err(ReadError::Unavailable(why)) if false => {"),
        ("cache", None),
        "read_through::tests::while_the_store_is_away_what_is_known_is_shown_up_to_its_limit",
    ),
    mutation(
        "what-is-found-counts-as-new",
        "libs/cache/src/read_through.rs",
        ("let age = asked.0 - kept.complete.0;", "let age = 0;"),
        ("cache", None),
        "read_through::tests::replicas_share_what_one_has_read_and_none_shows_it_for_longer",
    ),
    mutation(
        "an-older-version-replaces-a-newer",
        "libs/cache/src/lib.rs",
        ("if new.version < self.version {", "if false {"),
        ("cache", None),
        "memory::tests::a_newer_version_replaces_and_an_older_does_not",
    ),
];

/// Faults as they creep in: off by one, too late, forgotten.
const FAULTS: &[Mutation] = &[
    mutation(
        "timer-due-a-moment-too-late",
        "libs/store/src/sqlite_writer.rs",
        ("FROM timers WHERE due <= ?1", "FROM timers WHERE due < ?1"),
        ("store", None),
        "sqlite::tests::a_timer_is_due_at_its_time",
    ),
    mutation(
        "mark-judged-after-the-write",
        "libs/store/src/memory.rs",
        (
            "        for mark in &commit.marks {\n            mark.judge(",
            "        self.replies.insert(commit.id.clone(), commit.reply.clone());\n        for mark in &commit.marks {\n            mark.judge(",
        ),
        ("store", None),
        "memory::tests::a_mark_that_cannot_move_stops_the_commit",
    ),
    mutation(
        "only-the-last-of-a-batch-wakes-readers",
        "libs/store/src/sqlite_writer.rs",
        ("            appended |= matches!(", "            appended = matches!("),
        ("store", None),
        "sqlite_writer::tests::whatever_in_a_batch_appends_wakes_readers_once_it_is_done",
    ),
    mutation(
        "any-commit-confirms-what-is-held",
        "libs/store/src/hot.rs",
        (
            ".filter(|entry| entry.rests_on.as_ref() == Some(commit)) {",
            ".filter(|entry| entry.rests_on.is_some() && !commit.0.is_empty()) {",
        ),
        ("store", None),
        "hot::tests::what_is_held_rests_on_the_last_commit_that_may_still_fail",
    ),
    mutation(
        "an-answer-that-says-nothing-counts-twice",
        "libs/saga/src/react.rs",
        (
            "let this_try = self.awaited.sent && *tries == self.awaited.tries;",
            "let this_try = *tries == self.awaited.tries;",
        ),
        ("saga", None),
        "react::tests::in_any_order_of_events_a_saga_ends_whole",
    ),
    mutation(
        "work-in-progress-counts-as-an-attempt",
        "libs/saga/src/react.rs",
        (
            "self.awaited.attempts - u32::from(!counted)",
            "self.awaited.attempts - u32::from(!counted && *again < Timestamp(0))",
        ),
        ("saga", None),
        "react::tests::work_in_progress_counts_as_no_attempt_but_the_deadline_holds",
    ),
    mutation(
        "timer-left-when-a-saga-ends",
        "libs/saga/src/runner.rs",
        (
            "timer.map_or(TimerChange::Clear { key: key.clone() },",
            "timer.map_or(TimerChange::Set { key: key.clone(), due: process.clock.now() },",
        ),
        SHOP,
        "saga_matrix::a_cancellation_at_any_moment_leaves_the_books_balanced",
    ),
    mutation(
        "timer-left-when-the-bank-has-answered",
        "libs/saga/src/participant.rs",
        (
            "Awaits::Nothing => TimerChange::Clear { key },",
            "Awaits::Nothing => TimerChange::Set { key, due: self.process.clock.now().after(self.lease) },",
        ),
        SHOP,
        "saga_matrix::a_cancellation_at_any_moment_leaves_the_books_balanced",
    ),
    mutation(
        "cursor-moves-before-publishing",
        "libs/messaging/src/relay.rs",
        (
            "            self.bus.publish(&self.topic, messages).await?;\n            lab::reached(Point::Published);\n            cursor.published = end;\n",
            "            cursor.published = end;\n            self.cursor = Some(cursor);\n            self.bus.publish(&self.topic, messages).await?;\n",
        ),
        ("messaging", None),
        "relay::tests::a_bus_that_fails_in_the_middle_of_a_page_gets_all_of_it_in_order",
    ),
    mutation(
        "parked-although-redriven-meanwhile",
        "libs/messaging/src/consumer.rs",
        ("if self.0.store.mark(&self.mark_name(key)).await? != mark {", "if false {"),
        ("messaging", None),
        "consumer::tests::nothing_is_parked_by_a_mark_that_has_moved",
    ),
    mutation(
        "intent-without-timer",
        "libs/saga/src/participant.rs",
        (
            "Awaits::Answer => TimerChange::Set { key, due: self.process.clock.now().after(self.lease) },",
            "Awaits::Answer => TimerChange::Clear { key },",
        ),
        SHOP,
        "crash_matrix::a_good_order_survives_a_kill_at_every_commit",
    ),
    mutation(
        "parked-behind-for-the-wrong-reason",
        "libs/messaging/src/consumer.rs",
        ("            after_another = true;", "            after_another = false;"),
        ("messaging", None),
        "consumer::tests::a_gap_is_parked_and_never_skipped",
    ),
    mutation(
        "acknowledged-one-that-was-not-given",
        "libs/messaging/src/ledger.rs",
        (
            "owner.generation == *generation && offset < *next =>",
            "owner.generation == *generation && offset <= *next =>",
        ),
        ("messaging", None),
        "sqlite::tests::what_was_not_given_is_not_acknowledged",
    ),
    mutation(
        "a-message-stands-before-itself",
        "libs/messaging/src/parked.rs",
        ("|(first, _)| *first < version)", "|(first, _)| *first <= version)"),
        ("messaging", None),
        "parked::tests::only_what_is_not_in_effect_stands_before_others",
    ),
];

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Mutation> {
    PATTERNS.iter().chain(FAULTS)
}
