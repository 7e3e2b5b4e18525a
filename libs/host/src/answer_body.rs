//! The body of an answer, which ends when the client does not take it.
//!
//! # Problem
//! On HTTP/2 a client stops an answer by keeping the stream's window shut, while its connection is alive and reads for others.
//! Hyper then does not ask the body for more, so that no limit which the body has is ever looked at.
//!
//! # Pattern
//! A write timeout for each stream, held by whoever runs the stream's task.
//!
//! # Here
//! Hyper answers each HTTP/2 request on a task of its own, which [`OnTasks`] starts. [`AnswerBody`] notes there when it hands a
//! frame over, and when it is asked for the next one. A task whose frame has not been taken for [`PATIENCE`], and a second more for
//! each [`SLOWEST_READER`] bytes in it up to [`MOST_MORE`], is dropped: hyper resets that stream, and the others on the connection go on.
//!
//! # Limits
//! What hyper has already queued for a stream is not seen here: it is freed with the connection.
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::slots::UnderWay;
use crate::tasks::Tasks;

/// How long a client may leave a frame of an answer where it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The slowest that a client may take a frame, in bytes a second: what the write timeout of a connection comes to.
const SLOWEST_READER: usize = 8 * 1024;
/// The most time that a frame gets for its size.
pub(crate) const MOST_MORE: Duration = Duration::from_secs(60);

tokio::task_local! {
    static STREAM: Handed;
}

/// Until when the client has to take a frame.
#[derive(Clone, Debug, Default)]
struct Handed(Arc<Mutex<Option<Instant>>>);

impl Handed {
    /// A frame of so many bytes waits to be taken from now on.
    fn begin(&self, bytes: usize) {
        let more = Duration::from_secs_f64(bytes as f64 / SLOWEST_READER as f64);
        self.set(Some(Instant::now() + PATIENCE + more.min(MOST_MORE)));
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer. The request counts as under way until it is dropped.
pub(crate) struct AnswerBody<B> {
    body: Pin<Box<B>>,
    handed: Option<Handed>,
    _under_way: UnderWay,
}

impl<B: Body> AnswerBody<B> {
    /// Made on the task that answers.
    pub(crate) fn new(body: B, under_way: UnderWay) -> AnswerBody<B> {
        let handed = STREAM.try_with(Handed::clone).ok();
        if let Some(handed) = &handed {
            // The head of the answer, without which no frame is asked for.
            handed.begin(0);
        }
        AnswerBody { body: Box::pin(body), handed, _under_way: under_way }
    }
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = self.body.as_mut().poll_frame(context);
        if let Some(handed) = &self.handed {
            match &frame {
                Poll::Ready(Some(frame)) => {
                    handed.begin(frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len));
                }
                Poll::Ready(None) | Poll::Pending => handed.set(None),
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2 streams on the process's tasks.
#[derive(Clone)]
pub(crate) struct OnTasks(pub(crate) Tasks);

impl<W: Future<Output: Send> + Send + 'static> Executor<W> for OnTasks {
    fn execute(&self, work: W) {
        let handed = Handed::default();
        self.0.spawn(STREAM.scope(handed.clone(), InTime { work: Box::pin(work), handed, late: None }));
    }
}

/// A stream's task, which ends when its client has been too slow for too long.
struct InTime<W> {
    work: Pin<Box<W>>,
    handed: Handed,
    late: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<W: Future> Future for InTime<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.work.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(until) = self.handed.until() else {
            self.late = None;
            return Poll::Pending;
        };
        if self.late.as_ref().is_none_or(|(of, _)| *of != until) {
            self.late = Some((until, Box::pin(tokio::time::sleep_until(until))));
        }
        let late = self.late.as_mut().map(|(_, late)| late.as_mut().poll(context));
        if late.is_some_and(|late| late.is_ready()) {
            tracing::debug!("a stream ends, for its client does not take what is sent");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
