//! From streams to states of a decider and back: load, decide, commit, and again if somebody was faster.
//!
//! A domain event is a serde enum whose variants have named fields. Its variant's name is the event's kind, what is inside
//! is its data.
use std::time::Duration;

use clock::Ids;
use decider::Decider;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    Append, Commit, CommitError, Expected, Meta, NewEvent, ReadError, Recorded, Store, StreamId, TimerChange, Version,
};

/// Which version of their data events are written in.
const SCHEMA: u16 = 1;
const PAGE: usize = 1_000;
/// More than the tries that a busy stream has ever needed; a stream that needs more wants [`crate::hot`].
const TRIES: u32 = 32;
/// How often a commit is tried while it is unknown whether it happened, and how long is waited in between.
pub const UNAVAILABLE_TRIES: u32 = 3;
/// See [`UNAVAILABLE_TRIES`].
pub const UNAVAILABLE_WAIT: Duration = Duration::from_millis(20);

/// A state and the version of the stream that it is the state of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded<D> {
    /// The state.
    pub state: D,
    /// Its version; 0 if the stream does not exist.
    pub version: Version,
}

impl<D: Decider> Folded<D> {
    /// The state after further events.
    #[must_use]
    pub fn then(self, events: &[D::Event]) -> Folded<D> {
        Folded { version: self.version + events.len() as Version, state: self.state.fold(events) }
    }
}

/// A domain event as the store takes it.
///
/// # Panics
/// If the event is not an enum variant with named fields.
pub fn encode<E: Serialize>(event: &E, ids: &Ids) -> NewEvent {
    let tagged = serde_json::to_string(event).expect("an event is plain data");
    let parts =
        tagged.strip_prefix("{\"").and_then(|rest| rest.strip_suffix('}')).and_then(|rest| rest.split_once("\":"));
    let (kind, data) = parts.expect("an event is an enum variant with named fields");
    NewEvent { id: ids.next(), kind: kind.to_owned(), schema: SCHEMA, data: data.to_owned() }
}

/// A recorded event as the domain knows it.
///
/// # Errors
/// [`ReadError::Corrupt`] for an unknown kind or schema, or data of another form.
pub fn decode<E: DeserializeOwned>(recorded: &Recorded) -> Result<E, ReadError> {
    let NewEvent { kind, schema, data, .. } = &recorded.event;
    let corrupt =
        |why: String| ReadError::Corrupt(format!("{} version {} ({kind}): {why}", recorded.stream, recorded.version));
    if *schema != SCHEMA {
        return Err(corrupt(format!("its schema is {schema}; this program reads {SCHEMA}")));
    }
    serde_json::from_str(&format!("{{\"{kind}\":{data}}}")).map_err(|why| corrupt(why.to_string()))
}

/// The present state of a stream.
///
/// # Errors
/// If the store cannot be read, or holds what is no event of this decider.
pub async fn load<D>(store: &dyn Store, stream: &StreamId) -> Result<Folded<D>, ReadError>
where
    D: Decider,
    D::Event: DeserializeOwned,
{
    load_from(store, stream, Folded::default()).await
}

/// The present state of a stream, from an earlier one.
///
/// # Errors
/// As [`load`].
pub async fn load_from<D>(store: &dyn Store, stream: &StreamId, mut folded: Folded<D>) -> Result<Folded<D>, ReadError>
where
    D: Decider,
    D::Event: DeserializeOwned,
{
    loop {
        let page = store.load(stream, folded.version, PAGE).await?;
        for recorded in &page {
            if recorded.version != folded.version + 1 {
                return Err(ReadError::Corrupt(format!("{stream} has no version {}", folded.version + 1)));
            }
            folded = Folded { state: folded.state.evolve(&decode(recorded)?), version: recorded.version };
        }
        if page.len() < PAGE {
            return Ok(folded);
        }
    }
}

