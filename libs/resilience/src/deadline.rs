//! # Problem
//! A caller gives up after two seconds; the services behind it go on working for nobody, and each of them waits by a
//! timeout of its own that knows nothing of the caller's.
//!
//! # Pattern
//! Deadline propagation: the time that is left travels with the call, shrinks at every hop, and ends the work at all of
//! them at once. The header is gRPC's `grpc-timeout`.
//!
//! # Here
//! [`AtServer`] turns the header into a [`Deadline`] in the request's extensions, refuses work whose time is up before it
//! begins, and answers at expiry; [`AtClient`] sends what is left and stops waiting when it is over. Both answer
//! DEADLINE_EXCEEDED: tonic alone enforces the header only in its network transport, and reports CANCELLED.
//!
//! # Limits
//! It bounds waiting, not effects: a commit that was under way when time was up may still happen, and the caller must take
//! the answer as "unknown". The header is relative, so the time on the wire is not counted.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// The header that carries the time left.
pub const HEADER: &str = "grpc-timeout";
/// The longest time a peer may ask for; more is taken as this.
pub const LONGEST: Duration = Duration::from_secs(300);

/// The moment at which nobody waits for the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The deadline `wait` from now.
    #[must_use]
    pub fn after(wait: Duration) -> Deadline {
        Deadline(Instant::now() + wait.min(LONGEST))
    }

    /// What is left of it; zero when it is over.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The earlier of this and `wait` from now.
    #[must_use]
    pub fn at_most(self, wait: Duration) -> Deadline {
        self.min(Deadline::after(wait))
    }
}

/// Writes a time left as gRPC does: at most eight digits and a unit.
#[must_use]
pub fn encode(left: Duration) -> HeaderValue {
    let (micros, millis) = (left.as_micros(), left.as_millis());
    let text = if micros < 100_000_000 { format!("{micros}u") } else { format!("{}m", millis.min(99_999_999)) };
    HeaderValue::from_str(&text).expect("digits and a letter are a header value")
}

/// Reads a time left; `None` if it is not what gRPC allows.
#[must_use]
pub fn decode(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn exceeded(where_: &str) -> Status {
    Status::deadline_exceeded(format!("the time for this call was over {where_}; whether it took effect is unknown"))
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// Enforces the deadline on the side that is called.
#[derive(Clone, Debug)]
pub struct AtServer<S> {
    inner: S,
    longest: Duration,
}

impl<S> AtServer<S> {
    /// Wraps a server; calls without a deadline get `longest`, and none gets more.
    pub fn new(inner: S, longest: Duration) -> AtServer<S> {
        AtServer { inner, longest }
    }
}

impl<S> Service<Request<Body>> for AtServer<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let asked = match request.headers().get(HEADER).map(|value| (value, decode(value))) {
            None => self.longest,
            Some((_, Some(asked))) => asked.min(self.longest),
            Some((value, None)) => {
                let refusal = Status::invalid_argument(format!("header {HEADER} is malformed: {value:?}"));
                return Box::pin(async move { Ok(refusal.into_http()) });
            }
        };
        if asked.is_zero() {
            return Box::pin(async { Ok(exceeded("before it began").into_http()) });
        }
        let deadline = Deadline::after(asked);
        request.extensions_mut().insert(deadline);
        let work = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.0, work).await {
                Ok(answer) => answer,
                Err(_) => Ok(exceeded("at the server").into_http()),
            }
        })
    }
}

/// Enforces the deadline on the side that calls. Requests carry a [`Deadline`] in their extensions, or the header.
#[derive(Clone, Debug)]
pub struct AtClient<S> {
    inner: S,
    longest: Duration,
}

impl<S> AtClient<S> {
    /// Wraps a client; calls without a deadline get `longest`, and none gets more.
    pub fn new(inner: S, longest: Duration) -> AtClient<S> {
        AtClient { inner, longest }
    }
}

