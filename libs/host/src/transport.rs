//! One type under every gRPC client: a call in this process, or over a network.
//!
//! # Problem
//! Services that call each other by functions in one process and by gRPC across processes are two programs: the second is
//! the one that breaks in production and the one that no test ran.
//!
//! # Pattern
//! Ports and adapters, with tonic's own client as the port: it speaks to any tower service.
//!
//! # Here
//! [`Transport`] is that service. [`in_process`] puts another service's server right under the client, with the same
//! layers at both ends as a network has: the deadline travels as a header and is enforced on both sides, and messages are
//! encoded, so that what works here works across a wire.
//!
//! # Limits
//! Encoding costs a few microseconds a call. Connections, and what can go wrong with them, are not seen in process; they are
//! in [`crate::network`].
use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use resilience::deadline::{AtClient, AtServer};
use telemetry::metrics::Red;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// What a gRPC client calls through. Its error is `Status`: a boxed one would make tonic's futures impossible to spawn.
pub type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// The longest a server works on one call.
pub const LONGEST_CALL: Duration = Duration::from_secs(60);

/// A call to a server in this process; each is counted in `red` by method and code.
pub fn in_process<S>(server: S, red: Red) -> Transport
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let within_its_time = AtServer::new(server, LONGEST_CALL);
    let counted = tower::service_fn(move |request: Request<Body>| {
        let (server, red) = (within_its_time.clone(), red.clone());
        async move {
            let (method, started) = (request.uri().path().to_owned(), Instant::now());
            let answer = server.oneshot(request).await.unwrap_or_else(|never| match never {});
            let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
            // The server knows the method, or it would have answered UNIMPLEMENTED: labels stay bounded.
            let method = if code == Code::Unimplemented { "unknown" } else { method.as_str() };
            red.observe(method, code_word(code), started.elapsed());
            Ok::<_, Status>(answer)
        }
    });
    BoxCloneSyncService::new(AtClient::new(counted, LONGEST_CALL))
}

fn code_word(code: Code) -> &'static str {
    if code == Code::Ok { "OK" } else { crate::error::row_of(code).word }
}
