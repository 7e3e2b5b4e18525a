//! Serves HTTP/1 and HTTP/2 (prior knowledge) on a port, within limits, and stops without breaking an answer.
//!
//! # Problem
//! A server that accepts whatever comes ends when the files run out; one that waits for slow clients is held by them; one
//! that stops at once breaks the answers under way.
//!
//! # Pattern
//! Bounded resources and graceful shutdown: at most so many connections, each with a time to speak; at the end, first no
//! new work, then the old work to its end, then, after a stated patience, the end.
//!
//! # Here
//! [`serve`] accepts only when a place is free; who comes too early waits in the backlog of the kernel. Heads of requests
//! must arrive in time, a silent connection is closed. Connections run on the process's [`Tasks`].
//!
//! # Limits
//! No TLS. Bodies are the handler's to bound. A healthy HTTP/2 connection may stay idle for ever and keeps its place.
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// How much a server may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time; more wait in the kernel's backlog.
    pub connections: usize,
    /// How long the head of a request may take, and how long a connection may be silent before one.
    pub head: Duration,
    /// How long requests under way may go on once the process stops.
    pub patience: Duration,
}

impl Default for Limits {
    /// 800 connections, for many systems allow 1,024 open files.
    fn default() -> Limits {
        Limits { connections: 800, head: Duration::from_secs(10), patience: Duration::from_secs(20) }
    }
}

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: u32 = 32 * 1024;
/// The most requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How long to wait before accepting again when the system refuses, for instance because files ran out.
const PAUSE: Duration = Duration::from_millis(50);
/// The length of the preface that tells HTTP/2 from HTTP/1, in bytes.
const PREFACE_BYTES: usize = 24;

/// Where connections come from: a TCP port, or a simulated one.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        loop {
            let (stream, _) = TcpListener::accept(self).await?;
            match stream.set_nodelay(true) {
                Ok(()) => return Ok(stream),
                Err(why) => tracing::debug!(%why, "a connection went at once"),
            }
        }
    }
}

/// Answers every request on `listener` with `answer`, until the process stops; then lets requests under way end, for at
/// most `limits.patience`, and returns.
///
/// An answer is dropped with its connection, so work that must go on belongs on `tasks`.
pub async fn serve<L, F, A, B>(listener: L, tasks: Tasks, limits: Limits, answer: F)
where
    L: Listener,
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let server = Server { tasks: tasks.clone(), limits, builder: builder(&tasks, limits) };
    let (graceful, cut) = (GracefulShutdown::new(), CancellationToken::new());
    {
        let mut accepting = pin!(server.accept(listener, &graceful, &cut, answer));
        let mut stopping = pin!(tasks.stopping());
        let accepting_until_stop = poll_fn(|context| match stopping.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => accepting.as_mut().poll(context),
        });
        accepting_until_stop.await; // and with this the listener closes
    }
    if tokio::time::timeout(limits.patience, graceful.shutdown()).await.is_err() {
        tracing::warn!(patience_ms = limits.patience.as_millis(), "connections were cut off");
    }
    cut.cancel();
}

struct Server {
    tasks: Tasks,
    limits: Limits,
    builder: Builder<OnTasks>,
}

fn builder(tasks: &Tasks, limits: Limits) -> Builder<OnTasks> {
    let mut builder = Builder::new(OnTasks(tasks.clone()));
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(limits.head);
    // A client may close its side once it has sent its request, and still wants the answer.
    http1.half_close(true).max_buf_size(MAX_HEAD_BYTES as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_header_list_size(MAX_HEAD_BYTES).max_concurrent_streams(MAX_STREAMS);
    // Finds peers that vanished without a word.
    http2.keep_alive_interval(limits.head).keep_alive_timeout(limits.head);
    builder
}

impl Server {
    /// Accepts connections for ever.
    async fn accept<L, F, A, B>(&self, mut listener: L, graceful: &GracefulShutdown, cut: &CancellationToken, answer: F)
    where
        L: Listener,
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let place = places.clone().acquire_owned().await.expect("nobody closes the semaphore");
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(why) => {
                    // Danger: without a pause this loop would spin while the system is out of files.
                    tracing::warn!(%why, "a connection cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let stream = TokioIo::new(Greeting::new(stream, self.limits.head));
            let connection = self.builder.serve_connection(stream, service).into_owned();
            let (connection, cut) = (graceful.watch(connection), cut.clone());
            self.tasks.spawn(async move {
                let _place = place;
                if let Some(Err(why)) = cut.run_until_cancelled(connection).await {
                    tracing::debug!(why, "a connection broke");
                }
            });
        }
    }
}

/// Runs HTTP/2 streams on the process's tasks.
#[derive(Clone)]
pub(crate) struct OnTasks(pub(crate) Tasks);

impl<W: Future<Output: Send> + Send + 'static> Executor<W> for OnTasks {
    fn execute(&self, work: W) {
        self.0.spawn(work);
    }
}

