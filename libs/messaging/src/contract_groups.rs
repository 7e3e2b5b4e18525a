//! Statements about groups, their members and what they acknowledge.
use std::collections::BTreeSet;

use futures::future::{Either, select};

use crate::contract::{
    Seen, Sub, Subject, acknowledge, in_order, message, number, numbers, soon, take, take_both, take_on, waits,
};
use crate::{BusError, Delivered};

fn revoked(partition: u32) -> BusError {
    BusError::Revoked(format!("t/{partition}"))
}

fn partitions(delivered: &[Delivered]) -> BTreeSet<u32> {
    delivered.iter().map(|one| one.partition).collect()
}

pub(crate) async fn a_new_group_begins_at_the_first_message(subject: &Subject) {
    subject.filled(1, 1, 10).await;
    let mut early = subject.subscribe("early").await;
    let taken = take(&mut early, 10, 3).await;
    acknowledge(&mut early, &taken).await;
    subject.publish(1, 10..15).await;
    assert_eq!(numbers(&take(&mut subject.subscribe("late").await, 15, 4).await), (0..15).collect::<Vec<_>>());
}

pub(crate) async fn what_is_acknowledged_does_not_come_back(subject: &Subject) {
    subject.filled(1, 1, 10).await;
    let mut sub = subject.subscribe("g").await;
    take(&mut sub, 10, 10).await;
    sub.acknowledge("t", 0, 3).await.unwrap();
    drop(sub);
    for _ in 0..3 {
        let mut sub = subject.subscribe("g").await;
        assert_eq!(numbers(&take(&mut sub, 6, 4).await), (4..10).collect::<Vec<_>>());
        waits(&mut sub);
    }
    let mut sub = subject.subscribe("g").await;
    take(&mut sub, 6, 6).await;
    sub.acknowledge("t", 0, 9).await.unwrap();
    drop(sub);
    let mut sub = subject.subscribe("g").await;
    waits(&mut sub);
    subject.publish(1, 10..11).await;
    assert_eq!(numbers(&take(&mut sub, 1, 9).await), [10]);
}

pub(crate) async fn every_group_gets_everything(subject: &Subject) {
    subject.filled(2, 5, 30).await;
    let (mut a, mut b) = (subject.subscribe("a").await, subject.subscribe("b").await);
    let (of_a, of_b) = tokio::join!(take(&mut a, 30, 4), take(&mut b, 30, 9));
    acknowledge(&mut a, &of_a).await;
    assert_eq!((of_a.len(), of_b.len()), (30, 30));
    subject.left("a", 0).await;
    subject.left("b", 30).await;
}

/// Two members of a group that share the partitions of `t` and have nothing left, and the number that comes next. A bus may
/// take a while until both know who has what.
async fn sharing(subject: &Subject) -> (Sub, Sub, u64) {
    let (mut a, mut b) = (subject.subscribe("g").await, subject.subscribe("g").await);
    for round in 0.. {
        let numbers = round * 40..(round + 1) * 40;
        subject.publish(40, numbers.clone()).await;
        let mut left: BTreeSet<u64> = numbers.collect();
        let (mut of_a, mut of_b) = (BTreeSet::new(), BTreeSet::new());
        while !left.is_empty() {
            let (batch, is_a) = match soon(select(a.next(50), b.next(50))).await {
                Either::Left((batch, _)) => (batch.unwrap(), true),
                Either::Right((batch, _)) => (batch.unwrap(), false),
            };
            let (member, its) = if is_a { (&mut a, &mut of_a) } else { (&mut b, &mut of_b) };
            let answers = acknowledge(member, &batch).await;
            for one in batch.iter().filter(|one| answers[&one.partition].is_ok()) {
                left.remove(&number(one));
                its.insert(one.partition);
            }
        }
        if (of_a.len(), of_b.len()) == (2, 2) && of_a.is_disjoint(&of_b) {
            subject.left("g", 0).await;
            return (a, b, (round + 1) * 40);
        }
        assert!(round < 5_000 && !subject.delay.is_zero(), "{of_a:?} {of_b:?}");
    }
    unreachable!("the rounds have no end")
}

