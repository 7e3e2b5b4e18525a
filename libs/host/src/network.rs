//! gRPC between processes: a [`Transport`] to other processes, and the services of this one for theirs.
//!
//! # Problem
//! A peer that vanished without a word is waited for as long as the system likes, and nobody can tell whether what it was
//! asked for happened.
//!
//! # Pattern
//! Keep-alive in both directions, and errors that say whether the call left.
//!
//! # Here
//! [`to`] is a transport over HTTP/2 to one address, through any connector: TCP, or a simulated network; what stands above it
//! over several is in [`crate::replicas`]. It tells a call that was not sent ([`was_sent`]) from one that was lost. [`services`] answers requests by the transports of this process, so that layers and limits are the
//! same for whoever calls.
//!
//! # Limits
//! No TLS.
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use resilience::deadline::AtClient;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::transport::{LONGEST_CALL, Transport};

/// How often a peer is asked whether it is there, and how long its answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// A transport to the process at `authority`, such as `127.0.0.1:50051`. It connects when it is first needed, and again
/// whenever the connection is lost.
pub fn to<C>(connector: C, authority: Authority) -> Transport
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Unpin + Send + 'static,
    C::Future: Unpin + Send + 'static,
    C::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    // Danger: not on the process's tasks. A connection lives as long as both ends do, and a drain would wait for it; what is
    // asked over it is waited for by whoever asks.
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(true).timer(TokioTimer::new()).pool_timer(TokioTimer::new());
    builder
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .http2_keep_alive_while_idle(true);
    let client: Client<_, Body> = builder.build(InTime(connector));
    let send = tower::service_fn(move |mut request: Request<Body>| {
        let (client, authority) = (client.clone(), authority.clone());
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
            client.request(request).await.map(|answer| answer.map(Body::new)).map_err(lost)
        }
    });
    BoxCloneSyncService::new(AtClient::new(send, LONGEST_CALL))
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
        let request = request.map(Body::new);
        Box::pin(async move {
            let answer = match service {
                Some(service) => service.oneshot(request).await,
                None => Err(Status::unimplemented("no such service is here")),
            };
            answer.unwrap_or_else(Status::into_http)
        })
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
        let mut request = Request::post(format!("http://shop/{service}/Ask")).body(Body::empty()).unwrap();
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