/// A connection that must begin to speak in time. Hyper's own clock starts only once the version is known, and the
/// version is not known before the first bytes: a silent client would hold its place for ever.
struct Greeting<S> {
    stream: S,
    missing: usize,
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Greeting<S> {
    fn new(stream: S, patience: Duration) -> Greeting<S> {
        Greeting { stream, missing: PREFACE_BYTES, late: Some(Box::pin(tokio::time::sleep(patience))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => match &mut self.late {
                None => Poll::Pending,
                Some(late) => {
                    ready!(late.as_mut().poll(context));
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")))
                }
            },
            Poll::Ready(outcome) => {
                self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
                if self.missing == 0 {
                    self.late = None;
                }
                Poll::Ready(outcome)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeting<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    const LAST_GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";

    /// A server that answers `hello` after `work`.
    async fn server(limits: Limits, work: Duration) -> (SocketAddr, Tasks, JoinHandle<()>) {
        let (listener, tasks) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Tasks::default());
        let address = listener.local_addr().unwrap();
        let running = tasks.spawn(serve(listener, tasks.clone(), limits, move |_| async move {
            tokio::time::sleep(work).await;
            Response::new(Full::new(Bytes::from_static(b"hello")))
        }));
        (address, tasks, running)
    }

    async fn sent(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// All that comes until the server closes.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_request_is_answered_also_when_the_client_has_closed_its_side() {
        let (address, _tasks, _) = server(Limits::default(), Duration::from_millis(20)).await;
        let mut stream = sent(address, GET).await;
        stream.shutdown().await.unwrap();
        assert!(rest(stream).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn http_2_is_spoken_to_who_begins_with_its_preface() {
        let (address, tasks, _) = server(Limits::default(), Duration::ZERO).await;
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(OnTasks(tasks.clone()), stream).await.unwrap();
        tasks.spawn(connection);
        let request = Request::get("http://shop/").body(Full::<Bytes>::default()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_not_enough_is_closed_in_time() {
        let (address, _tasks, _) = server(Limits::default(), Duration::ZERO).await;
        for begun in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET / HTTP/1.1\r\nHost: sh"] {
            let started = Instant::now();
            let closed = tokio::time::timeout(Duration::from_secs(60), rest(sent(address, begun).await)).await;
            assert!(closed.is_ok(), "{begun:?} keeps its place");
            assert!((9..12).contains(&started.elapsed().as_secs()), "{begun:?} after {:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        let (address, _tasks, _) = server(Limits { connections: 2, ..Limits::default() }, Duration::ZERO).await;
        let (first, _second) = (sent(address, GET).await, sent(address, GET).await);
        let third = rest(sent(address, LAST_GET).await);
        let mut third = pin!(third);
        let early = tokio::time::timeout(Duration::from_millis(200), third.as_mut()).await;
        assert!(early.is_err(), "no place is free, and yet: {early:?}");
        drop(first);
        assert!(third.await.ends_with("hello"));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once_and_lets_answers_under_way_end() {
        let (address, tasks, running) = server(Limits::default(), Duration::from_millis(300)).await;
        let (idle, busy) = (sent(address, b"").await, sent(address, GET).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        assert!(tasks.drain(Duration::from_secs(5)).await, "everything came to its end");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        running.await.unwrap();
        assert!(rest(busy).await.ends_with("hello"));
        assert_eq!(rest(idle).await, "");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    }

    #[tokio::test]
    async fn a_stop_cuts_off_what_does_not_end_in_time() {
        let limits = Limits { patience: Duration::from_millis(100), ..Limits::default() };
        let (address, tasks, running) = server(limits, Duration::from_secs(3_600)).await;
        let busy = sent(address, GET).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(tasks.drain(Duration::from_secs(5)).await);
        running.await.unwrap();
        assert_eq!(rest(busy).await, "");
    }
}
