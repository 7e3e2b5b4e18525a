//! Serves HTTP/1 and HTTP/2 (prior knowledge) on a port, within limits, and stops without breaking an answer.
//!
//! # Problem
//! A server that accepts whatever comes ends when the files run out; one that waits for slow clients is held by them; one
//! that stops at once breaks the answers under way.
//!
//! # Pattern
//! Bounded resources and graceful shutdown: at most so many connections, each with a time to speak and to read; at the end,
//! first no new work, then the old work to its end, then, after a stated patience, the end.
//!
//! # Here
//! [`serve`] gives each connection a slot. When all are taken, an idle or blocked connection makes room
//! (`slots.rs`). Where all are in use, [`RESERVED`] more clients are let in, only to ask whether the process is
//! alive and ready ([`ALWAYS_ANSWERED`]) or to be told that it is full, so that nobody restarts a process that is only busy. What a client may put off
//! is limited in `client_io.rs` and `answer_body.rs`. Connections run on the process's [`Tasks`].
//!
//! # Limits
//! No TLS. Bodies of requests are the handler's to bound. Reserved connections are few, and last [`RESERVED_LIFE`]: a flood of
//! new connections onto a full server delays health checks too.
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use telemetry::trouble::Trouble;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::answer_body::{AnswerBody, OnTasks, PATIENCE};
use crate::client_io::{ClientIo, Patience, Peer};
use crate::slots::{SlotGuard, Slots};
use crate::tasks::Tasks;
use crate::unavailable::unavailable;

/// How much a server may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time; one that is idle makes room for the next.
    pub connections: usize,
    /// How long the head of a request may take, and how long a connection may be silent before one.
    pub head: Duration,
    /// How long requests under way may go on once the process stops.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: CONNECTIONS, head: Duration::from_secs(10), patience: Duration::from_secs(20) }
    }
}

/// The most connections at a time, where the system lets the process open as many files.
pub const CONNECTIONS: usize = 800;
/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: u32 = 32 * 1024;
/// The most requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How much of an answer the system takes before the client does. By itself Linux takes up to 4 MiB, which for each client that does
/// not read is memory, and time to fill and to free it.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How long to wait before accepting again when the system refuses, for instance because files ran out.
const PAUSE: Duration = Duration::from_millis(50);
/// So many connections are let in above the limit, for [`ALWAYS_ANSWERED`] only.
pub const RESERVED: usize = 16;
/// How long such a connection lasts.
pub const RESERVED_LIFE: Duration = Duration::from_secs(2);
/// What is answered however full the server is.
pub const ALWAYS_ANSWERED: [&str; 2] = ["/healthz", "/readyz"];

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
            let limited = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
            match limited.and_then(|()| stream.set_nodelay(true)) {
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

/// Who may stay.
enum Admission {
    /// A client that is served.
    Served(SlotGuard),
    /// One above the limit.
    Reserved(OwnedSemaphorePermit, SlotGuard),
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
        let slots = Slots::new(self.limits.connections);
        let (reserved, beyond) = (Arc::new(Semaphore::new(RESERVED)), Slots::new(RESERVED));
        let (mut refused, mut full) = (Trouble::default(), Trouble::default());
        loop {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(why) => {
                    if refused.is_news(&why.to_string()) {
                        tracing::warn!(%why, "connections cannot be accepted");
                    }
                    // Danger: without a pause this loop would spin while the system is out of files.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if refused.is_over() {
                tracing::info!("connections are accepted again");
            }
            self.say_if_full(&slots, &mut full);
            let admission = match slots.take() {
                Some(slot) => Admission::Served(slot),
                None => {
                    let permit = reserved.clone().acquire_owned().await.expect("nobody closes the semaphore");
                    Admission::Reserved(permit, beyond.take().expect("one slot for each permit"))
                }
            };
            self.serve(stream, admission, graceful, cut, answer.clone());
        }
    }

    fn say_if_full(&self, slots: &Slots, full: &mut Trouble) {
        let connections = self.limits.connections;
        if slots.is_full() && full.is_news("") {
            tracing::warn!(connections, "all connections are taken; idle ones make room");
        } else if slots.has_room() && full.is_over() {
            tracing::info!(connections, "there is room for connections again");
        }
    }

    /// Serves a connection on a task of its own.
    fn serve<S, F, A, B>(
        &self,
        stream: S,
        admission: Admission,
        graceful: &GracefulShutdown,
        cut: &CancellationToken,
        answer: F,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (guard, permit) = match admission {
            Admission::Served(guard) => (guard, None),
            Admission::Reserved(permit, guard) => (guard, Some(permit)),
        };
        let (slot, is_reserved) = (guard.slot.clone(), permit.is_some());
        let greeting = if is_reserved { RESERVED_LIFE } else { self.limits.head };
        let io = ClientIo::new(stream, slot.clone(), Patience { greeting, write: PATIENCE });
        let (peer, evicted) = (io.peer(), slot.evicted.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let under_way = slot.request();
            let on_http_1 = request.version() < Version::HTTP_2;
            request.extensions_mut().insert(if on_http_1 { peer.clone() } else { Peer::unknown() });
            let answer = match is_reserved && !ALWAYS_ANSWERED.contains(&request.uri().path()) {
                true => Err(full(&request)),
                false => Ok(answer(request)),
            };
            async move {
                let response = match answer {
                    Ok(answer) => answer.await.map(Either::Left),
                    Err(refusal) => refusal.map(Either::Right),
                };
                Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, under_way)))
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(io), service).into_owned();
        let (connection, cut) = (graceful.watch(connection), cut.clone());
        self.tasks.spawn(async move {
            let _slot = (guard, permit);
            let connection = evicted.run_until_cancelled(cut.run_until_cancelled(connection));
            let outcome = match is_reserved {
                true => tokio::time::timeout(RESERVED_LIFE, connection).await.ok().flatten(),
                false => connection.await,
            };
            if let Some(Some(Err(why))) = outcome {
                tracing::debug!(why, "a connection broke");
            }
        });
    }
}

