//! A command on one stream, carried out once: whoever asks again under the same command id gets the same answer.
use clock::Ids;
use decider::Decider;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::folded::{self, Change, Done, Folded};
use store::{CommitId, Meta, ReadError, Store, StreamId, TimerChange};

use crate::call::Caller;
use crate::error::{Again, Refusal};
use crate::remembered::{Remembered, fingerprint};

/// What a command leads to.
#[derive(Clone, Debug)]
pub struct Decided<E, R> {
    /// What happened; may be nothing.
    pub events: Vec<E>,
    /// The answer, to be remembered.
    pub reply: R,
    /// Timers that change with it.
    pub timers: Vec<TimerChange>,
}

/// Where a caller's command is kept to have come from.
///
/// # Errors
/// INVALID_ARGUMENT if the caller gave no command id.
pub fn origin(caller: &Caller, correlation_id: &str) -> Result<(CommitId, Meta), Refusal> {
    let id = CommitId(caller.command()?.clone());
    let meta = Meta {
        correlation_id: correlation_id.to_owned(),
        causation_id: id.to_string(),
        actor: caller.actor.to_string(),
        traceparent: caller.trace.to_string(),
    };
    Ok((id, meta))
}

/// Carries a command out once: `decide` looks at the state and gives events and answer, or refuses, which is remembered
/// as well.
///
/// # Errors
/// The refusal; [`crate::remembered::reuse`] if the id was used for another request; UNAVAILABLE if it is unknown whether
/// it happened.
pub async fn once<D, Q, R>(
    store: &dyn Store,
    ids: &Ids,
    caller: &Caller,
    stream: &StreamId,
    request: &Q,
    decide: impl Fn(&Folded<D>) -> Result<Decided<D::Event, R>, Refusal> + Send + Sync,
) -> Result<R, Refusal>
where
    D: Decider,
    D::Event: Serialize + DeserializeOwned,
    Q: Message,
    R: Message + Default,
{
    let (id, meta) = origin(caller, &stream.0)?;
    let print = fingerprint(std::any::type_name::<Q>(), request);
    let remember = |outcome: Result<&R, Refusal>| Remembered::new(print, outcome.map(Message::encode_to_vec)).encode();
    let answered = std::sync::Mutex::new(None);
    let decide = |folded: &Folded<D>| {
        let (change, outcome) = match decide(folded) {
            Ok(Decided { events, reply, timers }) => (Change { events, reply: remember(Ok(&reply)), timers }, Ok(reply)),
            // "Not now" is no answer to remember.
            Err(refusal) if refusal.again() == Again::SameId => {
                (Change { events: vec![], reply: vec![], timers: vec![] }, Err(refusal))
            }
            Err(refusal) => (Change { events: vec![], reply: remember(Err(refusal.clone())), timers: vec![] }, Err(refusal)),
        };
        *answered.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(outcome);
        change
    };
    match folded::change(store, ids, stream, &id, &meta, decide).await.map_err(unavailable)? {
        Done::Now(_) => answered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).expect("decided before it is done"),
        Done::Before(reply) => recall(&reply, print),
    }
}

/// The answer that was remembered, if it was to this request.
///
/// # Errors
/// The refusal that was remembered, or that the id was used for another request.
pub fn recall<R: Message + Default>(reply: &[u8], print: [u8; 16]) -> Result<R, Refusal> {
    // What cannot be read belongs to a command of another kind.
    let remembered = Remembered::decode(reply).ok_or_else(crate::remembered::reuse)?;
    R::decode(remembered.answer_to(print)?.as_slice()).map_err(|_| crate::remembered::reuse())
}

/// A store that cannot be read, as an answer.
#[must_use]
pub fn unavailable(error: ReadError) -> Refusal {
    if let ReadError::Corrupt(why) = &error {
        tracing::error!(%why, "what is stored cannot be what was written");
        return Refusal::new(tonic::Code::DataLoss, "corrupt", "what is stored cannot be read; it was logged");
    }
    Refusal::unavailable(error)
}
