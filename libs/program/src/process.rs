//! A process from its start to its end.
//!
//! # Problem
//! A process that ends because its database is not there yet is started again and again, and says why in a log that nobody
//! reads; one that is stopped in the middle of its work leaves others to guess.
//!
//! # Pattern
//! Liveness apart from readiness, and a graceful shutdown.
//!
//! # Here
//! [`run`] listens first. Until its services are open it answers `/healthz`, and `/readyz` with what is missing; calls are
//! answered UNAVAILABLE, and certainly did nothing. SIGTERM, SIGHUP or Ctrl-C makes it unready, then no new work begins, what is under
//! way gets [`DRAIN`] to come to its end, and the exit code says whether it did ([`CUT_OFF`]). A second signal ends it at once. A
//! process that clients choose by its readiness goes on answering for a while before it stops ([`Settings::linger`]).
//!
//! # Limits
//! It listens on one port, without TLS.
use std::future::{Future, poll_fn};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use clap::builder::BoolishValueParser;
use futures::FutureExt;
use futures::future::{Either, select};
use host::Process;
use host::http_server::{self, Limits};
use host::network;
use host::transport::Transport;
use http::{Request, Response};
use hyper::body::Incoming;
use telemetry::logs::{self, Format};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::body::Body;

use crate::{open_files, pages};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work under way may go on once the process was told to stop.
pub const DRAIN: Duration = Duration::from_secs(25);
/// How a process ends that could not be opened: a port that is taken, a folder that cannot be used. 2 are wrong arguments.
pub const NOT_OPENED: u8 = 1;
/// How a process ends whose work did not come to its end in [`DRAIN`]. Nothing is lost: it goes on at the next start.
pub const CUT_OFF: u8 = 3;

/// How long a process may take to say whether it is ready.
const CHECK: Duration = Duration::from_secs(3);
/// The part of the name under which a process says that it is not open.
const PART: &str = "process";

/// Settings of every program.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Which log lines are written to standard error, such as `warn` or `info,saga=debug`
    #[arg(long, env = "JANGTEO_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// Log lines as JSON, one object a line
    #[arg(long, env = "JANGTEO_LOG_JSON", value_parser = BoolishValueParser::new())]
    pub log_json: bool,

    /// Ask the process that listens there whether it is ready, and end with 0 if it is, with 1 and what is missing if not
    #[arg(long)]
    pub check: bool,

    /// How long it goes on answering once it was told by SIGTERM or SIGHUP to stop, and is not ready any more: whoever sends it requests
    /// looks elsewhere meanwhile.
    #[arg(skip)]
    pub linger: Duration,
}

/// An answer, once it is known.
pub type Answered = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
/// What answers requests. The body is tonic's, which holds any other.
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> Answered + Send + Sync>;

/// What a process is once it is open.
pub struct Opened {
    /// Answers requests.
    pub handler: Handler,
    /// What is told on standard output as soon as requests are answered.
    pub greeting: String,
}

/// A handler over a function that answers with whatever body.
pub fn handler<F, A, B>(answer: F) -> Handler
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Arc::new(move |request| answer(request).map(|answer| answer.map(Body::new)).boxed())
}

/// A process that answers the calls of others by its services, each with its full name in the .proto files.
pub fn services<const N: usize>(process: &Process, services: [(&'static str, Transport); N]) -> Opened {
    let (process, answer) = (process.clone(), network::services(services));
    let handler: Handler = Arc::new(move |request| match pages::at(&process, &request) {
        Some(page) => async { page }.boxed(),
        None => answer(request),
    });
    Opened { handler, greeting: String::new() }
}

/// Runs a process until it is told to stop: opens it with `open`, which gets the process and where it listens, and serves.
/// What `open` waits for, it says in the process's health.
pub fn run<F, O>(settings: &Settings, address: SocketAddr, open: F) -> ExitCode
where
    F: FnOnce(Process, SocketAddr) -> O,
    O: Future<Output = anyhow::Result<Opened>>,
{
    if settings.check {
        return on_a_runtime(check(address));
    }
    on_a_runtime(serve(settings, address, open))
}

/// Runs work on a runtime of its own; the exit code is that of the work, or 1 and a sentence if it failed.
pub fn on_a_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(work);
            if matches!(outcome, Ok(code) if code == ExitCode::from(CUT_OFF)) {
                // What blocks is not waited for.
                runtime.shutdown_background();
            }
            outcome
        }
        Err(why) => Err(anyhow!(why).context("the runtime cannot be started")),
    };
    outcome.unwrap_or_else(|why| {
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(std::io::stderr(), "error: {why:#}");
        ExitCode::from(NOT_OPENED)
    })
}

