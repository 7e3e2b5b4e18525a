//! gRPC between processes: a [`Transport`] to other processes, and the services of this one for theirs.
//!
//! # Problem
//! A peer that vanished without a word is waited for as long as the system likes, and nobody can tell whether what it was
//! asked for happened.
//!
//! # Pattern
//! Keep-alive in both directions, a connection pool, and errors that say whether the call left.
//!
//! # Here
//! [`to`] is a transport over HTTP/2 to one address, through any connector: TCP, or a simulated network; what stands above it
//! over several is in [`crate::replicas`]. It tells a call that was not sent ([`was_sent`]), or that the peer did not begin
//! ([`NOTHING_DONE`]), from one that was lost. A connection carries up to [`CALLS`] calls at a time; when all are full, a further one is opened,
//! so that calls which wait or follow never hold up others. [`services`] answers requests by the transports of this process, so that layers
//! and limits are the same for whoever calls.
//!
//! # Limits
//! No TLS.
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use resilience::deadline::AtClient;
use telemetry::trace::Trace;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use crate::call::TRACEPARENT;
use crate::error::Refusal;
use crate::transport::{LONGEST_CALL, Transport};
use crate::unavailable::NOTHING_DONE;

/// How often a peer is asked whether it is there, and how long its answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// So many calls a connection carries at a time: fewer than its peer's limit, at which a call would wait unseen.
const CALLS: usize = 100;
/// The most connections to one process.
const MAX_CONNECTIONS: usize = 32;
/// The most headers of an answer, as HTTP/2 counts them: a name, a value, and so much for each.
const MOST_HEADERS: usize = 12 << 10;
const HEADER: usize = 32;
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// A transport to the process at `authority`, such as `127.0.0.1:50051`. It connects when it is first needed, and again
/// whenever the connection is lost.
pub fn to<C>(connector: C, authority: Authority) -> Transport
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + hyper_util::client::legacy::connect::Connection + Unpin + Send + 'static,
    C::Future: Unpin + Send + 'static,
    C::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    let pool = Arc::new(Pool { connector: InTime(connector), connections: Mutex::default() });
    let send = tower::service_fn(move |mut request: Request<Body>| {
        let (Connection { client, calls }, authority) = (pool.pick(), authority.clone());
        async move {
            let mut target = request.uri().clone().into_parts();
            (target.scheme, target.authority) = (Some(Scheme::HTTP), Some(authority.clone()));
            *request.uri_mut() = Uri::from_parts(target).map_err(|why| Status::internal(why.to_string()))?;
            let lost = |why: hyper_util::client::legacy::Error| {
                if why.is_connect() {
                    return not_sent(format!("{authority} cannot be reached ({why}); nothing was sent"));
                }
                let unknown = "whether the call took effect is unknown";
                Status::unavailable(format!("{authority} did not answer ({why}); {unknown}"))
            };
            let answer = client.request(request).await.map_err(lost)?;
            match Status::from_header_map(answer.headers()) {
                Some(refusal) if answer.headers().contains_key(NOTHING_DONE) => {
                    Err(not_sent(refusal.message().to_owned()))
                }
                _ => Ok(answer.map(|body| {
                    // The call is on its connection until its answer has been read.
                    Body::new(body.map_frame(move |frame| {
                        let _on_the_connection = &calls;
                        frame
                    }))
                })),
            }
        }
    });
    BoxCloneSyncService::new(AtClient::new(send, LONGEST_CALL))
}

/// The connections to one process.
struct Pool<C> {
    connector: InTime<C>,
    connections: Mutex<Vec<Connection<C>>>,
}

/// One connection, which is made when it is first needed.
#[derive(Clone)]
struct Connection<C> {
    client: Client<InTime<C>, Body>,
    /// Held by each call that is on it.
    calls: Arc<()>,
}

