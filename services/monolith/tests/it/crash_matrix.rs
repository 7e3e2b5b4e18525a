//! SG-8: the process is killed before and after each of its commits, one by one. After a restart, with the client asking
//! again under its key, the order ends in one of its two ways, with the effects of that way and no others.
use std::sync::Arc;
use std::time::Duration;

use crate::books;
use crate::faults::Mortal;
use crate::harness::{Running, World, order, text};
use monolith::shop::Surroundings;
use order::order::Status;

const PLENTY: i64 = 1_000_000;

/// Whether and when the customer calls the order off.
#[derive(Clone, Copy, PartialEq)]
enum Cancel {
    Never,
    /// Once it is settled.
    Later,
    /// As soon as it is known that the order exists: after a restart, before any timer is due.
    AtOnce,
}

async fn open(world: &World, life: &Arc<Mortal>) -> Running {
    let (process, stores) = (world.process(), life.stores(&world.stores));
    let surroundings = Surroundings::simulated(&process, &stores);
    Running::open(process, &stores, surroundings).await
}

/// Places an order, and calls it off if wanted, until each was answered; the process may die under it.
async fn shop_once(shop: &Running, method: &str, country: &str, cancel: Cancel) {
    let wait = if cancel == Cancel::AtOnce { 0 } else { 30 };
    let placed = shop.place("k1", wait, &order(method, country)).await;
    let order_id = text(&placed.body, "order_id");
    if cancel != Cancel::Never {
        shop.cancel("c1", order_id, 30).await;
    }
    shop.settled(order_id).await;
}

async fn commits_of(method: &str, country: &str, cancel: Cancel) -> (i64, i64) {
    let (world, life) = (World::new(), Mortal::dies_at(PLENTY, false));
    let shop = open(&world, &life).await;
    let opening = life.spent(PLENTY);
    shop_once(&shop, method, country, cancel).await;
    (opening, life.spent(PLENTY))
}

async fn killed_at_every_commit(method: &str, country: &str, cancel: Cancel, ends: &[&str]) {
    killed_and_then(method, country, cancel, cancel, ends).await;
}

/// The customer does one thing before the kill and perhaps another after it.
async fn killed_and_then(method: &str, country: &str, cancel: Cancel, after: Cancel, ends: &[&str]) {
    let (opening, all) = commits_of(method, country, cancel).await;
    assert!(all - opening >= 8, "only {} commits were counted", all - opening);
    for commit in opening + 1..=all {
        for after_the_effect in [false, true] {
            let (world, life) = (World::new(), Mortal::dies_at(commit, after_the_effect));
            let shop = open(&world, &life).await;
            let alive = shop_once(&shop, method, country, cancel);
            futures::future::select(std::pin::pin!(alive), std::pin::pin!(life.death())).await;
            assert!(life.is_dead(), "commit {commit} of {all} was never made");

            let shop = world.shop().await;
            shop_once(&shop, method, country, after).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            let open = books::open_sagas(&world.stores).await;
            assert!(
                open.is_empty(),
                "killed at commit {commit} of {all}, after the effect: {after_the_effect}: {open:?}"
            );
            assert_eq!(books::armed(&world.stores).await, 0, "killed at commit {commit} of {all}: a timer is left");
            let end = books::balance(&world.stores).await.into_values().collect::<Vec<_>>();
            let word = match &end[..] {
                [Status::Confirmed] => "confirmed",
                [Status::Cancelled] => "cancelled",
                [Status::Rejected(_)] => "rejected",
                other => panic!("killed at commit {commit} of {all}, after the effect: {after_the_effect}: {other:?}"),
            };
            assert!(
                ends.contains(&word),
                "killed at commit {commit} of {all}, after the effect: {after_the_effect}: {word}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "KR", Cancel::Never, &["confirmed"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_declined_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_declined", "KR", Cancel::Never, &["rejected"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_compensated_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "AQ", Cancel::Never, &["rejected"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_charge_whose_reply_is_lost_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_lost_reply", "KR", Cancel::Never, &["confirmed"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "KR", Cancel::Later, &["cancelled"]).await;
}

/// The undo meets whatever the kill left: a charge that the bank took and nobody recorded, a parcel nobody knows of.
#[tokio::test(start_paused = true)]
async fn an_order_called_off_right_after_the_restart_leaves_nothing_behind() {
    killed_and_then("pm_card_ok", "KR", Cancel::Never, Cancel::AtOnce, &["cancelled"]).await;
    killed_and_then("pm_card_lost_reply", "KR", Cancel::Never, Cancel::AtOnce, &["cancelled"]).await;
}
