//! What operators do about parked messages: look at them, have them taken in, or give them up.
//!
//! # Problem
//! A message that was set aside is soon forgotten, or taken in again in another order than its stream's, or twice, or
//! while new ones of its stream arrive.
//!
//! # Pattern
//! Dead letter channel with redrive, in order, under the same lock as parking.
//!
//! # Here
//! A dead letter is a key of a topic that is blocked for one consumer, with all its parked messages. A redrive takes them
//! in by version, each in one commit with the move of the mark and the note that it waits no more, which expects the version
//! of the parked stream that it saw; so does parking. Whoever is second begins again: the message that arrives while the
//! last parked one is taken in is parked before it, or finds the key open. What was asked, by whom and why is an event.
//!
//! # Limits
//! A redrive stops at the first message that fails again. Versions that never arrived are passed over only if an operator
//! says so.
use std::collections::BTreeSet;
use std::ops::Bound;

use decider::Decider;
use host::error::Refusal;
use host::use_case::unavailable;
use store::folded::{self, Change, Failed, Folded};
use store::{Commit, CommitId, ReadError, StreamId, Version};

use crate::consumer::{Consumer, Interrupted, Key};
use crate::envelope::Envelope;
use crate::parked::{Command, NothingWaits, Parked, Place, Reason, Waiting};

/// How often a redrive begins again when something moves under it.
const TRIES: u32 = 100;

/// A blocked key of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What to call it by.
    pub id: String,
    /// Of which topic.
    pub topic: String,
    /// Which stream is blocked.
    pub stream: String,
    /// Everything up to this version is in effect.
    pub mark: Version,
    /// What waits, in the order in which it is taken in.
    pub waiting: Vec<Waiting>,
}

/// An operator and why they act.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Under which command id.
    pub id: CommitId,
}

/// What a redrive does next.
enum Next {
    /// Nothing waits.
    Done,
    /// This one is in effect already.
    Drop(Place),
    /// This one, at its place in the stream.
    Take(Waiting, Envelope),
    /// This one, but versions before it never arrived.
    Gap(Waiting, Envelope),
    /// What waits first cannot be read.
    Unreadable(String),
}

impl Consumer {
    /// A page of blocked keys, and where the next begins.
    ///
    /// # Errors
    /// UNAVAILABLE if the store cannot be read.
    pub async fn dead_letters(&self, after: &str, size: usize) -> Result<(Vec<DeadLetter>, String), Refusal> {
        let mut page = vec![];
        let blocked = self.blocked_keys().await.map_err(refused)?;
        let topics: BTreeSet<_> = self.topics().iter().collect();
        for topic in topics {
            let prefix = self.parked_prefix(topic);
            let last = match after.strip_prefix(&format!("{topic}.")) {
                Some(key) => format!("{prefix}{key}"),
                None if after > *topic => continue,
                None => String::new(),
            };
            let later = blocked.range((Bound::Excluded(last), Bound::Unbounded));
            for name in later.filter(|name| name.starts_with(&prefix)) {
                if let Some(letter) = self.letter(topic, &name.as_str().into()).await? {
                    if page.len() == size {
                        let next = page.last().map(|letter: &DeadLetter| letter.id.clone());
                        return Ok((page, next.unwrap_or_default()));
                    }
                    page.push(letter);
                }
            }
        }
        Ok((page, String::new()))
    }

    /// One blocked key.
    ///
    /// # Errors
    /// NOT_FOUND if nothing of it waits.
    pub async fn dead_letter(&self, id: &str) -> Result<DeadLetter, Refusal> {
        let (topic, stream) = self.named(id)?;
        self.letter(topic, &stream).await?.ok_or_else(|| unknown(id))
    }

    /// Takes in what waits, in order, until nothing does or one fails again; how much still waits.
    ///
    /// # Errors
    /// NOT_FOUND if nothing waits, FAILED_PRECONDITION with what stands in the way.
    pub async fn redrive(&self, id: &str, operator: &Operator, over_gap: bool) -> Result<Option<DeadLetter>, Refusal> {
        let letter = self.dead_letter(id).await?;
        let key = Key { topic: letter.topic, key: letter.stream };
        let Operator { by, reason, id: command } = operator;
        let asked = Command::AskRedrive { by: by.clone(), reason: reason.clone(), over_gap };
        self.record(&key, command, by, &asked).await.map_err(|_| unknown(id))??;
        let mut over_gap = over_gap;
        for _ in 0..TRIES {
            match self.drive(&key, &mut over_gap).await {
                Ok(()) => return self.letter_of(&key).await,
                Err(Stopped::Interrupted(Interrupted::Moved)) => {}
                Err(Stopped::Interrupted(interrupted)) => return Err(refused(interrupted)),
                Err(Stopped::InTheWay(why)) => return Err(*why),
            }
        }
        Err(Refusal::unavailable("new messages keep arriving for this key"))
    }