/// Asks a process on this machine whether it is ready.
async fn check(address: SocketAddr) -> anyhow::Result<ExitCode> {
    // A process that listens everywhere is asked at home.
    let host = if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
    let address = SocketAddr::new(host, address.port());
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer =
        tokio::time::timeout(CHECK, asked).await.with_context(|| format!("{address} does not answer in time"))?;
    let answer = answer.with_context(|| format!("{address} does not answer"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, _)) if head.starts_with("HTTP/1.1 200 ") => Ok(ExitCode::SUCCESS),
        _ => Err(anyhow!("{address} is not ready: {answer}")),
    }
}

async fn serve<F, O>(settings: &Settings, address: SocketAddr, open: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(Process, SocketAddr) -> O,
    O: Future<Output = anyhow::Result<Opened>>,
{
    let format = if settings.log_json { Format::Json } else { Format::Text };
    let _written_to_the_end = logs::init(&settings.log, format).map_err(|why| anyhow!(why))?;
    let connections = open_files::connections()?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))?;
    let address = listener.local_addr()?;
    let process = Process { connections, ..Process::on_this_machine() };
    // Before anybody can know that it is there: whoever knows may stop it.
    let mut stop = StopSignals::listen()?;
    process.health.missing(PART, "it is starting");
    let opened = Arc::new(OnceLock::<Handler>::new());
    let answer = answering(process.clone(), opened.clone());
    let limits = Limits { connections, ..Limits::default() };
    let served = process.tasks.spawn(http_server::serve(listener, process.tasks.clone(), limits, answer));

    let opening = async {
        let Opened { handler, greeting } = open(process.clone(), address).await?;
        // Nobody else sets it.
        let _ = opened.set(handler);
        process.health.ready(PART);
        // A closed standard output is no reason to close.
        let _ = std::io::stdout().write_all(greeting.as_bytes());
        tracing::info!(%address, "open");
        anyhow::Ok(())
    };
    let signal = until_told_to_stop(opening, &mut stop).await?;
    let linger = if signal == SignalKind::interrupt() { Duration::ZERO } else { settings.linger };
    let ended = async {
        let code = end(&process, linger).await;
        served.await?;
        Ok(code)
    };
    match select(std::pin::pin!(ended), std::pin::pin!(stop.next())).await {
        Either::Left((code, _)) => code,
        Either::Right(_) => {
            tracing::warn!("told to stop again: work is cut off; it goes on at the next start");
            Ok(ExitCode::from(CUT_OFF))
        }
    }
}

/// Opens, and stays open until a signal comes, which may be before.
async fn until_told_to_stop(
    opening: impl Future<Output = anyhow::Result<()>>,
    stop: &mut StopSignals,
) -> anyhow::Result<SignalKind> {
    match select(std::pin::pin!(opening), std::pin::pin!(stop.next())).await {
        Either::Left((outcome, _)) => outcome?,
        Either::Right((signal, _)) => {
            tracing::info!("told to stop before it was open");
            return Ok(signal);
        }
    }
    Ok(stop.next().await)
}

/// Lets work come to its end.
async fn end(process: &Process, linger: Duration) -> ExitCode {
    process.health.missing(PART, "it is stopping");
    let (linger_ms, at_most_s) = (linger.as_millis(), DRAIN.as_secs());
    tracing::info!(linger_ms, at_most_s, "stopping; Ctrl-C or a signal ends it at once");
    tokio::time::sleep(linger).await;
    if process.tasks.drain(DRAIN).await {
        return ExitCode::SUCCESS;
    }
    tracing::warn!("some work did not come to its end; it goes on at the next start");
    ExitCode::from(CUT_OFF)
}

/// Answers by what was opened; before that, with pages and refusals.
fn answering(
    process: Process,
    opened: Arc<OnceLock<Handler>>,
) -> impl Fn(Request<Incoming>) -> Answered + Clone + Send + Sync + 'static {
    move |request| match opened.get() {
        Some(handler) => handler(request),
        None => {
            let page = pages::at(&process, &request).unwrap_or_else(|| pages::starting(&request));
            async { page }.boxed()
        }
    }
}

/// The signals that tell a process to stop.
struct StopSignals([(SignalKind, Signal); 3]);

impl StopSignals {
    /// Listens from here on.
    fn listen() -> anyhow::Result<StopSignals> {
        let listen = |kind| Ok::<_, std::io::Error>((kind, signal(kind)?));
        // A terminal that is closed hangs up.
        let [terminate, hang_up, interrupt] =
            [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(listen);
        Ok(StopSignals([terminate?, hang_up?, interrupt?]))
    }

    /// The next one.
    async fn next(&mut self) -> SignalKind {
        poll_fn(|context| {
            let told =
                self.0.iter_mut().find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(*kind));
            told.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