impl<S> Service<Request<Body>> for AtClient<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Answer<Status>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let stated = request.headers().get(HEADER).and_then(decode).map(Deadline::after);
        let known = request.extensions().get::<Deadline>().copied();
        let deadline = [stated, known].into_iter().flatten().fold(Deadline::after(self.longest), Deadline::min);
        let left = deadline.left();
        if left.is_zero() {
            return Box::pin(async { Err(exceeded("before it was sent")) });
        }
        request.headers_mut().insert(HEADER, encode(left));
        let work = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.0, work).await {
                Ok(answer) => answer,
                Err(_) => Err(exceeded("at the client")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tower::ServiceExt;

    fn request(left: &str) -> Request<Body> {
        Request::builder().header(HEADER, left).body(Body::empty()).unwrap()
    }

    fn code(response: &Response<Body>) -> tonic::Code {
        Status::from_header_map(response.headers()).map_or(tonic::Code::Ok, |status| status.code())
    }

    /// RT-1: what one hop used is gone for the next.
    #[tokio::test(start_paused = true)]
    async fn the_next_hop_gets_what_is_left() {
        let next = AtClient::new(
            tower::service_fn(|request: Request<Body>| async move {
                let left = decode(&request.headers()[HEADER]).unwrap();
                assert!(left <= Duration::from_millis(1_300) && left > Duration::from_millis(1_200), "{left:?}");
                Ok::<_, Status>(Response::new(Body::empty()))
            }),
            Duration::from_secs(60),
        );
        let hop = tower::service_fn(move |request: Request<Body>| {
            let next = next.clone();
            async move {
                tokio::time::advance(Duration::from_millis(700)).await;
                let mut onward = Request::new(Body::empty());
                onward.extensions_mut().insert(*request.extensions().get::<Deadline>().unwrap());
                next.oneshot(onward).await
            }
        });
        let answer = AtServer::new(hop, Duration::from_secs(60)).oneshot(request("2S")).await.unwrap();
        assert_eq!(code(&answer), tonic::Code::Ok);
    }

    /// RT-2: work whose time is up does not begin.
    #[tokio::test(start_paused = true)]
    async fn an_expired_call_never_starts() {
        let begun = Arc::new(AtomicU32::new(0));
        let count = begun.clone();
        let work = tower::service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Status>(Response::new(Body::empty())) }
        });
        let answer = AtServer::new(work.clone(), Duration::from_secs(60)).oneshot(request("0m")).await.unwrap();
        assert_eq!(code(&answer), tonic::Code::DeadlineExceeded);
        let mut late = Request::new(Body::empty());
        late.extensions_mut().insert(Deadline::after(Duration::ZERO));
        let refused = AtClient::new(work, Duration::from_secs(60)).oneshot(late).await.unwrap_err();
        assert_eq!((refused.code(), begun.load(Ordering::SeqCst)), (tonic::Code::DeadlineExceeded, 0));
    }

    /// RT-3: expiry is DEADLINE_EXCEEDED at both ends, not CANCELLED.
    #[tokio::test(start_paused = true)]
    async fn expiry_is_deadline_exceeded_at_both_ends() {
        let never = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Status>>());
        let server = AtServer::new(never, Duration::from_secs(60)).oneshot(request("10m")).await.unwrap();
        assert_eq!(code(&server), tonic::Code::DeadlineExceeded);
        let client = AtClient::new(never, Duration::from_secs(60)).oneshot(request("10m")).await.unwrap_err();
        assert_eq!(client.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_deadline_gets_the_longest_and_none_gets_more() {
        let started = Instant::now();
        let never = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Status>>());
        for stated in [None, Some("1H")] {
            let mut call = Request::new(Body::empty());
            stated.map(|value| call.headers_mut().insert(HEADER, HeaderValue::from_static(value)));
            AtServer::new(never, Duration::from_secs(5)).oneshot(call).await.unwrap();
        }
        assert!(started.elapsed() < Duration::from_millis(10_100), "{:?}", started.elapsed());
    }

    #[test]
    fn the_header_is_read_and_written_as_grpc_has_it() {
        for (text, expected) in
            [("5S", Some(5_000)), ("100m", Some(100)), ("99999999u", Some(99_999)), ("1H", Some(3_600_000))]
        {
            assert_eq!(decode(&HeaderValue::from_static(text)).map(|d| d.as_millis()), expected);
        }
        for bad in ["", "S", "5", "-5S", "123456789m", "5 S", "5x", "+5S", "１S"] {
            assert_eq!(decode(&HeaderValue::from_bytes(bad.as_bytes()).unwrap()), None, "{bad}");
        }
        for millis in [0, 1, 1_299, 99_999, 100_001, 300_000] {
            assert_eq!(decode(&encode(Duration::from_millis(millis))).map(|d| d.as_millis()), Some(u128::from(millis)));
        }
    }
}