impl<C> Pool<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + hyper_util::client::legacy::connect::Connection + Unpin + Send + 'static,
    C::Future: Unpin + Send + 'static,
    C::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    /// The first connection with room, a further one, or the one with the fewest calls. The first ones are preferred, so that the
    /// others fall idle and are closed.
    fn pick(&self) -> Connection<C> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = |connection: &Connection<C>| Arc::strong_count(&connection.calls) - 1;
        if let Some(connection) = connections.iter().find(|connection| calls(connection) < CALLS) {
            return connection.clone();
        }
        if connections.len() >= MAX_CONNECTIONS
            && let Some(connection) = connections.iter().min_by_key(|connection| calls(connection))
        {
            return connection.clone();
        }
        // Danger: not on the process's tasks. A connection lives as long as both ends do, and a drain would wait for it; what
        // is asked over it is waited for by whoever asks.
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(true).timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        builder
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true);
        let connection = Connection { client: builder.build(self.connector.clone()), calls: Arc::default() };
        connections.push(connection.clone());
        connection
    }
}

/// Marks a status: the call certainly did not reach anybody.
#[derive(Debug, thiserror::Error)]
#[error("nothing was sent")]
struct NotSent;

/// UNAVAILABLE, and certainly without effect.
pub(crate) fn not_sent(message: String) -> Status {
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(NotSent));
    status
}

/// Whether a call that was answered so may have reached somebody.
#[must_use]
pub fn was_sent(status: &Status) -> bool {
    !status.source().is_some_and(|source| source.is::<NotSent>())
}

/// A connector that gives up in time.
#[derive(Clone)]
struct InTime<C>(C);

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = C::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connected = tokio::time::timeout(CONNECT, self.0.call(target));
        Box::pin(async move { connected.await.map_err(|_| "it did not accept in time")?.map_err(Into::into) })
    }
}

