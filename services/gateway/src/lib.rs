//! The edge of the shop: REST in, gRPC out.
//!
//! # Problem
//! Clients speak JSON over HTTP and want one address, one form of error and one way to repeat a request; services speak
//! gRPC among themselves. If each service built its own edge, each would be a little different, and every new RPC would
//! need code in two places.
//!
//! # Pattern
//! API gateway: one component does what is common to all requests, knows no business rule, and keeps nothing.
//!
//! # Here
//! Routes, bodies, queries and answers all come from the descriptors, that is from the `google.api.http` and
//! `shop.http.v1.rest` options of the .proto files.
//!
//! | file | holds |
//! |---|---|
//! | `target` | the path and the query, read strictly |
//! | `routes` | the table of routes from the descriptors |
//! | `edge` | the headers: who asks, idempotency key, trace, `Prefer: wait` |
//! | `body` | reading a body within a size and a time |
//! | `transcode` | JSON to protobuf and back |
//! | `upstream` | the gRPC call |
//! | `docs` | the API page |
//! | `events` | streams of answers as server-sent events |
//! | `problem` | what is answered when the answer is no (RFC 9457) |
//! | `openapi` | the document of the API: an operation for each route |
//! | `openapi_schemas` | its schemas, from messages and enums |
//! | `openapi_parts` | its parts that are the gateway's own: headers, problems, examples |
//!
//! A POST carries an `Idempotency-Key`. It becomes the command id, a hash over caller, route and key, and the service that
//! carries the command out remembers it: replicas of the gateway need no store in common.
//!
//! # Limits
//! Callers are believed who they say they are: `X-Customer-Id` and `X-Operator` stand in for a sign-in. Of a JSON key
//! given twice the last counts, camelCase names are taken too, and whole numbers may be written `2.0` or `"2"`, as the
//! proto3 mapping has it; one below -2⁶³ by less than a rounding is taken as -2⁶³. Only GET and POST are served, variables
//! of paths and queries are plain fields of the request, and nothing streams in. `/metrics` and `/readyz` are open to whoever
//! reaches the port. What a field of a request takes, `/openapi.json` says because the .proto files do
//! (`shop.http.v1.takes`); the service sees to it. Rules between fields, and what is true only now, are said in words.
mod body;
mod docs;
mod edge;
mod events;
mod openapi;
mod openapi_parts;
mod openapi_schemas;
mod problem;
mod routes;
mod target;
mod transcode;
mod upstream;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::Ids;
use futures::FutureExt;
use host::Process;
use host::error::Refusal;
use host::health::Health;
use host::tasks::Tasks;
use host::transport::Transport;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{Either, Full};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use telemetry::metrics::{Metrics, Red};
use telemetry::trace::Trace;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Code;
use tracing::Instrument;

use crate::docs::Asset;
use crate::problem::Problem;
use crate::routes::{Found, Table};

/// The route of a request that has none, in metrics and log lines.
const UNMATCHED: &str = "unmatched";

/// How much a request may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the head of a request to its answer; what the client prefers to wait comes on top.
    pub call: Duration,
    /// From the head of a request to the end of its body.
    pub body: Duration,
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// The longest path and query together, in bytes.
    pub target_bytes: usize,
    /// The most calls at a time, those included that wait for an order to be settled. More are refused, not queued.
    pub at_once: usize,
    /// The most streams of events at a time, beside the calls.
    pub watchers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            call: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            target_bytes: 2_000,
            at_once: 2_048,
            watchers: 256,
        }
    }
}

/// The gateway. It keeps nothing between requests, so that any number of them may run side by side.
pub struct Gateway {
    table: Table,
    api: Bytes,
    limits: Limits,
    ids: Arc<Ids>,
    health: Health,
    metrics: Metrics,
    red: Red,
    places: Semaphore,
    watchers: Arc<Semaphore>,
    tasks: Tasks,
}

/// The body of an answer: whole, or a stream of events.
pub type Answered = Either<Full<Bytes>, events::Body>;

/// What a path leads to.
enum Destination<'a> {
    Page(Page),
    Rpc(Found<'a>),
}

/// What the gateway itself tells about its process and its interface.
#[derive(Clone, Copy)]
enum Page {
    Alive,
    Ready,
    Metrics,
    Api,
    Docs(Asset),
}

impl Page {
    fn at(path: &str) -> Option<Page> {
        match path {
            "/healthz" => Some(Page::Alive),
            "/readyz" => Some(Page::Ready),
            "/metrics" => Some(Page::Metrics),
            "/openapi.json" => Some(Page::Api),
            _ => Asset::at(path).map(Page::Docs),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Page::Alive => "GET /healthz",
            Page::Ready => "GET /readyz",
            Page::Metrics => "GET /metrics",
            Page::Api => "GET /openapi.json",
            Page::Docs(asset) => asset.label,
        }
    }
}

