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
//! | `pages` | what the gateway tells about its process and its interface |
//! | `host_names` | which hosts a request may be for |
//! | `fair_share` | places that customers share |
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
mod fair_share;
pub mod host_names;
mod openapi;
mod openapi_parts;
mod openapi_schemas;
mod pages;
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
use host::call::Caller;
use host::client_io::Peer;
use host::error::Refusal;
use host::health::Health;
use host::http_server;
use host::tasks::Tasks;
use host::transport::Transport;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
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

use crate::fair_share::FairShare;
use crate::host_names::HostNames;
use crate::pages::Page;
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
    /// The most calls at a time. More are refused, not queued.
    pub at_once: usize,
    /// The most calls at a time that wait for an order to be settled, beside the others; customers share them. One more is
    /// answered at once, as if it did not want to wait.
    pub waits: usize,
    /// The most streams of events at a time, beside the calls; customers share them.
    pub watchers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::of(http_server::CONNECTIONS)
    }
}

impl Limits {
    /// The limits of a gateway with so many connections: waits and streams hold most of them at the worst, and never all.
    #[must_use]
    pub fn of(connections: usize) -> Limits {
        Limits {
            call: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            target_bytes: 2_000,
            at_once: 2_048,
            waits: connections * 16 / 25,
            watchers: connections * 8 / 25,
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
    waits: Arc<FairShare>,
    watchers: Arc<FairShare>,
    tasks: Tasks,
    host_names: Option<HostNames>,
}

/// The body of an answer: whole, or a stream of events.
pub type Answered = Either<Full<Bytes>, events::Body>;

/// What a path leads to.
enum Destination<'a> {
    Page(Page),
    Rpc(Found<'a>),
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
            waits: FairShare::of(limits.waits),
            watchers: FairShare::of(limits.watchers),
            tasks: process.tasks.clone(),
            host_names: None,
        })
    }

    /// The gateway on a port, where requests say which host they are for. Without it nobody's host is looked at.
    #[must_use]
    pub fn on_port(self, host_names: HostNames) -> Gateway {
        Gateway { host_names: Some(host_names), ..self }
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
        // What is logged and counted is the problem, also where the client is shown something else.
        let status = outcome.as_ref().map_or_else(Problem::status, Response::status);
        let mut response = outcome.unwrap_or_else(|problem| whole(problem.into_response(trace)));
        if !response.headers().contains_key(header::CACHE_CONTROL) {
            pages::cache_for(&mut response, 0);
        }
        put(&mut response, edge::TRACEPARENT, trace.to_string());
        let took = started.elapsed();
        self.red.observe(route, status.as_str(), took);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match cause {
            Some(why) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(route, status = status.as_u16(), took_us, why, "answered");
            }
            why => log(&head.method, route, status, took_us, why.as_deref()),
        }
        if head.method == Method::HEAD {
            if let Some(bytes) = response.body().size_hint().exact() {
                put(&mut response, header::CONTENT_LENGTH.as_str(), bytes.to_string());
            }
            *response.body_mut() = Either::Left(Full::default());
        }
        response
    }

    fn destination<'a>(&'a self, head: &'a Parts) -> Result<Destination<'a>, Problem> {
        if let Some(host_names) = &self.host_names {
            host_names.check(head)?;
        }
        target::check(&head.uri, self.limits.target_bytes)?;
        match Page::at(head.uri.path()) {
            Some(page) if matches!(head.method, Method::GET | Method::HEAD) => Ok(Destination::Page(page)),
            Some(_) => Err(Problem::method_not_allowed("GET, HEAD".to_owned())),
            None => self.table.find(&head.method, head.uri.path()).map(Destination::Rpc),
        }
    }

    fn page(&self, page: Page) -> Result<Response<Full<Bytes>>, Problem> {
        let text = match page {
            Page::Alive => Bytes::from_static(b"ok"),
            Page::Metrics => Bytes::from(self.metrics.text() + &self.health.metrics()),
            Page::Api => self.api.clone(),
            Page::Docs(asset) => asset.bytes(),
            Page::Ready => match pages::unready(&self.health) {
                Some(problem) => return Err(problem),
                None => Bytes::from(self.health.page()),
            },
        };
        Ok(page.response(text))
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
            let watched = self.watch(found, events, head, body, trace).await;
            return watched.map_err(|problem| match events::refused_for_now(&head.headers, problem.status()) {
                Some(come_back) => problem.shown_as(come_back),
                None => problem,
            });
        }
        let route = found.route;
        let mut caller = edge::caller(found, &head.headers, trace, self.limits.call)?;
        let waiting = (!caller.wait.is_zero()).then(|| self.waits.take(&caller.customer)).flatten();
        if waiting.is_none() {
            caller = edge::at_once(caller, self.limits.call);
        }
        let _place = match waiting {
            Some(_) => None,
            None => {
                let full = |_| {
                    let most = self.limits.at_once;
                    too_many(format!("{most} requests are under way, which is the most at a time; try again"))
                };
                Some(self.places.try_acquire().map_err(full)?)
            }
        };
        let message = Bytes::from(self.message(found, head, body).await?.encode_to_vec());
        let ask = async |caller: &Caller| {
            let request = || caller.request(message.clone());
            upstream::call(&route.transport, &route.grpc, request, caller.deadline).await
        };
        let reply = match &waiting {
            None => ask(&caller).await,
            Some(_) => match upstream::unless_closed(&peer(head), ask(&caller)).await {
                Some(reply) => reply,
                // A client that only closed its sending side gets what there is by now, under the same command id.
                None => {
                    caller = edge::at_once(caller, self.limits.call);
                    ask(&caller).await
                }
            },
        };
        let answer =
            transcode::answer(route, reply.map_err(|status| Problem::of(&status))?).map_err(Problem::internal)?;
        let mut response = Response::new(Either::Left(Full::from(answer.json)));
        *response.status_mut() = route.success;
        put(&mut response, header::CONTENT_TYPE.as_str(), "application/json".to_owned());
        pages::cache_for(&mut response, route.max_age_s);
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
        let caller = edge::caller(found, &head.headers, trace, self.limits.call)?;
        let full =
            || too_many("you have your share of the streams that may be open; close one, or try again in a second");
        let place = self.watchers.take(&caller.customer).ok_or_else(full)?;
        let mut message = self.message(found, head, body).await?;
        events::resume(&head.headers, events, &mut message)?;
        let request = caller.request(Bytes::from(message.encode_to_vec()));
        let stream = upstream::stream(found.route.transport.clone(), found.route.grpc.clone(), request).await;
        let stream = match stream {
            Ok(stream) => stream,
            Err(status) if events::ended(&status) => {
                let mut nothing = whole(Response::default());
                *nothing.status_mut() = StatusCode::NO_CONTENT;
                return Ok(nothing);
            }
            Err(status) => return Err(Problem::of(&status)),
        };
        let body = events::body(found.route.clone(), stream, self.tasks.clone(), (peer(head), place));
        let mut response = Response::new(Either::Right(body));
        put(&mut response, header::CONTENT_TYPE.as_str(), "text/event-stream".to_owned());
        // Neither a proxy that compresses nor one that collects: an event is worth something when it happens.
        put(&mut response, header::CACHE_CONTROL.as_str(), "no-store, no-transform".to_owned());
        put(&mut response, "x-accel-buffering", "no".to_owned());
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

/// The client of a request.
fn peer(head: &Parts) -> Peer {
    head.extensions.get::<Peer>().cloned().unwrap_or_else(Peer::unknown)
}

fn too_many(message: impl Into<String>) -> Problem {
    Refusal::new(Code::ResourceExhausted, "too_many_requests", message.into()).into()
}

fn whole(response: Response<Full<Bytes>>) -> Response<Answered> {
    response.map(Either::Left)
}

fn log(method: &Method, route: &str, status: StatusCode, took_us: u64, why: Option<&str>) {
    let is_quiet = matches!(*method, Method::GET | Method::HEAD) && status.as_u16() < 400;
    let status = status.as_u16();
    if is_quiet {
        tracing::debug!(route, status, took_us, "answered");
    } else {
        tracing::info!(route, status, took_us, why, "answered");
    }
}

/// Sets a header. A value that is none is left out: all of them are made of what was checked before.
pub(crate) fn put<B>(response: &mut Response<B>, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a handler panicked: {}", text.unwrap_or("without a word"))
}