/// Answers requests from other processes by the services of this one, each with its full name in the .proto files.
pub fn services<const N: usize>(
    services: [(&'static str, Transport); N],
) -> impl Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Clone + Send + Sync + 'static
{
    let services: Arc<[(&'static str, Transport)]> = services.into();
    move |request| {
        let asked = request.uri().path().split('/').nth(1).unwrap_or_default();
        let service = services.iter().find(|(name, _)| *name == asked).map(|(_, transport)| transport.clone());
        let traceparent = request.headers().get(TRACEPARENT).and_then(|value| Trace::parse(value.to_str().ok()?));
        let trace_id = traceparent.map(|trace| format!("{:032x}", trace.trace_id));
        // What is logged on the way to the answer belongs to the caller's trace, as it does in one process.
        let span = tracing::info_span!(parent: None, "grpc", trace_id);
        let request = request.map(Body::new);
        let answer = async move {
            let answer = match service {
                Some(service) => service.oneshot(request).await,
                None => Err(Status::unimplemented("no such service is here")),
            };
            let mut answer = answer.unwrap_or_else(Status::into_http);
            fit(answer.headers_mut());
            answer.map(|body| {
                Body::new(body.map_frame(|mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        fit(trailers);
                    }
                    frame
                }))
            })
        };
        Box::pin(answer.instrument(span))
    }
}

/// Cuts the status among headers or trailers if they are more than a peer takes. What a [`Refusal`] becomes fits already; this is for
/// what others made.
///
/// Danger: a peer to which too much is sent closes the connection, with all calls that are on it.
fn fit(headers: &mut HeaderMap) {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum();
    if bytes <= MOST_HEADERS {
        return;
    }
    if let Some(status) = Status::from_header_map(headers) {
        headers.remove("grpc-message");
        headers.remove("grpc-status-details-bin");
        // What it is cut to can be written.
        let _ = Status::from(Refusal::of(&status)).add_header(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_server::{Limits, serve};
    use crate::replicas;
    use crate::tasks::Tasks;
    use crate::transport::in_process;
    use hyper_util::client::legacy::connect::HttpConnector;
    use resilience::deadline::Deadline;
    use telemetry::metrics::{Metrics, Red};
    use tokio::net::TcpListener;
    use tonic::Code;

    const SERVICE: &str = "shop.test.v1.TestService";

    /// A process that answers every call with its name, after so long.
    async fn process(tasks: &Tasks, name: &'static str, after: Duration) -> Authority {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tower::service_fn(move |_: Request<Body>| async move {
            tokio::time::sleep(after).await;
            Ok::<_, std::convert::Infallible>(Response::builder().header("name", name).body(Body::empty()).unwrap())
        });
        let transport = in_process(server, Red::new(&Metrics::default(), "grpc"));
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), services([(SERVICE, transport)])));
        address.parse().unwrap()
    }

    async fn asked(transport: &Transport, service: &str, patience: Duration) -> Result<String, Code> {
        let request = Request::post(format!("http://shop/{service}/Ask")).header("content-type", "application/grpc");
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Deadline::after(patience));
        let answer = transport.clone().oneshot(request).await.map_err(|status| status.code())?;
        match Status::from_header_map(answer.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status.code()),
            _ => Ok(answer.headers()["name"].to_str().unwrap().to_owned()),
        }
    }

    #[tokio::test]
    async fn replicas_are_asked_in_turn_and_one_that_is_gone_is_passed_over() {
        let tasks = Tasks::default();
        let (one, two) = (process(&tasks, "one", Duration::ZERO).await, process(&tasks, "two", Duration::ZERO).await);
        let transport = replicas::by_name(&tasks, &format!("{one},127.0.0.1:1,{two}")).unwrap();
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(asked(&transport, SERVICE, Duration::from_secs(5)).await.unwrap());
        }
        assert!(answers.contains(&"one".to_owned()) && answers.contains(&"two".to_owned()), "{answers:?}");
        let nobody = to(HttpConnector::new(), "127.0.0.1:1".parse().unwrap());
        let mut request = Request::post(format!("http://shop/{SERVICE}/Ask")).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Deadline::after(Duration::from_secs(5)));
        let refusal = nobody.oneshot(request).await.unwrap_err();
        assert!(!was_sent(&refusal), "{refusal}");
    }

    /// Calls that wait, or follow a stream, as many as a gateway admits.
    #[tokio::test]
    async fn however_many_calls_wait_another_is_answered() {
        let tasks = Tasks::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let waiting = Arc::new(tokio::sync::Semaphore::new(0));
        let waits = waiting.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            let waits = waits.clone();
            async move {
                if request.uri().path().ends_with("/Wait") {
                    waits.add_permits(1);
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(Response::builder().header("name", "it").body(Body::empty()).unwrap())
            }
        });
        let transport = in_process(server, Red::new(&Metrics::default(), "grpc"));
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), services([(SERVICE, transport)])));
        let transport = to(HttpConnector::new(), address.parse().unwrap());
        for _ in 0..300 {
            let transport = transport.clone();
            tasks.spawn_until_stop(async move {
                let mut request = Request::post(format!("http://shop/{SERVICE}/Wait")).body(Body::empty()).unwrap();
                request.extensions_mut().insert(Deadline::after(Duration::from_secs(50)));
                let _ = transport.oneshot(request).await;
            });
        }
        let _all =
            tokio::time::timeout(Duration::from_secs(20), waiting.acquire_many(300)).await.expect("all have come");
        assert_eq!(asked(&transport, SERVICE, Duration::from_secs(5)).await.as_deref(), Ok("it"));
    }

    /// A refusal that quotes what it was sent, or that nobody bounded: whoever shares its connection must not notice.
    #[tokio::test]
    async fn a_refusal_of_any_length_is_answered_and_touches_no_other_call() {
        let tasks = Tasks::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tower::service_fn(|request: Request<Body>| async move {
            let long = "장".repeat(15_000);
            let answer = match request.uri().path().rsplit('/').next().unwrap() {
                "Refuse" => Status::from(Refusal::invalid("currency", long.clone()).fact("currency", long)).into_http(),
                "Status" => Status::invalid_argument(long).into_http(),
                "Stream" => {
                    let mut trailers = http::HeaderMap::new();
                    Status::invalid_argument(long).add_header(&mut trailers).unwrap();
                    let frame = Ok::<_, Status>(http_body::Frame::trailers(trailers));
                    Response::new(Body::new(http_body_util::StreamBody::new(futures::stream::iter([frame]))))
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Response::builder().header("name", "it").body(Body::empty()).unwrap()
                }
            };
            Ok::<_, std::convert::Infallible>(answer)
        });
        let transport = in_process(server, Red::new(&Metrics::default(), "grpc"));
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), services([(SERVICE, transport)])));
        let transport = to(HttpConnector::new(), address.parse().unwrap());
        for method in ["Refuse", "Status", "Stream"] {
            let refused = async {
                let request = Request::post(format!("http://shop/{SERVICE}/{method}"));
                let mut request = request.header("content-type", "application/grpc").body(Body::empty()).unwrap();
                request.extensions_mut().insert(Deadline::after(Duration::from_secs(5)));
                let answer = transport.clone().oneshot(request).await?;
                let (head, body) = answer.into_parts();
                let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
                let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers));
                Ok::<_, Status>(status.unwrap())
            };
            let others = (0..20).map(|_| asked(&transport, SERVICE, Duration::from_secs(5)));
            let (refused, others) = futures::future::join(refused, futures::future::join_all(others)).await;
            assert!(others.iter().all(|answer| answer.as_deref() == Ok("it")), "{method}: {others:?}");
            let status = refused.unwrap_or_else(|lost| panic!("{method}: {lost}"));
            assert_eq!(status.code(), Code::InvalidArgument, "{method}");
            assert!(status.message().starts_with("장장") && status.message().ends_with('…'), "{method}");
        }
    }

    /// A process that is starting did nothing, and says so: the next replica is asked.
    #[tokio::test]
    async fn a_replica_that_is_starting_is_passed_over() {
        let tasks = Tasks::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let starting = listener.local_addr().unwrap();
        let refuse = |request: Request<Incoming>| async move {
            crate::unavailable::unavailable(request.headers(), "starting", "the process is starting")
        };
        tasks.spawn(serve(listener, tasks.clone(), Limits::default(), refuse));
        let open = process(&tasks, "open", Duration::ZERO).await;
        let transport = replicas::by_name(&tasks, &format!("{starting},{open}")).unwrap();
        for _ in 0..4 {
            assert_eq!(asked(&transport, SERVICE, Duration::from_secs(5)).await.as_deref(), Ok("open"));
        }
    }

    #[tokio::test]
    async fn a_drain_does_not_wait_for_connections_to_others() {
        let (ours, theirs) = (Tasks::default(), Tasks::default());
        let peer = process(&theirs, "peer", Duration::ZERO).await;
        let transport = replicas::by_name(&ours, peer.as_str()).unwrap();
        asked(&transport, SERVICE, Duration::from_secs(5)).await.unwrap();
        assert!(ours.drain(Duration::from_secs(5)).await, "{} tasks go on", ours.count());
        asked(&transport, SERVICE, Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_is_not_here_and_a_deadline_are_answered_as_in_process() {
        let tasks = Tasks::default();
        let slow = process(&tasks, "slow", Duration::from_secs(60)).await;
        let transport = to(HttpConnector::new(), slow);
        assert_eq!(asked(&transport, "shop.other.v1.Other", Duration::from_secs(5)).await, Err(Code::Unimplemented));
        assert_eq!(asked(&transport, SERVICE, Duration::from_millis(50)).await, Err(Code::DeadlineExceeded));
    }
}
