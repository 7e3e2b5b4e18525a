//! A client's connection as hyper reads and writes it, with a limit on everything that a client can put off.
//!
//! # Problem
//! A client that says nothing, reads nothing, or has hung up costs as much as one that is served. Hyper limits the time for a
//! head only once it knows the HTTP version, has no write timeout, and does not read while an answer is made, so that a
//! request which waits never learns that nobody waits for it.
//!
//! # Pattern
//! Read timeout, write timeout, and disconnect detection.
//!
//! # Here
//! [`ClientIo`] closes a connection whose first bytes do not come in time, and one on which the system takes nothing more of an answer
//! for [`Patience::write`]. Linux takes more once a third of its buffer is free, so that a client which reads byte by byte is closed
//! too: with the buffer of `http_server.rs` it has to read some 8 kB a second. [`Peer::closed`] is how a handler that waits on HTTP/1 learns that the client has closed its side: it reads ahead, into a bounded buffer which
//! hyper reads from afterwards.
//!
//! # Limits
//! A client that closes only its sending side cannot be told from one that is gone. So a short answer is still sent, and only
//! waits and event streams end. On HTTP/2 a closed connection ends its requests, which hyper sees to.
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::slots::Slot;

/// The length of the preface that tells HTTP/2 from HTTP/1, in bytes.
const PREFACE_BYTES: usize = 24;
/// The most that is read ahead. A client that pipelines more behind a request that waits is not waited for.
const READ_AHEAD_BYTES: usize = 8 * 1024;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For its first bytes.
    pub(crate) greeting: Duration,
    /// To take more of an answer.
    pub(crate) write: Duration,
}

/// A connection. Clones are the same.
pub(crate) struct ClientIo<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    slot: Arc<Slot>,
    patience: Patience,
    greeting: Option<Greeting>,
    blocked: Option<Blocked>,
    /// Read for [`Peer::closed`], and not yet by hyper.
    ahead: Vec<u8>,
    ended: bool,
}

/// The first bytes, which must come in time.
struct Greeting {
    missing: usize,
    late: Pin<Box<Sleep>>,
}

/// An answer that the client does not take as fast as it is written.
struct Blocked {
    /// When something of it was taken last.
    since: Instant,
    late: Pin<Box<Sleep>>,
}

impl<S> ClientIo<S> {
    pub(crate) fn new(stream: S, slot: Arc<Slot>, patience: Patience) -> ClientIo<S> {
        let late = Box::pin(tokio::time::sleep(patience.greeting));
        let greeting = Some(Greeting { missing: PREFACE_BYTES, late });
        ClientIo(Arc::new(Mutex::new(Inner {
            stream,
            slot,
            patience,
            greeting,
            blocked: None,
            ahead: Vec::new(),
            ended: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin + Send + 'static> ClientIo<S> {
    /// The client at the other end, for handlers.
    pub(crate) fn peer(&self) -> Peer {
        Peer(Some(self.0.clone()))
    }
}

/// The client that a request came from: an extension of the request.
#[derive(Clone)]
pub struct Peer(Option<Arc<dyn PollClosed>>);

trait PollClosed: Send + Sync {
    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()>;
}

impl Peer {
    /// A client whose requests end with its connection, or one that there is none of.
    #[must_use]
    pub fn unknown() -> Peer {
        Peer(None)
    }

    /// Resolves when the client has closed its side of the connection, or broken it. Only in the future or the body that
    /// answers the request: hyper and this wait for the same bytes, as one task.
    pub async fn closed(&self) {
        match &self.0 {
            Some(connection) => poll_fn(|context| connection.poll_closed(context)).await,
            None => std::future::pending().await,
        }
    }
}

impl<S: AsyncRead + Unpin + Send> PollClosed for Mutex<Inner<S>> {
    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        while !inner.ended && inner.ahead.len() < READ_AHEAD_BYTES {
            let mut bytes = [0; 1_024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut inner.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => inner.ahead.extend_from_slice(buffer.filled()),
                Ok(()) | Err(_) => inner.ended = true,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> Inner<S> {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => match &mut self.greeting {
                None => Poll::Pending,
                Some(greeting) => {
                    ready!(greeting.late.as_mut().poll(context));
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")))
                }
            },
            Poll::Ready(outcome) => {
                if let Some(greeting) = &mut self.greeting {
                    greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
                    if greeting.missing == 0 {
                        self.greeting = None;
                    }
                }
                Poll::Ready(outcome)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// What became of a write of `offered` bytes: an error once nothing has been taken for too long.
    fn paced(
        &mut self,
        context: &mut Context<'_>,
        offered: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => {
                let now = Instant::now();
                let write = self.patience.write;
                let blocked = self.blocked.get_or_insert_with(|| Blocked {
                    since: now,
                    late: Box::pin(tokio::time::sleep_until(now + write)),
                });
                self.slot.blocked(blocked.since);
                ready!(blocked.late.as_mut().poll(context));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Ready(Ok(count)) => {
                if *count == offered {
                    if self.blocked.take().is_some() {
                        self.slot.unblocked();
                    }
                } else if let Some(blocked) = &mut self.blocked {
                    blocked.since = Instant::now();
                    blocked.late.as_mut().reset(blocked.since + self.patience.write);
                }
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let written = Pin::new(&mut inner.stream).poll_write(context, bytes);
        inner.paced(context, bytes.len(), written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let written = Pin::new(&mut inner.stream).poll_write_vectored(context, slices);
        inner.paced(context, slices.iter().map(|slice| slice.len()).sum(), written)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// The ends of a connection over which an answer without end is sent, and how long it was until it broke.
    fn answering(slot: &Arc<Slot>) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
        let (client, server) = duplex(1_024);
        let mut io = ClientIo::new(server, slot.clone(), Patience { greeting: PATIENCE, write: PATIENCE });
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let broken = tokio::spawn(async move {
            let started = Instant::now();
            while io.write_all(&[b'x'; 1_000]).await.is_ok() {}
            started.elapsed()
        });
        (client, broken)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_closed_however_much_it_took_before() {
        let guard = Slots::new(1).take().unwrap();
        let (mut client, broken) = answering(&guard.slot);
        client.read_exact(&mut vec![0; 20 << 20]).await.unwrap();
        assert_eq!(broken.await.unwrap().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_closed_and_keeps_its_slot() {
        let slots = Slots::new(1);
        let guard = slots.take().unwrap();
        let _under_way = guard.slot.request();
        let (mut client, broken) = answering(&guard.slot);
        for _ in 0..1_000 {
            client.read_exact(&mut [0; 100]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(slots.take().is_none(), "it is not blocked");
        }
        assert!(!broken.is_finished());
    }
}