    /// Gives up the first message that waits; what follows it can be taken in then.
    ///
    /// # Errors
    /// NOT_FOUND if nothing waits, FAILED_PRECONDITION if what stands in the way never arrived.
    pub async fn skip(&self, id: &str, operator: &Operator) -> Result<Option<DeadLetter>, Refusal> {
        let letter = self.dead_letter(id).await?;
        let key = Key { topic: letter.topic, key: letter.stream };
        let Operator { by, reason, id: command } = operator;
        // Handled before: the answer is how things stand.
        if self.0.store.reply(command).await.map_err(unavailable)?.is_some() {
            return self.letter_of(&key).await;
        }
        for _ in 0..TRIES {
            let (stream, parked) = self.parked(&key).await.map_err(unavailable)?;
            let name = self.mark_name(&key);
            let mark = self.0.store.mark(&name).await.map_err(unavailable)?;
            let mut marks = vec![];
            let first = parked.state.versions.range(mark + 1..).next();
            let place = match (first, parked.state.unreadable.first()) {
                (Some((version, waiting)), _) if *version == mark + 1 => {
                    marks.push(store::MarkMove { name, from: mark, to: *version });
                    waiting.place
                }
                (_, Some(unreadable)) => unreadable.place,
                (Some((version, _)), None) => return Err(gap(mark, *version)),
                (None, None) => return Err(unknown(id)),
            };
            let skip = Command::Skip { place, by: by.clone(), reason: reason.clone() };
            let events = parked.state.decide(&skip).map_err(|NothingWaits| unknown(id))?;
            let mut appends = vec![folded::append(&stream, parked.version, &events, &self.0.process.ids)];
            appends.extend(self.now_freed(&stream, &parked.state));
            let meta = store::Meta { actor: by.clone(), ..self.meta(&key) };
            match self.commit(Commit { appends, marks, ..Commit::new(command.clone(), meta) }).await {
                Ok(()) => {
                    self.count("skipped", 1);
                    tracing::warn!(key = key.key, by, reason, "an operator gave a message up");
                    return self.letter_of(&key).await;
                }
                Err(Interrupted::Moved) => {}
                Err(interrupted) => return Err(refused(interrupted)),
            }
        }
        Err(Refusal::unavailable("new messages keep arriving for this key"))
    }

    /// Takes in what can be taken in. Begun again, it goes on where it was.
    async fn drive(&self, key: &Key, over_gap: &mut bool) -> Result<(), Stopped> {
        // Danger: in this order, so that parking in between changes the version that the commits below expect.
        let (stream, mut parked) = self.parked(key).await.map_err(Interrupted::from)?;
        let mut mark = self.0.store.mark(&self.mark_name(key)).await.map_err(Interrupted::from)?;
        loop {
            let (waiting, fact) = match next(&parked.state, mark) {
                Next::Done => return Ok(()),
                Next::Drop(place) => {
                    let (events, appends) = self.taken_in(&stream, &parked, place)?;
                    let id = self.0.process.ids.next().to_string();
                    let commit = Commit { appends, ..Commit::new(id.into(), self.meta(key)) };
                    self.commit(commit).await?;
                    parked = parked.then(&events);
                    continue;
                }
                Next::Take(waiting, fact) => (waiting, fact),
                Next::Gap(waiting, fact) if *over_gap => {
                    *over_gap = false;
                    (waiting, fact)
                }
                Next::Gap(_, fact) => return Err(Stopped::InTheWay(Box::new(gap(mark, fact.version)))),
                Next::Unreadable(why) => {
                    let why = format!("it cannot be read ({why}); skip it, if it is lost");
                    return Err(Stopped::InTheWay(Box::new(Refusal::precondition(Reason::Undecodable.word(), why))));
                }
            };
            let (events, appends) = self.taken_in(&stream, &parked, waiting.place)?;
            let receipt = self.receipt(key, &fact, mark, appends);
            let still = |(reason, why): (Reason, String)| {
                let why = format!("version {} still fails: {why}", fact.version);
                Stopped::InTheWay(Box::new(Refusal::precondition(reason.word(), why)))
            };
            match self.judge(&fact).map_err(still)? {
                crate::consumer::Interest::Passed => self.commit(receipt.commit()).await?,
                _ => match self.handle(&fact, &receipt).await {
                    Ok(outcome) => outcome.map_err(still)?,
                    // What it expects may have moved, which only a look can tell.
                    Err(_) if self.moved(key, &stream, &parked, mark).await? => return Err(Interrupted::Moved.into()),
                    Err(away) => return Err(away.into()),
                },
            }
            self.count("redriven", 1);
            mark = fact.version;
            parked = parked.then(&events);
        }
    }

    async fn moved(
        &self,
        key: &Key,
        stream: &StreamId,
        parked: &Folded<Parked>,
        mark: Version,
    ) -> Result<bool, Interrupted> {
        let version = self.0.store.version(stream).await?;
        Ok(version != parked.version || self.0.store.mark(&self.mark_name(key)).await? != mark)
    }

    fn taken_in(
        &self,
        stream: &StreamId,
        parked: &Folded<Parked>,
        place: Place,
    ) -> Result<(Vec<crate::parked::Event>, Vec<store::Append>), Interrupted> {
        let events = parked.state.decide(&Command::TakeIn(place)).map_err(|NothingWaits| Interrupted::Moved)?;
        let mut appends = vec![folded::append(stream, parked.version, &events, &self.0.process.ids)];
        appends.extend(self.now_freed(stream, &parked.state));
        Ok((events, appends))
    }

