//! Who listens to what, and how far: what every bus of one process keeps in memory.
//!
//! # Problem
//! Members of a group come and go while messages are under way. Whoever had a partition a moment ago still acknowledges,
//! and must not move what another works on by now.
//!
//! # Pattern
//! A generation for each assignment: a partition that changes hands gets a new number, and an acknowledgement counts only
//! under the number that the messages were given under.
//!
//! # Here
//! [`Ledger`] holds topics with their ends and groups with their offsets and owners; [`Member`] how far one member was
//! given. Partitions are dealt round robin at every join and leave; whoever keeps one keeps its generation. Every change
//! that may give somebody something marks `changed`.
//!
//! # Limits
//! Every change wakes every waiting member. A partition may move although that would not have been needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tokio::sync::watch;

use crate::{BusError, MAX_NAME_BYTES, MAX_PARTITIONS, Message, Offset, Partition};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) partition: Partition,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// The end of each partition: the offset that its next message gets.
    topics: BTreeMap<String, Vec<Offset>>,
    groups: BTreeMap<String, Group>,
    /// Numbers members and generations; none comes twice.
    count: u64,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Group {
    /// The first offset that is not acknowledged.
    acknowledged: BTreeMap<Place, Offset>,
    members: BTreeMap<u64, BTreeSet<String>>,
    owners: BTreeMap<Place, Owner>,
}

#[derive(Clone, Copy)]
struct Owner {
    member: u64,
    generation: u64,
}

/// What one member was given.
pub(crate) struct Member {
    pub(crate) group: String,
    id: u64,
    /// The generation, and the first offset that was not given under it.
    cursors: BTreeMap<Place, (u64, Offset)>,
    /// The partition that was served last: the others come first.
    last: Option<Place>,
    pub(crate) changed: watch::Receiver<()>,
}

/// Offsets of one partition that a member can be given, at least one.
pub(crate) struct Range {
    pub(crate) place: Place,
    generation: u64,
    pub(crate) from: Offset,
    pub(crate) until: Offset,
}

impl Member {
    /// Danger: only together with handing the messages over, without an await in between.
    pub(crate) fn was_given(&mut self, range: &Range) {
        self.cursors.insert(range.place.clone(), (range.generation, range.until));
        self.last = Some(range.place.clone());
    }
}

impl Ledger {
    /// Whether the topic is to be made.
    pub(crate) fn lacks(&self, topic: &str, partitions: Partition) -> Result<bool, BusError> {
        check_name("topic", topic)?;
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            return Err(BusError::Malformed(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")));
        }
        match self.topics.get(topic) {
            None => Ok(true),
            Some(ends) if ends.len() == partitions as usize => Ok(false),
            Some(ends) => {
                let why = format!("topic {topic} has {} partitions, not {partitions}", ends.len());
                Err(BusError::Malformed(why))
            }
        }
    }

    /// The ends of the topic's partitions.
    pub(crate) fn ends(&self, topic: &str) -> Result<&[Offset], BusError> {
        let unknown = || BusError::Malformed(format!("topic {topic} does not exist"));
        self.topics.get(topic).map(Vec::as_slice).ok_or_else(unknown)
    }

    /// The last offsets of each partition of the topic, at most `most` of each: from where to where.
    pub(crate) fn last(&self, topic: &str, most: Offset) -> Result<Vec<(Place, Offset, Offset)>, BusError> {
        let place = |partition| Place { topic: topic.into(), partition };
        let last = (0..).zip(self.ends(topic)?).map(|(n, end)| (place(n), end.saturating_sub(most), *end));
        Ok(last.filter(|(_, from, end)| from < end).collect())
    }

    /// Why the messages cannot be published, before any of them is.
    pub(crate) fn check(&self, topic: &str, messages: &[Message]) -> Result<(), BusError> {
        self.ends(topic)?;
        messages.iter().try_for_each(|message| message.check().map_err(BusError::Malformed))
    }

    /// The topic has these ends now.
    pub(crate) fn reached(&mut self, topic: &str, ends: Vec<Offset>) {
        self.topics.insert(topic.into(), ends);
        self.changed.send_replace(());
    }

    pub(crate) fn join(&mut self, group: &str, topics: &[&str]) -> Result<Member, BusError> {
        check_name("group", group)?;
        if topics.is_empty() {
            return Err(BusError::Malformed(format!("group {group} is to listen to no topic")));
        }
        topics.iter().try_for_each(|topic| self.ends(topic).map(drop))?;
        self.count += 1;
        let id = self.count;
        let topics = topics.iter().map(ToString::to_string).collect();
        self.groups.entry(group.into()).or_default().members.insert(id, topics);
        self.deal(group);
        Ok(Member { group: group.into(), id, cursors: BTreeMap::new(), last: None, changed: self.changed.subscribe() })
    }

    pub(crate) fn leave(&mut self, member: &Member) {
        if let Some(group) = self.groups.get_mut(&member.group) {
            group.members.remove(&member.id);
            self.deal(&member.group);
        }
    }

    fn deal(&mut self, group: &str) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let before = std::mem::take(&mut group.owners);
        let mut turn = 0;
        for (topic, ends) in &self.topics {
            let listening: Vec<u64> =
                group.members.iter().filter(|(_, topics)| topics.contains(topic)).map(|(id, _)| *id).collect();
            if listening.is_empty() {
                continue;
            }
            for partition in (0..).take(ends.len()) {
                let place = Place { topic: topic.clone(), partition };
                let member = listening[turn % listening.len()];
                turn += 1;
                let kept = before.get(&place).filter(|owner| owner.member == member);
                let owner = kept.copied().unwrap_or_else(|| {
                    self.count += 1;
                    Owner { member, generation: self.count }
                });
                group.owners.insert(place, owner);
            }
        }
        self.changed.send_replace(());
    }

