//! What every use case needs between its caller and its store.
use prost::Message;
use store::{CommitId, Meta, ReadError};

use crate::call::Caller;
use crate::error::Refusal;
use crate::remembered::Remembered;

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
    Refusal::outage(error)
}