    /// Records what an operator asked for, once per command id.
    async fn record(
        &self,
        key: &Key,
        id: &CommitId,
        by: &str,
        command: &Command,
    ) -> Result<Result<(), Refusal>, NothingWaits> {
        let stream = match self.parked(key).await {
            Ok((stream, _)) => stream,
            Err(why) => return Ok(Err(unavailable(why))),
        };
        let blank = Commit::new(id.clone(), store::Meta { actor: by.to_owned(), ..self.meta(key) });
        let decide = |parked: &Folded<Parked>| parked.state.decide(command).map(Change::only);
        match folded::change(self.0.store.as_ref(), &self.0.process.ids, &stream, None, &blank, decide).await {
            Ok(_) => Ok(Ok(())),
            Err(Failed::Rejected(why)) => Err(why),
            Err(Failed::Store(why)) => Ok(Err(unavailable(why))),
        }
    }

    async fn letter_of(&self, key: &Key) -> Result<Option<DeadLetter>, Refusal> {
        let (stream, _) = self.parked(key).await.map_err(unavailable)?;
        self.letter(&key.topic, &stream).await
    }

    async fn letter(&self, topic: &str, stream: &StreamId) -> Result<Option<DeadLetter>, Refusal> {
        let parked: Folded<Parked> = folded::load(self.0.store.as_ref(), stream).await.map_err(unavailable)?;
        let Some(any) = parked.state.all().next() else { return Ok(None) };
        let key = Key { topic: topic.to_owned(), key: any.key.clone() };
        let mark = self.0.store.mark(&self.mark_name(&key)).await.map_err(unavailable)?;
        let live = |waiting: &&Waiting| waiting.place.version.is_none_or(|version| version > mark);
        let waiting: Vec<_> = parked.state.all().filter(live).cloned().collect();
        let id = format!("{topic}.{}", stream.0.strip_prefix(&self.parked_prefix(topic)).unwrap_or_default());
        Ok((!waiting.is_empty()).then_some(DeadLetter { id, stream: key.key, topic: key.topic, mark, waiting }))
    }

    /// The topic and the parked stream that an id names.
    fn named(&self, id: &str) -> Result<(&'static str, StreamId), Refusal> {
        let named = |topic: &&'static str| Some((*topic, id.strip_prefix(*topic)?.strip_prefix('.')?));
        let (topic, key) = self.topics().iter().find_map(named).ok_or_else(|| unknown(id))?;
        let name = format!("{}{key}", self.parked_prefix(topic));
        // What no stream can be named was never parked.
        if name.len() > store::MAX_NAME_BYTES || name.contains('\0') {
            return Err(unknown(id));
        }
        Ok((topic, name.into()))
    }
}

/// Why a redrive does not go on.
enum Stopped {
    Interrupted(Interrupted),
    InTheWay(Box<Refusal>),
}

impl From<Interrupted> for Stopped {
    fn from(interrupted: Interrupted) -> Stopped {
        Stopped::Interrupted(interrupted)
    }
}

fn read(waiting: &Waiting) -> Result<Envelope, String> {
    if waiting.left_out.is_some() {
        return Err("it was too large to be kept".to_owned());
    }
    Envelope::decode(&waiting.original())
}

fn next(parked: &Parked, mark: Version) -> Next {
    let (mut first, mut unreadable) = (None::<(Waiting, Envelope)>, None);
    // A newer program may read what an older one could not.
    for waiting in parked.unreadable.iter().chain(parked.versions.values().next()) {
        match read(waiting) {
            Ok(fact) if fact.version <= mark => return Next::Drop(waiting.place),
            Ok(fact) => {
                if first.as_ref().is_none_or(|(_, before)| fact.version < before.version) {
                    first = Some((waiting.clone(), fact));
                }
            }
            Err(why) => unreadable = unreadable.or(Some(why)),
        }
    }
    match (first, unreadable) {
        (Some((waiting, fact)), _) if fact.version == mark + 1 => Next::Take(waiting, fact),
        (_, Some(why)) => Next::Unreadable(why),
        (Some((waiting, fact)), None) => Next::Gap(waiting, fact),
        (None, None) => Next::Done,
    }
}

fn refused(interrupted: Interrupted) -> Refusal {
    match interrupted {
        Interrupted::Moved => Refusal::unavailable("it was changed meanwhile"),
        Interrupted::Unavailable(why) => Refusal::outage(why),
        Interrupted::Corrupt(why) => unavailable(ReadError::Corrupt(why)),
    }
}

fn gap(mark: Version, arrived: Version) -> Refusal {
    let (from, to) = (mark + 1, arrived - 1);
    let message = format!("versions {from} to {to} never arrived; redrive with over_gap if they are lost");
    Refusal::precondition(Reason::Gap.word(), message)
}

fn unknown(id: &str) -> Refusal {
    let shown: String = id.chars().take(100).collect();
    Refusal::not_found(format!("nothing waits under {shown}"))
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