impl Gateway {
    /// A gateway to the services at `upstreams`, each by its name in the .proto files, such as
    /// `shop.order.v1.OrderService`. A service of which there are several is named with the first segment of its paths after
    /// the version, such as `shop.messaging.v1.DeadLetterService/order`.
    ///
    /// # Errors
    /// A sentence, if a rule in the descriptors cannot be served, is ambiguous, has no upstream or cannot be described, or
    /// if an upstream is given twice or is no service.
    pub fn new(
        process: &Process,
        upstreams: impl IntoIterator<Item = (&'static str, Transport)>,
        limits: Limits,
    ) -> Result<Gateway, String> {
        let mut by_service = BTreeMap::new();
        for (service, transport) in upstreams {
            if by_service.insert(service, transport).is_some() {
                return Err(format!("upstream {service} is given twice"));
            }
        }
        let pool =
            DescriptorPool::decode(proto::DESCRIPTORS).map_err(|why| format!("the descriptors are broken: {why}"))?;
        let table = Table::read(&pool, &by_service)?;
        Ok(Gateway {
            api: Bytes::from(openapi::document(&table)?.to_string()),
            table,
            limits,
            ids: process.ids.clone(),
            health: process.health.clone(),
            metrics: process.metrics.clone(),
            red: Red::new(&process.metrics, "http"),
            places: Semaphore::new(limits.at_once),
            watchers: Arc::new(Semaphore::new(limits.watchers)),
            tasks: process.tasks.clone(),
        })
    }

    /// Answers a request; whatever happens, with a response.
    pub async fn handle<B: Body<Data = Bytes>>(&self, request: Request<B>) -> Response<Answered> {
        let (head, body) = request.into_parts();
        let trace = edge::trace(&head.headers, &self.ids);
        let span = tracing::info_span!("http", trace_id = %format_args!("{:032x}", trace.trace_id));
        self.traced(head, body, trace).instrument(span).await
    }

    async fn traced<B: Body<Data = Bytes>>(&self, head: Parts, body: B, trace: Trace) -> Response<Answered> {
        let started = Instant::now();
        let (route, outcome) = match self.destination(&head) {
            Ok(Destination::Page(page)) => (page.label(), self.page(page).map(whole)),
            Ok(Destination::Rpc(found)) => {
                let answer = AssertUnwindSafe(self.call(&found, &head, body, trace)).catch_unwind().await;
                (
                    found.route.label.as_str(),
                    answer.unwrap_or_else(|panic| Err(Problem::internal(said(panic.as_ref())))),
                )
            }
            Err(problem) => (UNMATCHED, Err(problem)),
        };
        let cause = outcome.as_ref().err().and_then(Problem::cause).map(str::to_owned);
        let mut response = outcome.unwrap_or_else(|problem| whole(problem.into_response(trace)));
        put(&mut response, edge::TRACEPARENT, trace.to_string());
        let (status, took) = (response.status(), started.elapsed());
        self.red.observe(route, status.as_str(), took);
        log(&head.method, route, status.as_u16(), took, cause);
        if head.method == Method::HEAD {
            if let Some(bytes) = response.body().size_hint().exact() {
                put(&mut response, header::CONTENT_LENGTH.as_str(), bytes.to_string());
            }
            *response.body_mut() = Either::Left(Full::default());
        }
        response
    }

    fn destination<'a>(&'a self, head: &'a Parts) -> Result<Destination<'a>, Problem> {
        target::check(&head.uri, self.limits.target_bytes)?;
        match Page::at(head.uri.path()) {
            Some(page) if matches!(head.method, Method::GET | Method::HEAD) => Ok(Destination::Page(page)),
            Some(_) => Err(Problem::method_not_allowed("GET, HEAD".to_owned())),
            None => self.table.find(&head.method, head.uri.path()).map(Destination::Rpc),
        }
    }

    fn page(&self, page: Page) -> Result<Response<Full<Bytes>>, Problem> {
        let (kind, text) = match page {
            Page::Alive => ("text/plain", Bytes::from_static(b"ok")),
            Page::Metrics => ("text/plain; version=0.0.4", Bytes::from(self.metrics.text() + &self.health.metrics())),
            Page::Api => ("application/json", self.api.clone()),
            Page::Docs(asset) => (asset.media_type, asset.bytes()),
            Page::Ready => {
                let missing = self.health.unready();
                if !missing.is_empty() {
                    let parts = missing.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    let refusal = Refusal::new(Code::Unavailable, "not_ready", format!("not ready: {parts}"));
                    return Err(missing.iter().fold(refusal, |refusal, (part, why)| refusal.fact(part, why)).into());
                }
                ("text/plain", Bytes::from(self.health.ready_page()))
            }
        };
        let mut response = Response::new(Full::from(text));
        put(&mut response, header::CONTENT_TYPE.as_str(), kind.to_owned());
        if let Page::Docs(_) = page {
            put(&mut response, header::CONTENT_SECURITY_POLICY.as_str(), docs::POLICY.to_owned());
            put(&mut response, header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned());
            put(&mut response, header::CACHE_CONTROL.as_str(), "max-age=3600".to_owned());
        }
        Ok(response)
    }

    /// Turns a request into a call and its answer into a response.
    async fn call<B: Body<Data = Bytes>>(
        &self,
        found: &Found<'_>,
        head: &Parts,
        body: B,
        trace: Trace,
    ) -> Result<Response<Answered>, Problem> {
        if let Some(events) = &found.route.events {
            return self.watch(found, events, head, body, trace).await;
        }
        let route = found.route;
        let Ok(_place) = self.places.try_acquire() else {
            return Err(too_many("requests are under way", self.limits.at_once));
        };
        let caller = edge::caller(found, &head.headers, trace, self.limits.call)?;
        let message = self.message(found, head, body).await?;
        let request = caller.request(Bytes::from(message.encode_to_vec()));
        let reply = upstream::call(route.transport.clone(), route.grpc.clone(), request, caller.deadline).await;
        let answer =
            transcode::answer(route, reply.map_err(|status| Problem::of(&status))?).map_err(Problem::internal)?;
        let mut response = Response::new(Either::Left(Full::from(answer.json)));
        *response.status_mut() = route.success;
        put(&mut response, header::CONTENT_TYPE.as_str(), "application/json".to_owned());
        if let Some(location) = answer.location {
            put(&mut response, header::LOCATION.as_str(), location);
        }
        if !caller.wait.is_zero() {
            put(&mut response, edge::PREFERENCE_APPLIED, format!("wait={}", caller.wait.as_secs()));
        }
        Ok(response)
    }

    /// Turns a request into a call that is answered by a stream, and that into events.
    async fn watch<B: Body<Data = Bytes>>(
        &self,
        found: &Found<'_>,
        events: &routes::Events,
        head: &Parts,
        body: B,
        trace: Trace,
    ) -> Result<Response<Answered>, Problem> {
        let Ok(place) = self.watchers.clone().try_acquire_owned() else {
            return Err(too_many("streams are open", self.limits.watchers));
        };
        let caller = edge::caller(found, &head.headers, trace, self.limits.call)?;
        let mut message = self.message(found, head, body).await?;
        events::resume(&head.headers, events, &mut message)?;
        let request = caller.request(Bytes::from(message.encode_to_vec()));
        let stream = upstream::stream(found.route.transport.clone(), found.route.grpc.clone(), request).await;
        let stream = stream.map_err(|status| Problem::of(&status))?;
        let body = events::body(found.route.clone(), stream, self.tasks.clone(), place);
        let mut response = Response::new(Either::Right(body));
        put(&mut response, header::CONTENT_TYPE.as_str(), "text/event-stream".to_owned());
        put(&mut response, header::CACHE_CONTROL.as_str(), "no-store".to_owned());
        Ok(response)
    }

    /// The message that path, query and body make.
    async fn message<B: Body<Data = Bytes>>(
        &self,
        found: &Found<'_>,
        head: &Parts,
        body: B,
    ) -> Result<DynamicMessage, Problem> {
        let route = found.route;
        let mut query = target::query(&head.uri)?;
        // What the path says cannot be said again by the query.
        query.extend(found.variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        if !route.takes_body {
            return Ok(transcode::parameters(&route.input, &query)?);
        }
        if let Some((name, _)) = query.first().filter(|_| query.len() > found.variables.len()) {
            return Err(Refusal::invalid(name, format!("there is no parameter {name}")).into());
        }
        edge::check_media_type(&head.headers)?;
        let json = body::read(body, self.limits.body_bytes, self.limits.body).await?;
        let json = match json.is_empty() {
            false => json,
            true if route.body_optional => Bytes::from_static(b"{}"),
            true => return Err(Refusal::new(Code::InvalidArgument, "body_missing", "this needs a JSON body").into()),
        };
        let path = transcode::parameters(&route.input, &query)?;
        let names = found.variables.iter().map(|(name, _)| *name);
        Ok(transcode::merge(transcode::body(&route.input, &json)?, &path, names)?)
    }
}

fn too_many(what: &str, most: usize) -> Problem {
    let message = format!("{most} {what}, which is the most at a time; try again");
    Refusal::new(Code::ResourceExhausted, "too_many_requests", message).into()
}

fn whole(response: Response<Full<Bytes>>) -> Response<Answered> {
    response.map(Either::Left)
}

fn log(method: &Method, route: &str, status: u16, took: Duration, cause: Option<String>) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match cause {
        Some(why) => tracing::error!(route, status, took_us, why, "answered"),
        None if reads && status < 400 => tracing::debug!(route, status, took_us, "answered"),
        None => tracing::info!(route, status, took_us, "answered"),
    }
}

/// Sets a header. A value that is none is left out: all of them are made of what was checked before.
fn put<B>(response: &mut Response<B>, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a handler panicked: {}", text.unwrap_or("without a word"))
}