    /// What the member can be given, up to `limit` messages.
    pub(crate) fn due(&self, member: &Member, limit: usize) -> Vec<Range> {
        let Some(group) = self.groups.get(&member.group) else { return Vec::new() };
        let owned = || group.owners.iter().filter(|(_, owner)| owner.member == member.id);
        let late = owned().filter(|(place, _)| Some(*place) > member.last.as_ref());
        let early = owned().filter(|(place, _)| Some(*place) <= member.last.as_ref());
        let (mut ranges, mut room) = (Vec::new(), limit as u64);
        for (place, owner) in late.chain(early) {
            let from = match member.cursors.get(place) {
                Some((generation, next)) if *generation == owner.generation => *next,
                _ => group.acknowledged.get(place).copied().unwrap_or(0),
            };
            let until = self.end(place).min(from + room);
            if from < until {
                room -= until - from;
                ranges.push(Range { place: place.clone(), generation: owner.generation, from, until });
            }
        }
        ranges
    }

    fn end(&self, place: &Place) -> Offset {
        self.topics.get(&place.topic).and_then(|ends| ends.get(place.partition as usize)).copied().unwrap_or(0)
    }

    /// Where the group and the member stand in each partition that is the member's: acknowledged up to, given up to.
    pub(crate) fn under_way(&self, member: &Member) -> Vec<(Place, Offset, Offset)> {
        let Some(group) = self.groups.get(&member.group) else { return Vec::new() };
        let mine = member.cursors.iter().filter(|(place, (generation, _))| {
            group.owners.get(place).is_some_and(|owner| owner.generation == *generation)
        });
        let stand = |place: &Place| group.acknowledged.get(place).copied().unwrap_or(0);
        mine.map(|(place, (_, next))| (place.clone(), stand(place), *next)).collect()
    }

    /// Whether the member may acknowledge: it was given that offset, and the partition was its own ever since.
    pub(crate) fn may_acknowledge(&self, member: &Member, place: &Place, offset: Offset) -> Result<(), BusError> {
        let owner = self.groups.get(&member.group).and_then(|group| group.owners.get(place));
        match (owner, member.cursors.get(place)) {
            (Some(owner), Some((generation, next))) if owner.generation == *generation && offset < *next => Ok(()),
            _ => Err(BusError::Revoked(place.to_string())),
        }
    }

    /// The group has dealt with everything before `next`; it never goes backwards.
    pub(crate) fn acknowledged(&mut self, group: &str, place: &Place, next: Offset) {
        let group = self.groups.entry(group.into()).or_default();
        let kept = group.acknowledged.entry(place.clone()).or_default();
        *kept = next.max(*kept);
    }

    pub(crate) fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        let ends = self.ends(topic)?;
        let done = |partition| {
            let place = Place { topic: topic.into(), partition };
            self.groups.get(group).and_then(|group| group.acknowledged.get(&place)).copied().unwrap_or(0)
        };
        Ok((0..).zip(ends).map(|(partition, end)| end.saturating_sub(done(partition))).sum())
    }

    /// Wakes everybody who waits.
    pub(crate) fn wake(&self) {
        self.changed.send_replace(());
    }
}

fn check_name(what: &str, name: &str) -> Result<(), BusError> {
    match name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        n => Err(BusError::Malformed(format!("the name of a {what} has 1 to {MAX_NAME_BYTES} bytes, not {n}"))),
    }
}
