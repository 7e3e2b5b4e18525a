//! SG-8: the process is killed before and after each of its commits, one by one. After a restart, with the client asking
//! again under its key, the order is delivered, rejected or cancelled, with the effects of that end and no others.
use std::sync::Arc;
use std::time::Duration;

use crate::audit;
use crate::books;
use crate::faults::Mortal;
use crate::harness::{Running, World, order, text};
use host::Process;
use inventory::catalogue;
use monolith::shop::{Pace, Surroundings};
use order::order::Status;

const PLENTY: i64 = 1_000_000;

/// What the customer does.
#[derive(Clone, Copy, PartialEq)]
enum Customer {
    /// Waits until the order has ended.
    Waits,
    /// Waits until it is settled.
    WaitsForConfirmation,
    /// Calls it off once it is settled.
    CallsOff,
    /// Calls it off as soon as it is known that the order exists: after a restart, before any timer is due.
    CallsOffAtOnce,
}

/// Parcels that are picked up soon, but leave time to call them off.
fn world() -> World {
    let pace = Pace { pick_up: Duration::from_secs(5), transit: Duration::from_secs(5) };
    World { pace, ..World::new() }
}

async fn open(world: &World, life: &Arc<Mortal>, process: &Process) -> Running {
    let stores = life.stores(&world.stores);
    let surroundings = Surroundings::simulated(process, &stores, world.pace);
    Running::open_with(process.clone(), &stores, surroundings, &catalogue::PRODUCTS[..10]).await
}

/// Places an order, and calls it off if wanted, until each was answered; the process may die under it.
async fn shop_once(shop: &Running, method: &str, country: &str, customer: Customer) {
    let wait = if customer == Customer::CallsOffAtOnce { 0 } else { 30 };
    let placed = shop.place("k1", wait, &order(method, country)).await;
    let order_id = text(&placed.body, "order_id");
    if matches!(customer, Customer::CallsOff | Customer::CallsOffAtOnce) {
        shop.cancel("c1", order_id, 30).await;
    }
    if customer == Customer::WaitsForConfirmation {
        shop.settled(order_id).await;
    } else {
        shop.ended(order_id).await;
    }
}

async fn killed_at_every_commit(method: &str, country: &str, customer: Customer, ends: &[&str]) {
    killed_and_then(method, country, customer, customer, ends).await;
}

/// The customer does one thing before the kill and perhaps another after it.
async fn killed_and_then(method: &str, country: &str, before: Customer, after: Customer, ends: &[&str]) {
    let (untouched, life) = (world(), Mortal::dies_at(PLENTY, false));
    open(&untouched, &life, &untouched.process()).await;
    let opening = life.spent(PLENTY);
    for after_the_effect in [false, true] {
        for commit in opening + 1.. {
            let (world, life) = (world(), Mortal::dies_at(commit, after_the_effect));
            let process = world.process();
            let alive = async {
                let shop = open(&world, &life, &process).await;
                shop_once(&shop, method, country, before).await;
            };
            futures::future::select(std::pin::pin!(alive), std::pin::pin!(life.death())).await;
            if !life.is_dead() {
                assert!(commit - opening > 8, "only {} commits were made", commit - opening - 1);
                break;
            }
            // What it had subscribed to is left with its death.
            process.tasks.drain(Duration::ZERO).await;

            let shop = world.shop().await;
            shop_once(&shop, method, country, after).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            let killed = format!("killed at commit {commit}, after the effect: {after_the_effect}");
            let open = books::open_sagas(&world.stores).await;
            assert!(open.is_empty(), "{killed}: {open:?}");
            assert_eq!(books::armed(&world.stores).await, 0, "{killed}: a timer is left");
            let end = books::balance(&world.stores).await.into_values().collect::<Vec<_>>();
            let word = match &end[..] {
                [Status::Delivered] => "delivered",
                [Status::Cancelled] => "cancelled",
                [Status::Rejected(_)] => "rejected",
                other => panic!("{killed}: {other:?}"),
            };
            assert!(ends.contains(&word), "{killed}: {word}");
            assert_eq!(audit::findings(&world.stores, world.clock.now()).await, [], "{killed}");
            shop.process.tasks.drain(Duration::ZERO).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "KR", Customer::Waits, &["delivered"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_declined_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_declined", "KR", Customer::Waits, &["rejected"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_compensated_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "AQ", Customer::Waits, &["rejected"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_charge_whose_reply_is_lost_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_lost_reply", "KR", Customer::Waits, &["delivered"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_order_survives_a_kill_at_every_commit() {
    killed_at_every_commit("pm_card_ok", "KR", Customer::CallsOff, &["cancelled"]).await;
}

/// The undo meets whatever the kill left: a charge that the bank took and nobody recorded, a parcel nobody knows of.
#[tokio::test(start_paused = true)]
async fn an_order_called_off_right_after_the_restart_leaves_nothing_behind() {
    killed_and_then("pm_card_ok", "KR", Customer::WaitsForConfirmation, Customer::CallsOffAtOnce, &["cancelled"]).await;
    killed_and_then(
        "pm_card_lost_reply",
        "KR",
        Customer::WaitsForConfirmation,
        Customer::CallsOffAtOnce,
        &["cancelled"],
    )
    .await;
}