pub(crate) async fn members_share_the_partitions(subject: &Subject) {
    subject.filled(4, 40, 0).await;
    let (mut a, mut b, next) = sharing(subject).await;
    subject.publish(40, next..next + 200).await;
    let (of_a, of_b) = take_both(&mut a, &mut b, 200).await;
    in_order(&of_a);
    in_order(&of_b);
    assert_eq!((partitions(&of_a).len(), partitions(&of_b).len()), (2, 2));
    assert!(partitions(&of_a).is_disjoint(&partitions(&of_b)));
    // A fifth finds nothing to do, and waits.
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(subject.subscribe("g").await);
    }
    waits(&mut others[2]);
}

pub(crate) async fn nothing_is_lost_when_a_member_leaves(subject: &Subject) {
    subject.filled(4, 40, 0).await;
    let (mut a, mut b, next) = sharing(subject).await;
    subject.publish(40, next..next + 200).await;
    let (of_a, of_b) = take_both(&mut a, &mut b, 200).await;
    acknowledge(&mut a, &of_a).await;
    let one = partitions(&of_b).first().copied().unwrap();
    let of_one = |delivered: &&Delivered| delivered.partition == one;
    let first = of_b.iter().filter(of_one).map(|delivered| delivered.offset).min().unwrap();
    // Only what is gapless from its partition's start: in another order than that of the offsets, a half is not.
    let half = of_b[..of_b.len() / 2].iter().filter(of_one);
    let offsets: BTreeSet<_> = half.map(|delivered| delivered.offset).collect();
    let end = (first..).zip(&offsets).take_while(|(n, offset)| n == *offset).count() as u64 + first;
    if end > first {
        b.acknowledge("t", one, end - 1).await.unwrap();
    }
    drop(b);
    let left = of_b.iter().filter(|delivered| delivered.partition != one || delivered.offset >= end);
    let left: BTreeSet<_> = left.map(number).collect();
    let taken = take(&mut a, left.len(), 7).await;
    assert_eq!(taken.iter().map(number).collect::<BTreeSet<_>>(), left);
    acknowledge(&mut a, &taken).await;
    subject.left("g", 0).await;
    waits(&mut a);
}

pub(crate) async fn a_revoked_partition_is_not_acknowledged(subject: &Subject) {
    subject.filled(2, 10, 40).await;
    let mut a = subject.subscribe("g").await;
    let taken = take(&mut a, 40, 9).await;
    // Once another has begun with it, it was taken away.
    let mut b = subject.subscribe("g").await;
    let begun = take_on(&mut b, Seen::default(), 1, 9).await;
    let answers = acknowledge(&mut a, &taken).await;
    let lost: Vec<_> = answers.iter().filter(|(_, answer)| answer.is_err()).map(|(partition, _)| *partition).collect();
    assert_eq!(lost.len(), 1, "{answers:?}");
    assert_eq!(answers[&lost[0]], Err(revoked(lost[0])));
    let moved = taken.iter().filter(|one| one.partition == lost[0]).count();
    subject.left("g", moved as u64).await;
    let again = take_on(&mut b, begun, moved, 9).await.all;
    assert_eq!(partitions(&again), BTreeSet::from([lost[0]]));
    acknowledge(&mut b, &again).await;
    subject.left("g", 0).await;
    waits(&mut a);
}

