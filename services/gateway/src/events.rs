//! Streams of answers as server-sent events (WHATWG HTML, section 9.2).
//!
//! # Problem
//! Browsers and scripts cannot follow a gRPC stream, and a connection that is open for long breaks: what happened meanwhile
//! must not be missed.
//!
//! # Pattern
//! Server-sent events: a text stream of events with ids. A client that connects again tells the last id that it saw
//! (`Last-Event-ID`), and is sent what followed.
//!
//! # Here
//! Each message of the stream is one event; which of its fields is the id, and which field of the request takes the last
//! one seen, is said in the .proto file. A comment every [`HEARTBEAT`] tells both sides that the other is still there. A
//! stream ends after [`LONGEST`], when the process stops, and when the client closes its side; an error in its middle ends it too.
//! The client comes back. It is told 204, after which an `EventSource` stops, only where nothing will ever follow ([`ended`]); where it
//! may come again, it is told 200 and when ([`come_back`]), for any other status ends it for good.
//!
//! # Limits
//! One connection for each watcher, of which there are few: they have places of their own.
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{BoxStream, StreamExt, unfold};
use host::client_io::Peer;
use host::error::Refusal;
use host::tasks::Tasks;
use host::unavailable::{COME_BACK_MS, come_back};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use prost_reflect::{DynamicMessage, Kind, Value};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

use crate::fair_share::Share;
use crate::routes::{Events, Route};
use crate::transcode;

/// How often something is sent where nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long one stream lasts at most.
const LONGEST: Duration = Duration::from_secs(600);
/// The header that tells which event a client saw last.
pub(crate) const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The body of an answer that goes on.
pub(crate) type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// What a client that comes back has seen, put into its request.
///
/// # Errors
/// INVALID_ARGUMENT naming the header.
pub(crate) fn resume(headers: &HeaderMap, events: &Events, message: &mut DynamicMessage) -> Result<(), Refusal> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(()) };
    let wrong =
        || Refusal::invalid(LAST_EVENT_ID, format!("{LAST_EVENT_ID} is the id of the last event that was seen"));
    let text = value.to_str().map_err(|_| wrong())?;
    let value = match events.resume.kind() {
        Kind::Int64 => Value::I64(text.parse().map_err(|_| wrong())?),
        _ => Value::String(text.to_owned()),
    };
    message.set_field(&events.resume, value);
    Ok(())
}

/// Whether a service says that nothing will ever follow what the client has seen.
pub(crate) fn ended(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}

/// What a client is answered that asked for events and is refused for now: by a stream that ends at once, if it wants one.
pub(crate) fn refused_for_now(headers: &HeaderMap, status: StatusCode) -> Option<Response<Full<Bytes>>> {
    let for_now =
        [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    for_now.then(|| come_back(headers)).flatten()
}

/// What a stream that is being sent needs.
struct Sending {
    route: Arc<Route>,
    stream: Streaming<Bytes>,
    tasks: Tasks,
    until: Instant,
    peer: Peer,
    greeted: bool,
    _place: Share,
}

/// The events of a stream, for as long as it, the process and the client last.
pub(crate) fn body(route: Arc<Route>, stream: Streaming<Bytes>, tasks: Tasks, (peer, place): (Peer, Share)) -> Body {
    let sending =
        Sending { route, stream, tasks, until: Instant::now() + LONGEST, peer, greeted: false, _place: place };
    StreamBody::new(unfold(sending, Sending::next).boxed())
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Sending)> {
        if !std::mem::replace(&mut self.greeted, true) {
            // Proxies and browsers hand on the head of an answer with its first bytes.
            return Some((Ok(Frame::data(Bytes::from(format!("retry: {COME_BACK_MS}\n\n")))), self));
        }
        let left = self.until.saturating_duration_since(Instant::now());
        let told = {
            let message = pin!(timeout(left.min(HEARTBEAT), self.stream.message()));
            let (stopping, closed) = (pin!(self.tasks.stopping()), pin!(self.peer.closed()));
            match select(select(stopping, closed), message).await {
                Either::Left(_) => return None,
                Either::Right((told, _)) => told,
            }
        };
        let text = match told {
            Err(_) if left <= HEARTBEAT => return None,
            Err(_) => ":\n\n".to_owned(),
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(wire))) => self.event(&wire).map_err(|why| tracing::error!(why, "a stream breaks off")).ok()?,
            Ok(Err(status)) => {
                tracing::warn!(%status, "a stream breaks off");
                return None;
            }
        };
        Some((Ok(Frame::data(Bytes::from(text))), self))
    }

    fn event(&self, wire: &Bytes) -> Result<String, String> {
        let answer = transcode::answer(&self.route, wire.clone())?;
        let Some(events) = &self.route.events else { return Err("it is no stream".to_owned()) };
        let field = |field| answer.shown.get_field(field).to_string();
        let (id, name) =
            (field(&events.id), answer.shown.get_field(&events.name).as_str().unwrap_or_default().to_owned());
        // JSON has no bare line feeds: one line of data it is.
        let data = String::from_utf8(answer.json).map_err(|why| why.to_string())?;
        Ok(format!("id: {id}\nevent: {name}\ndata: {data}\n\n"))
    }
}
