//! One transport over all replicas of a service, wherever they are at the moment.
//!
//! # Problem
//! A client that holds one connection sees one replica, and none when that one dies; a call that never left this machine is
//! answered with an error, although the next replica could have taken it.
//!
//! # Pattern
//! Client-side balancing and failover: replicas are asked in turn, and a call that certainly did not reach one goes to the
//! next.
//!
//! # Here
//! [`in_turn`] spreads calls over transports; a replica that could not be reached rests for a moment ([`REST`]) while there are
//! others. [`by_name`] looks names up again and again, so that replicas may come and go: a name with several addresses, as
//! containers have it, or a list of names.
//!
//! # Limits
//! Only a call that was not sent goes on to the next replica. One that was sent and got no answer may have taken effect:
//! whoever made it decides, under the same command id. Requests are held in memory for as long as they may have to be sent
//! again, so nothing streams in.
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::network::{self, was_sent};
use crate::tasks::Tasks;
use crate::transport::Transport;

/// How long a replica that could not be reached is left alone while there are others.
pub const REST: Duration = Duration::from_secs(1);
/// How often names are looked up.
pub const LOOK_UP_EVERY: Duration = Duration::from_secs(2);
/// The most replicas of a service that are known at a time.
const MAX_REPLICAS: usize = 64;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

/// A replica, and until when it is left alone.
#[derive(Clone)]
struct Replica {
    transport: Transport,
    rests: Arc<Mutex<Option<Instant>>>,
}

impl Replica {
    fn new(transport: Transport) -> Replica {
        Replica { transport, rests: Arc::default() }
    }

    fn rests(&self) -> bool {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self, until: Option<Instant>) {
        *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// A transport over the replicas of a service.
#[must_use]
pub fn in_turn(replicas: Vec<Transport>) -> Transport {
    let (replicas, turn): (Vec<_>, _) = (replicas.into_iter().map(Replica::new).collect(), Arc::default());
    BoxCloneSyncService::new(tower::service_fn(move |request| ask(order(&replicas, &turn), request)))
}

/// The replicas in the order in which they are asked: the next in turn first, those that rest last.
fn order(replicas: &[Replica], turn: &AtomicUsize) -> Vec<Replica> {
    let first = turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1);
    let mut asked: Vec<_> = replicas[first..].iter().chain(&replicas[..first]).cloned().collect();
    asked.sort_by_key(Replica::rests);
    asked
}

fn ask(replicas: Vec<Replica>, request: Request<Body>) -> Answer {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut refusal = Status::unavailable("no replica is known; nothing was sent");
        for replica in replicas {
            let request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
            match replica.transport.clone().oneshot(request).await {
                Err(status) if !was_sent(&status) => {
                    replica.rest(Some(Instant::now() + REST));
                    refusal = status;
                }
                answer => {
                    replica.rest(None);
                    return answer;
                }
            }
        }
        Err(refusal)
    })
}

/// A transport to whatever stands behind names and ports, such as `order:7000` or `127.0.0.1:7001,127.0.0.1:7002`.
///
/// Names are looked up when the first call is made, and in the background as long as the process runs.
///
/// # Errors
/// A sentence, if a name has no port.
pub fn by_name(tasks: &Tasks, names: &str) -> Result<Transport, String> {
    let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    let well_formed = |name: &String| {
        name.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if let Some(name) = names.iter().find(|name| !well_formed(name)) {
        return Err(format!("{name:?} is no host and port, such as 127.0.0.1:7000"));
    }
    let known = Arc::new(Known { names, replicas: Mutex::default(), turn: AtomicUsize::new(0) });
    let following = known.clone();
    tasks.spawn_until_stop(async move {
        loop {
            following.look_up().await;
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    });
    Ok(BoxCloneSyncService::new(tower::service_fn(move |request| {
        let known = known.clone();
        async move {
            if known.replicas().is_empty() {
                known.look_up().await;
            }
            let replicas: Vec<_> = known.replicas().values().cloned().collect();
            ask(order(&replicas, &known.turn), request).await
        }
    })))
}

/// The replicas behind names, as they were last seen.
struct Known {
    names: Vec<String>,
    replicas: Mutex<BTreeMap<SocketAddr, Replica>>,
    turn: AtomicUsize,
}

impl Known {
    fn replicas(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, Replica>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connections to those that are still there. Where a name cannot be looked up, everything stays as it was.
    async fn look_up(&self) {
        let mut seen = Vec::new();
        for name in &self.names {
            match tokio::net::lookup_host(name.as_str()).await {
                Ok(addresses) => seen.extend(addresses),
                Err(why) => return tracing::debug!(name, %why, "a name cannot be looked up"),
            }
        }
        seen.truncate(MAX_REPLICAS);
        let mut replicas = self.replicas();
        replicas.retain(|address, _| seen.contains(address));
        for address in seen {
            let connect = || {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                let authority = address.to_string().parse().expect("an address is an authority");
                Replica::new(network::to(connector, authority))
            };
            replicas.entry(address).or_insert_with(connect);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    /// A replica that answers with its name, or cannot be reached, or was lost on the way.
    fn replica(name: &'static str) -> Transport {
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| async move {
            match name {
                "away" => Err(network::not_sent("away".to_owned())),
                "lost" => Err(Status::unavailable("lost on the way")),
                name => {
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok(Response::builder().header("name", name).header("body", &body[..]).body(Body::empty()).unwrap())
                }
            }
        }))
    }

    async fn asked(transport: &Transport) -> Result<String, Code> {
        let request = Request::new(Body::new(Full::from("please")));
        let answer = transport.clone().oneshot(request).await.map_err(|status| status.code())?;
        assert_eq!(answer.headers()["body"], "please", "the whole request came");
        Ok(answer.headers()["name"].to_str().unwrap().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_not_sent_goes_to_the_next_and_one_that_was_does_not() {
        let transport = in_turn(vec![replica("away"), replica("one"), replica("lost")]);
        for expected in [Ok("one"), Ok("one"), Err(Code::Unavailable)] {
            assert_eq!(asked(&transport).await, expected.map(str::to_owned));
        }
        assert_eq!(asked(&in_turn(vec![replica("away"), replica("away")])).await, Err(Code::Unavailable));
        assert_eq!(asked(&in_turn(vec![])).await, Err(Code::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_could_not_be_reached_rests_for_a_moment() {
        let (calls, counted) = (Arc::new(AtomicUsize::new(0)), replica("away"));
        let seen = calls.clone();
        let away = BoxCloneSyncService::new(tower::service_fn(move |request| {
            seen.fetch_add(1, Ordering::Relaxed);
            counted.clone().oneshot(request)
        }));
        let transport = in_turn(vec![away, replica("one")]);
        for _ in 0..10 {
            assert_eq!(asked(&transport).await, Ok("one".to_owned()));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1, "asked once, and left alone since");
        tokio::time::advance(REST).await;
        for _ in 0..2 {
            assert_eq!(asked(&transport).await, Ok("one".to_owned()));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2, "tried again after its rest");
    }

    #[tokio::test]
    async fn names_have_ports() {
        for name in ["order", ":7000", "order:seven", "order:7000,payment"] {
            let Err(why) = by_name(&Tasks::default(), name) else { panic!("{name} was taken") };
            assert!(why.contains("host and port"), "{why}");
        }
    }
}