/// All events of a stream, oldest first.
///
/// # Errors
/// If the store cannot be read.
pub async fn history(store: &dyn Store, stream: &StreamId) -> Result<Vec<Recorded>, ReadError> {
    let mut events: Vec<Recorded> = vec![];
    loop {
        let page = store.load(stream, events.last().map_or(0, |last| last.version), PAGE).await?;
        let last = page.len() < PAGE;
        events.extend(page);
        if last {
            return Ok(events);
        }
    }
}

/// Where the latest event of a stream comes from: what a timer takes up again. Empty if the stream does not exist.
///
/// # Errors
/// If the store cannot be read.
pub async fn origin(store: &dyn Store, stream: &StreamId) -> Result<Meta, ReadError> {
    let version = store.version(stream).await?;
    let latest = store.load(stream, version.saturating_sub(1), 1).await?;
    Ok(latest.into_iter().next().map(|recorded| recorded.meta).unwrap_or_default())
}

/// Events for a stream at the version that they were decided on.
pub fn append<E: Serialize>(stream: &StreamId, version: Version, events: &[E], ids: &Ids) -> Append {
    let events = events.iter().map(|event| encode(event, ids)).collect();
    Append { stream: stream.clone(), expected: Expected::Exact(version), events }
}

/// What a use case decided on a state.
#[derive(Clone, Debug)]
pub struct Change<E> {
    /// What happened; may be nothing.
    pub events: Vec<E>,
    /// What to remember under the command's id.
    pub reply: Vec<u8>,
    /// Timers that change with it.
    pub timers: Vec<TimerChange>,
}

impl<E> Change<E> {
    /// Events, and nothing beside them.
    #[must_use]
    pub fn only(events: Vec<E>) -> Change<E> {
        Change { events, reply: vec![], timers: vec![] }
    }

    fn changes_something(&self) -> bool {
        !(self.events.is_empty() && self.reply.is_empty() && self.timers.is_empty())
    }
}

/// How a use case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done<D> {
    /// It happened now; this is the state after it.
    Now(Folded<D>),
    /// It changes nothing in this state.
    Nothing(Folded<D>),
    /// It had happened before; this is the remembered reply.
    Before(Vec<u8>),
}

/// Why a use case changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed<R> {
    /// The rules say no.
    Rejected(R),
    /// The store cannot be read, or stays unavailable; then the change may have happened.
    Store(ReadError),
}

impl<R> From<ReadError> for Failed<R> {
    fn from(error: ReadError) -> Failed<R> {
        Failed::Store(error)
    }
}

/// Changes one stream: loads, lets `decide` decide, commits; again on the newer state if somebody was faster, and under the
/// same id if it is unknown whether the commit happened. What happened before under this id is answered as before, even if
/// the rules would refuse it now.
///
/// The commit is `blank` with the change put in: what `blank` brings besides its id (marks, other streams) happens with it
/// or not at all. Where neither changes anything, nothing is committed.
///
/// `guess` is what the caller takes the stream to be; if it is right, it saves reading it. A wrong one costs a conflict,
/// never a wrong decision: where it leads to nothing to commit, the stream is read after all.
///
/// # Errors
/// The rejection of `decide`, or what is wrong with the store.
pub async fn change<D, R>(
    store: &dyn Store,
    ids: &Ids,
    stream: &StreamId,
    mut guess: Option<Folded<D>>,
    blank: &Commit,
    decide: impl Fn(&Folded<D>) -> Result<Change<D::Event>, R> + Send + Sync,
) -> Result<Done<D>, Failed<R>>
where
    D: Decider,
    D::Event: Serialize + DeserializeOwned,
    R: Send,
{
    let brings_something = *blank != Commit::new(blank.id.clone(), blank.meta.clone());
    for _ in 0..TRIES {
        let guessed = guess.take();
        let is_guess = guessed.is_some();
        let folded = match guessed {
            Some(folded) => folded,
            None => load::<D>(store, stream).await?,
        };
        let Change { events, reply, timers } = match decide(&folded) {
            Ok(change) if brings_something || change.changes_something() => change,
            _ if is_guess => continue,
            Ok(_) => return Ok(Done::Nothing(folded)),
            Err(rejection) => {
                let before = store.reply(&blank.id).await?;
                return before.map(Done::Before).ok_or(Failed::Rejected(rejection));
            }
        };
        let mut commit = blank.clone();
        commit.appends.push(append(stream, folded.version, &events, ids));
        commit.timers.extend(timers);
        if !reply.is_empty() {
            commit.reply = reply;
        }
        match persist(store, commit).await {
            Ok(()) => return Ok(Done::Now(folded.then(&events))),
            Err(CommitError::AlreadyHandled(reply)) => return Ok(Done::Before(reply)),
            Err(CommitError::Conflict { what, .. }) if what == *stream.0 => {}
            Err(other) => return Err(unreadable(other).into()),
        }
    }
    Err(ReadError::Unavailable(format!("{stream} changed {TRIES} times while it was being changed")).into())
}