pub(crate) async fn a_partition_that_was_away_is_given_again(subject: &Subject) {
    subject.filled(2, 10, 40).await;
    let mut a = subject.subscribe("g").await;
    let taken = take(&mut a, 40, 9).await;
    let mut b = subject.subscribe("g").await;
    take(&mut b, 1, 1).await;
    drop(b);
    let answers = acknowledge(&mut a, &taken).await;
    let lost: Vec<_> = answers.iter().filter(|(_, answer)| answer.is_err()).map(|(partition, _)| *partition).collect();
    assert_eq!(lost.len(), 1, "who had it in between may be at work: {answers:?}");
    let left = taken.iter().filter(|one| one.partition == lost[0]).count();
    subject.left("g", left as u64).await;
    let again = take(&mut a, left, 9).await;
    assert_eq!(partitions(&again), BTreeSet::from([lost[0]]));
    assert!(acknowledge(&mut a, &again).await.values().all(Result::is_ok));
    subject.left("g", 0).await;
}

pub(crate) async fn acknowledgements_never_go_backwards(subject: &Subject) {
    subject.filled(1, 1, 10).await;
    let mut sub = subject.subscribe("g").await;
    take(&mut sub, 10, 10).await;
    for offset in [5, 2, 5, 0] {
        assert_eq!(sub.acknowledge("t", 0, offset).await, Ok(()));
        subject.left("g", 4).await;
    }
    drop(sub);
    assert_eq!(numbers(&take(&mut subject.subscribe("g").await, 4, 9).await), [6, 7, 8, 9]);
}

pub(crate) async fn what_was_not_given_is_not_acknowledged(subject: &Subject) {
    subject.filled(1, 1, 10).await;
    let mut sub = subject.subscribe("g").await;
    assert_eq!(sub.acknowledge("t", 0, 0).await, Err(revoked(0)));
    take(&mut sub, 3, 1).await;
    for (partition, offset) in [(0, 3), (0, u64::MAX), (1, 0)] {
        assert_eq!(sub.acknowledge("t", partition, offset).await, Err(revoked(partition)));
    }
    subject.left("g", 10).await;
    assert_eq!(sub.acknowledge("t", 0, 2).await, Ok(()));
    subject.left("g", 7).await;
}

pub(crate) async fn lag_counts_what_is_left(subject: &Subject) {
    subject.filled(3, 10, 30).await;
    subject.left("g", 30).await;
    let mut sub = subject.subscribe("g").await;
    let taken = take(&mut sub, 30, 8).await;
    subject.left("g", 30).await;
    let mut left = 30;
    for partition in partitions(&taken) {
        let of_partition: Vec<_> = taken.iter().filter(|one| one.partition == partition).cloned().collect();
        acknowledge(&mut sub, &of_partition).await;
        left -= of_partition.len() as u64;
        subject.left("g", left).await;
    }
    subject.publish(10, 30..35).await;
    subject.left("g", 5).await;
    subject.left("other", 35).await;
}

pub(crate) async fn a_group_listens_to_several_topics(subject: &Subject) {
    subject.filled(2, 10, 20).await;
    subject.bus.create("u", 1).await.unwrap();
    subject.bus.publish("u", (100..120).map(|n| message("only-u", n)).collect()).await.unwrap();
    let mut both = subject.bus.subscribe("g", &["t", "u", "t"]).await.unwrap();
    let taken = take(&mut both, 40, 6).await;
    assert_eq!(taken.iter().filter(|one| one.topic == "u").count(), 20);
    // A member is only dealt what it listens to.
    let mut one = subject.bus.subscribe("g", &["u"]).await.unwrap();
    drop(both);
    assert_eq!(numbers(&take(&mut one, 20, 6).await), (100..120).collect::<Vec<_>>());
    waits(&mut one);
    let mut rest = subject.subscribe("g").await;
    assert_eq!(take(&mut rest, 20, 6).await.len(), 20);
}

pub(crate) async fn a_member_that_waits_is_woken_by_what_another_leaves(subject: &Subject) {
    subject.filled(1, 1, 5).await;
    let mut first = subject.subscribe("g").await;
    take(&mut first, 5, 5).await;
    let mut second = subject.subscribe("g").await;
    waits(&mut second);
    let leave = async { drop(first) };
    let (taken, ()) = tokio::join!(take(&mut second, 5, 5), leave);
    assert_eq!(numbers(&taken), [0, 1, 2, 3, 4]);
}
