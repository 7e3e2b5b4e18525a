//! Redrive and skip, while nothing else happens and while everything does.
use std::sync::atomic::Ordering;

use futures::future::join;
use store::{Append, Commit, Expected, Meta, NewEvent, Store};

use crate::consumer::tests::World;

async fn blocked() -> World {
    let world = World::new().await;
    world.tell("s", [1], b"refused").await;
    world.tell("s", 2..=4, b"").await;
    world.drain().await;
    world
}

#[tokio::test]
async fn what_an_operator_gives_up_is_passed_over_and_remembered() {
    let world = blocked().await;
    let operator = world.operator();
    let left = world.consumer.skip("t.s", &operator).await.unwrap().unwrap();
    assert_eq!((left.mark, left.waiting.len()), (1, 3));
    let again = world.consumer.skip("t.s", &operator).await.unwrap().unwrap();
    assert_eq!(again, left, "the same command acts once");
    assert_eq!(world.consumer.redrive("t.s", &world.operator(), false).await, Ok(None));
    assert_eq!(world.effects("s").await, [2, 3, 4]);
    let kept = world.store.load(&"parked-shop-t-s".into(), 0, 100).await.unwrap();
    let skipped = kept.iter().find(|event| event.event.kind == "MessageSkipped").unwrap();
    assert!(skipped.event.data.contains("the handler was mended") && skipped.meta.actor == "operator:lee");
    let asked = kept.iter().filter(|event| event.event.kind == "RedriveAsked").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn what_does_not_wait_is_not_found() {
    let world = blocked().await;
    for id in ["t.unknown", "u.s", "", "t.", "t.s\0", &format!("t.{}", "x".repeat(500))] {
        assert_eq!(world.consumer.dead_letter(id).await.unwrap_err().reason, "not_found", "{id}");
        let (redriven, skipped) = (
            world.consumer.redrive(id, &world.operator(), true).await,
            world.consumer.skip(id, &world.operator()).await,
        );
        assert!(redriven.is_err() && skipped.is_err());
    }
}

#[tokio::test]
async fn blocked_keys_are_listed_page_by_page() {
    let world = World::new().await;
    for n in 0..7 {
        world.tell(&format!("s{n}"), [2], b"").await;
    }
    world.drain().await;
    let (mut all, mut after) = (vec![], String::new());
    loop {
        let (page, next) = world.consumer.dead_letters(&after, 3).await.unwrap();
        all.extend(page.into_iter().map(|letter| letter.stream));
        if next.is_empty() {
            break;
        }
        after = next;
    }
    assert_eq!(all, (0..7).map(|n| format!("s{n}")).collect::<Vec<_>>());
}

/// What was solved long ago costs nothing: a page costs a page.
#[tokio::test]
async fn a_page_reads_what_it_shows() {
    let world = World::new().await;
    for n in 0..300 {
        world.tell(&format!("s{n}"), [1], b"refused").await;
    }
    world.drain().await;
    for n in (0..300).filter(|n| ![7, 200].contains(n)) {
        assert_eq!(world.consumer.skip(&format!("t.s{n}"), &world.operator()).await, Ok(None));
    }
    let ids = async |world: &World| {
        let (page, next) = world.consumer.dead_letters("", 100).await.unwrap();
        assert_eq!(next, "");
        page.into_iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&world).await, ["t.s200", "t.s7"]);
    let before = world.store.loads.load(Ordering::SeqCst);
    assert_eq!(ids(&world).await, ["t.s200", "t.s7"]);
    let loads = world.store.loads.load(Ordering::SeqCst) - before;
    assert!(loads < 10, "{loads} loads for a page of two");
    assert_eq!(ids(&world.again()).await, ["t.s200", "t.s7"]);
    world.handler.cured.store(true, Ordering::SeqCst);
    assert_eq!(world.consumer.redrive("t.s7", &world.operator(), false).await, Ok(None));
    assert_eq!(ids(&world).await, ["t.s200"]);
}

/// As a program left it that kept no index.
#[tokio::test]
async fn what_was_parked_before_there_was_an_index_is_listed() {
    let world = World::new().await;
    for (stream, waits) in [("parked-shop-t-old", true), ("parked-shop-t-solved", false)] {
        let place = r#"{"partition":0,"offset":7,"version":1}"#;
        let parked = format!(
            r#"{{"waiting":{{"place":{place},"key":"old","headers":[],"payload":"","reason":"failed","message":"m","at":0}}}}"#
        );
        let redriven = format!(r#"{{"place":{place}}}"#);
        let mut events = vec![("MessageParked", parked)];
        events.extend((!waits).then_some(("MessageRedriven", redriven)));
        let event =
            |(kind, data): (&str, String)| NewEvent { id: world.ids.next(), kind: kind.into(), schema: 1, data };
        let events = events.into_iter().map(event).collect();
        let append = Append { stream: stream.into(), expected: Expected::NoStream, events };
        let commit = Commit { appends: vec![append], ..Commit::new(stream.into(), Meta::default()) };
        world.store.commit(commit).await.unwrap();
    }
    for _ in 0..2 {
        let (page, _) = world.consumer.dead_letters("", 10).await.unwrap();
        assert_eq!(page.into_iter().map(|letter| letter.id).collect::<Vec<_>>(), ["t.old"]);
    }
}

/// A redrive while new messages of the key arrive, again and again: everything is in effect once and in order.
#[tokio::test]
async fn a_redrive_while_new_ones_arrive_loses_nothing() {
    for round in 0..200 {
        let world = blocked().await;
        world.handler.cured.store(true, Ordering::SeqCst);
        let redrive = async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            while world.bus.lag("shop", "t").await.unwrap() > 0 || world.consumer.dead_letter("t.s").await.is_ok() {
                if let Err(why) = world.consumer.redrive("t.s", &world.operator(), false).await {
                    assert_ne!(why.reason, "unavailable", "what moves under a redrive is looked at again");
                }
                tokio::task::yield_now().await;
            }
        };
        let arrive = async {
            for version in 5..15 {
                world.tell("s", [version], b"").await;
                if version % 3 == round % 3 {
                    tokio::task::yield_now().await;
                }
                world.drain().await;
            }
        };
        join(redrive, arrive).await;
        drop(world.consumer.redrive("t.s", &world.operator(), false).await);
        assert_eq!(world.effects("s").await, (1..15).collect::<Vec<_>>(), "round {round}");
        assert_eq!(world.parked("s").await, []);
    }
}