/// Commits, and again under the same id while it is unknown whether the commit happened, a few times.
///
/// # Errors
/// As [`Store::commit`]; [`CommitError::AlreadyHandled`] may be this very commit's first try.
pub async fn persist(store: &dyn Store, commit: Commit) -> Result<(), CommitError> {
    let mut tries = 1;
    loop {
        match store.commit(commit.clone()).await {
            Err(CommitError::Unavailable(_)) if tries < UNAVAILABLE_TRIES => {
                tries += 1;
                tokio::time::sleep(UNAVAILABLE_WAIT).await;
            }
            outcome => return outcome.map(|_| ()),
        }
    }
}

/// What a commit error means to a use case that cannot decide anew.
#[must_use]
pub fn unreadable(error: CommitError) -> ReadError {
    match error {
        CommitError::Malformed(why) => ReadError::Corrupt(why),
        CommitError::Unavailable(why) => ReadError::Unavailable(why),
        other => ReadError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MarkMove;
    use crate::memory::Memory;
    use clock::{SystemClock, Timestamp};
    use serde::Deserialize;
    use std::sync::Arc;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Sum(i64);
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Fact {
        Added { amount: i64, note: String },
        Cleared {},
    }
    impl Decider for Sum {
        type Command = i64;
        type Event = Fact;
        type Rejection = ();
        fn decide(&self, amount: &i64) -> Result<Vec<Fact>, ()> {
            Ok(vec![Fact::Added { amount: *amount, note: String::new() }])
        }
        fn evolve(self, event: &Fact) -> Sum {
            match event {
                Fact::Added { amount, .. } => Sum(self.0 + amount),
                Fact::Cleared {} => Sum(0),
            }
        }
    }

    fn blank(id: &str) -> Commit {
        Commit::new(id.into(), Meta::default())
    }

    fn recorded(event: NewEvent) -> Recorded {
        let (stream, meta) = ("sum-1".into(), Meta::default());
        Recorded { position: None, stream, version: 1, timestamp: Timestamp(0), event, meta }
    }

    #[test]
    fn the_variant_is_the_kind_and_the_fields_are_the_data() {
        let ids = Ids::random(Arc::new(SystemClock));
        let fact = Fact::Added { amount: 3, note: "a \"}\": b".into() };
        let event = encode(&fact, &ids);
        assert_eq!((event.kind.as_str(), event.data.as_str()), ("Added", r#"{"amount":3,"note":"a \"}\": b"}"#));
        assert_eq!(decode::<Fact>(&recorded(event)), Ok(fact));
        let event = encode(&Fact::Cleared {}, &ids);
        assert_eq!((event.kind.as_str(), event.data.as_str()), ("Cleared", "{}"));
        assert_eq!(decode::<Fact>(&recorded(event)), Ok(Fact::Cleared {}));
    }

    #[test]
    fn an_unknown_kind_or_schema_is_corrupt_and_named() {
        let event = encode(&Fact::Cleared {}, &Ids::random(Arc::new(SystemClock)));
        for bad in [NewEvent { kind: "Dropped".into(), ..event.clone() }, NewEvent { schema: 9, ..event }] {
            let Err(ReadError::Corrupt(why)) = decode::<Fact>(&recorded(bad)) else { panic!("decoded") };
            assert!(why.starts_with("sum-1 version 1 ("), "{why}");
        }
    }

    #[tokio::test]
    async fn concurrent_changes_all_happen_and_a_retry_happens_once() {
        let clock = Arc::new(SystemClock);
        let (store, ids) = (Memory::new(clock.clone()), Ids::random(clock));
        let stream = StreamId::from("sum-1");
        let add = |id: String, guess: Option<Folded<Sum>>| {
            let decide = |sum: &Folded<Sum>| {
                sum.state.decide(&1).map(|events| Change { reply: b"done".to_vec(), ..Change::only(events) })
            };
            let (store, ids, stream) = (&store, &ids, &stream);
            async move { change(store, ids, stream, guess, &blank(&id), decide).await.unwrap() }
        };
        futures::future::join_all((0..20).map(|n| add(format!("c{n}"), (n % 2 == 0).then(Folded::default)))).await;
        assert_eq!(add("c7".into(), None).await, Done::Before(b"done".to_vec()));
        assert_eq!(load::<Sum>(&store, &stream).await.unwrap(), Folded { state: Sum(20), version: 20 });
    }

    /// What the blank commit brings happens with the change, even with one that changes nothing, or not at all.
    #[tokio::test]
    async fn what_a_commit_brings_happens_with_the_change() {
        let clock = Arc::new(SystemClock);
        let (store, ids, stream) = (Memory::new(clock.clone()), Ids::random(clock), StreamId::from("sum-1"));
        let moving = |from| MarkMove { name: "m".into(), from, to: from + 1 };
        let nothing = |_: &Folded<Sum>| Ok::<_, ()>(Change::only(vec![]));
        let with = |id: &str, from| Commit { marks: vec![moving(from)], ..blank(id) };
        assert!(matches!(change(&store, &ids, &stream, None, &with("a", 0), nothing).await, Ok(Done::Now(_))));
        assert_eq!(store.mark("m").await, Ok(1));
        let add = |sum: &Folded<Sum>| sum.state.decide(&1).map(Change::only);
        assert_eq!(change(&store, &ids, &stream, None, &with("b", 0), add).await, Ok(Done::Before(vec![])));
        let ahead = change(&store, &ids, &stream, None, &with("c", 5), add).await;
        assert!(matches!(ahead, Err(Failed::Store(ReadError::Unavailable(_)))), "{ahead:?}");
        assert_eq!(load::<Sum>(&store, &stream).await.unwrap().version, 0);
    }

    /// A command that happened is answered as before, whatever the rules say by now.
    #[tokio::test]
    async fn a_rejection_counts_only_for_a_command_that_has_not_happened() {
        let clock = Arc::new(SystemClock);
        let (store, ids, stream) = (Memory::new(clock.clone()), Ids::random(clock), StreamId::from("sum-1"));
        let once = |sum: &Folded<Sum>| if sum.version == 0 { sum.state.decide(&1).map(Change::only) } else { Err(()) };
        for guess in [None, Some(Folded::default())] {
            let add = async |id: &str| change(&store, &ids, &stream, guess.clone(), &blank(id), once).await;
            assert!(matches!(add("first").await, Ok(Done::Now(_) | Done::Before(_))));
            assert_eq!(add("second").await, Err(Failed::Rejected(())));
            assert_eq!(add("first").await, Ok(Done::Before(vec![])));
        }
    }
}
