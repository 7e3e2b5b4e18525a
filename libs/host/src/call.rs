//! What travels with every call beside its message, in gRPC metadata: who asks, for whom, under which command id, in which
//! trace, and how long they wait.
use std::sync::Arc;
use std::time::Duration;

use clock::Ids;
use resilience::deadline::Deadline;
use telemetry::trace::Trace;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

use crate::error::Refusal;
use crate::transport::LONGEST_CALL;

/// Identifies the command; whoever tries again, tries under the same.
pub const COMMAND_ID: &str = "command-id";
/// The customer that the call is for.
pub const CUSTOMER: &str = "customer-id";
/// Who asks: `customer:<id>`, `operator:<name>` or `saga:<id>`.
pub const ACTOR: &str = "actor";
/// The trace.
pub const TRACEPARENT: &str = "traceparent";
/// How many seconds the caller would wait for a settled answer (RFC 7240, `wait`).
pub const WAIT: &str = "prefer-wait";

/// The longest wait for a settled answer.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest command id, in bytes.
pub const MAX_COMMAND_ID_BYTES: usize = 160;

/// Who calls, and how.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The command's id, if the call has one.
    pub command_id: Option<Arc<str>>,
    /// The customer it is for; empty for none.
    pub customer: Arc<str>,
    /// Who asks.
    pub actor: Arc<str>,
    /// The trace.
    pub trace: Trace,
    /// When nobody waits any more.
    pub deadline: Deadline,
    /// How long the caller would wait for a settled answer.
    pub wait: Duration,
}

impl Caller {
    /// A caller that begins a trace of its own and waits for `patience`.
    #[must_use]
    pub fn new(actor: impl Into<Arc<str>>, ids: &Ids, patience: Duration) -> Caller {
        Caller {
            command_id: None,
            customer: "".into(),
            actor: actor.into(),
            trace: new_trace(ids),
            deadline: Deadline::after(patience),
            wait: Duration::ZERO,
        }
    }

    /// Reads the caller of a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the command id or the wait is malformed.
    pub fn of<T>(request: &Request<T>, ids: &Ids) -> Result<Caller, Refusal> {
        let metadata = request.metadata();
        let wait = match text(metadata, WAIT)? {
            None => Duration::ZERO,
            Some(seconds) => match seconds.parse() {
                Ok(seconds) => Duration::from_secs(seconds).min(LONGEST_WAIT),
                Err(_) => {
                    return Err(Refusal::invalid(WAIT, format!("{WAIT} is a number of seconds, not {seconds:?}")));
                }
            },
        };
        let command_id = text(metadata, COMMAND_ID)?;
        if let Some(id) = command_id.filter(|id| id.is_empty() || id.len() > MAX_COMMAND_ID_BYTES) {
            let message = format!("{COMMAND_ID} has 1 to {MAX_COMMAND_ID_BYTES} characters, not {}", id.len());
            return Err(Refusal::invalid(COMMAND_ID, message));
        }
        Ok(Caller {
            command_id: command_id.map(Arc::from),
            customer: text(metadata, CUSTOMER)?.unwrap_or_default().into(),
            actor: text(metadata, ACTOR)?.unwrap_or("anonymous").into(),
            trace: text(metadata, TRACEPARENT)?.and_then(Trace::parse).unwrap_or_else(|| new_trace(ids)),
            deadline: request.extensions().get().copied().unwrap_or_else(|| Deadline::after(LONGEST_CALL)),
            wait,
        })
    }

    /// The command id, which every call that changes something must have.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is none.
    pub fn command(&self) -> Result<&Arc<str>, Refusal> {
        let missing =
            || Refusal::invalid(COMMAND_ID, format!("a call that changes something needs metadata {COMMAND_ID}"));
        self.command_id.as_ref().ok_or_else(missing)
    }

    /// The same caller's call under `command_id`.
    #[must_use]
    pub fn under(&self, command_id: impl Into<Arc<str>>) -> Caller {
        Caller { command_id: Some(command_id.into()), ..self.clone() }
    }

    /// A request to the next service, on behalf of this caller and within its deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.deadline);
        let metadata = request.metadata_mut();
        put(metadata, TRACEPARENT, &self.trace.to_string());
        put(metadata, ACTOR, &self.actor);
        if !self.customer.is_empty() {
            put(metadata, CUSTOMER, &self.customer);
        }
        if let Some(id) = &self.command_id {
            put(metadata, COMMAND_ID, id);
        }
        if !self.wait.is_zero() {
            put(metadata, WAIT, &self.wait.as_secs().to_string());
        }
        request
    }
}

/// A trace that begins here.
pub fn new_trace(ids: &Ids) -> Trace {
    let (trace_id, span_id) = (ids.next().as_u128(), ids.next().as_u128());
    // The low half of an id is its random one.
    Trace::new(trace_id, u64::try_from(span_id & u128::from(u64::MAX)).expect("64 bits"))
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Refusal> {
    let readable =
        |value: &'a AsciiMetadataValue| value.to_str().map_err(|_| Refusal::invalid(key, format!("{key} is not text")));
    metadata.get(key).map(readable).transpose()
}

fn put(metadata: &mut MetadataMap, key: &'static str, value: &str) {
    let value = AsciiMetadataValue::try_from(value).expect("what came in as metadata, or is made of ids, is ASCII");
    metadata.insert(key, value);
}

/// The answer of a use case as gRPC wants it.
///
/// # Errors
/// The refusal as a status.
pub fn answer<T>(outcome: Result<T, Refusal>) -> Result<tonic::Response<T>, Status> {
    outcome.map(tonic::Response::new).map_err(Status::from)
}