/// What a client is told when the server is full.
fn full<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let mut response = unavailable(request.headers(), "full", "all connections are in use");
    if request.version() < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer_body::MOST_MORE;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::sync::watch;
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

    /// A server with two slots whose requests take an hour, and how many have begun.
    async fn busy_server() -> (SocketAddr, Tasks, watch::Receiver<usize>) {
        let limits = Limits { connections: 2, ..Limits::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let (counted, begun) = watch::channel(0);
        let counted = Arc::new(counted);
        let answer = move |request: Request<Incoming>| {
            let counted = counted.clone();
            async move {
                if request.uri().path() == "/" {
                    counted.send_modify(|begun| *begun += 1);
                    tokio::time::sleep(Duration::from_secs(3_600)).await;
                }
                Response::new(Full::new(Bytes::from_static(b"hello")))
            }
        };
        tasks.spawn(serve(listener, tasks.clone(), limits, answer));
        (address, tasks, begun)
    }

    #[tokio::test]
    async fn an_idle_connection_makes_room_for_a_new_one() {
        let (address, _tasks, _) = server(Limits { connections: 2, ..Limits::default() }, Duration::ZERO).await;
        let (silent, _second) = (sent(address, b"").await, sent(address, b"").await);
        assert!(rest(sent(address, LAST_GET).await).await.ends_with("hello"));
        assert_eq!(rest(silent).await, "", "the one that was idle the longest is closed");
    }

    #[tokio::test]
    async fn a_server_that_is_full_says_so_and_still_tells_that_it_is_alive() {
        let (address, _tasks, mut begun) = busy_server().await;
        let _busy = (sent(address, GET).await, sent(address, GET).await);
        begun.wait_for(|begun| *begun == 2).await.unwrap();
        let refused = rest(sent(address, LAST_GET).await).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("all connections are in use"), "{refused}");
        for path in ALWAYS_ANSWERED {
            let get = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
            assert!(rest(sent(address, get.as_bytes()).await).await.ends_with("hello"), "{path}");
        }
    }

    /// Longer than anything here takes.
    const A_WHILE: Duration = Duration::from_secs(10);

    /// The handler waits until its client is gone, and answers whoever only closed its sending side.
    #[tokio::test]
    async fn a_wait_ends_when_its_client_hangs_up_whatever_it_has_sent_before() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let answer = |request: Request<Incoming>| async move {
            let peer = request.extensions().get::<Peer>().unwrap().clone();
            peer.closed().await;
            Response::new(Full::new(Bytes::from_static(b"hello")))
        };
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), answer));
        for more in [b"".as_slice(), b"G", GET, &[b'x'; 100_000]] {
            let mut stream = sent(address, GET).await;
            stream.write_all(more).await.unwrap();
            stream.shutdown().await.unwrap();
            let told = tokio::time::timeout(A_WHILE, rest(stream)).await.expect("the wait ends");
            assert!(told.starts_with("HTTP/1.1 200 ") || more.len() > 1_000, "{} bytes more: {told}", more.len());
        }
        let waiting = sent(address, GET).await;
        let begun = async {
            while tasks.count() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(A_WHILE, begun).await.expect("the server and the one that waits");
        drop(waiting);
        let gone = async {
            while tasks.count() > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(A_WHILE, gone).await.expect("the wait ends with its client");
    }

    const LARGE: usize = 32 << 20;

    async fn server_of_large_answers() -> (SocketAddr, Tasks) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let body = Bytes::from(vec![b'x'; LARGE]);
        let answer = move |_: Request<Incoming>| {
            let body = body.clone();
            async move { Response::new(Full::new(body)) }
        };
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), answer));
        (address, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_closed_in_time() {
        let (address, tasks) = server_of_large_answers().await;
        let _reads_nothing = sent(address, GET).await;
        let started = Instant::now();
        while tasks.count() < 2 {
            tokio::task::yield_now().await;
        }
        while tasks.count() > 1 {
            assert!(started.elapsed() < 3 * PATIENCE, "it keeps its slot");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(started.elapsed() >= PATIENCE, "{:?}", started.elapsed());
    }

    /// What the system takes on top is memory that a client holds without reading.
    #[tokio::test]
    async fn a_client_that_does_not_read_holds_a_bounded_part_of_its_answer() {
        const FRAME: usize = 16 << 10;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks, handed) =
            (listener.local_addr().unwrap(), Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let counted = handed.clone();
        let answer = move |_: Request<Incoming>| {
            let counted = counted.clone();
            let frames = futures::stream::repeat_with(move || {
                counted.fetch_add(FRAME, Ordering::SeqCst);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; FRAME])))
            });
            async move { Response::new(StreamBody::new(frames)) }
        };
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), answer));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        // It reads at first, which makes Linux expect more of it.
        let mut taken = vec![0; 32 << 20];
        stream.read_exact(&mut taken).await.unwrap();
        let (mut before, mut equal) = (0, 0);
        while equal < 5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = handed.load(Ordering::SeqCst);
            (equal, before) = (if now == before { equal + 1 } else { 0 }, now);
        }
        let held = before - taken.len();
        assert!((64 << 10..1 << 20).contains(&held), "{held} bytes");
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_all_of_a_large_answer() {
        let (address, _tasks) = server_of_large_answers().await;
        assert!(rest(sent(address, LAST_GET).await).await.len() > LARGE);
    }

    /// A window that stays shut stops one stream of a connection, which then ends; the connection goes on.
    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_window_stays_shut_ends_in_time_and_its_connection_does_not() {
        let (address, tasks) = server_of_large_answers().await;
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http2::Builder::new(OnTasks(Tasks::default()))
            .initial_stream_window_size(0)
            .handshake(stream)
            .await
            .unwrap();
        tasks.spawn(connection);
        let request = || Request::get("http://shop/").body(Full::<Bytes>::default()).unwrap();
        for _ in 0..2 {
            let (started, answer) = (Instant::now(), client.send_request(request()).await.unwrap());
            let body = answer.into_body().collect();
            let ended = tokio::time::timeout(2 * (PATIENCE + MOST_MORE), body).await.expect("it ends");
            assert!(ended.is_err() && started.elapsed() >= PATIENCE + MOST_MORE, "{:?}", started.elapsed());
        }
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
