//! Faults between the services, and processes that die at a chosen commit.
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clock::Timestamp;
use futures::future::BoxFuture;
use host::transport::Transport;
use http::{Request, Response};
use monolith::shop::Stores;
use store::{
    Commit, CommitError, CommitId, Position, ReadError, Recorded, Snapshot, Store, StreamId, Version, Versions,
};
use tokio::sync::{Notify, watch};
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use uuid::Uuid;

/// What happens to calls of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused for good, without reaching the service.
    Refused,
    /// The call never arrives and nobody answers.
    TimesOut,
    /// The call arrives, and its answer does not.
    ReplyLost,
    /// The call arrives twice.
    Twice,
    /// The call takes 10 ms to arrive, and its answer takes 10 ms.
    Slow,
    /// The call is held back, and arrives when the test lets it.
    Held,
}

/// A plan of faults: which method, what, and how often from its first call on.
#[derive(Clone, Default)]
pub struct Plan {
    faults: Arc<Mutex<BTreeMap<String, (Fault, usize)>>>,
    calls: Arc<Mutex<Vec<String>>>,
    release: Arc<Notify>,
    arrived_late: Arc<Mutex<Vec<Option<tonic::Code>>>>,
}

impl Plan {
    pub fn fault(self, method: &str, fault: Fault, times: usize) -> Plan {
        self.faults.lock().unwrap().insert(method.to_owned(), (fault, times));
        self
    }

    /// The methods called so far, in order.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Lets held calls arrive, and tells what they were answered.
    pub async fn let_arrive(&self) -> Vec<Option<tonic::Code>> {
        self.release.notify_waiters();
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.arrived_late.lock().unwrap().clone()
    }

    pub fn between(&self) -> Box<dyn Fn(&'static str, Transport) -> Transport + Send + Sync> {
        let plan = self.clone();
        Box::new(move |_, inner| {
            let plan = plan.clone();
            Transport::new(tower::service_fn(move |request| plan.clone().call(inner.clone(), request)))
        })
    }

    fn next(&self, method: &str) -> Option<Fault> {
        self.calls.lock().unwrap().push(method.to_owned());
        let mut faults = self.faults.lock().unwrap();
        let (fault, left) = faults.get_mut(method)?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }

    async fn call(self, inner: Transport, request: Request<Body>) -> Result<Response<Body>, Status> {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        match self.next(&method) {
            None => inner.oneshot(request).await,
            Some(Fault::Refused) => {
                Err(host::error::Refusal::precondition("refused_by_test", "the test says no").into())
            }
            Some(Fault::TimesOut) => pending().await,
            Some(Fault::ReplyLost) => {
                drop(inner.oneshot(request).await);
                Err(Status::unavailable("the answer got lost"))
            }
            Some(Fault::Twice) => {
                let (first, second) = twice(request).await;
                let (one, two) = futures::join!(inner.clone().oneshot(first), inner.oneshot(second));
                one.or(two)
            }
            Some(Fault::Slow) => {
                let wire = Duration::from_millis(10);
                tokio::time::sleep(wire).await;
                let answer = inner.oneshot(request).await;
                tokio::time::sleep(wire).await;
                answer
            }
            Some(Fault::Held) => {
                #[expect(clippy::disallowed_methods, reason = "the call goes on after its caller gave up")]
                tokio::spawn(async move {
                    self.release.notified().await;
                    // The time that its caller gave it is long over; on a slow wire nobody would know.
                    let (mut parts, body) = request.into_parts();
                    parts.headers.remove("grpc-timeout");
                    parts.extensions.clear();
                    let answer = inner.oneshot(Request::from_parts(parts, body)).await;
                    let code = answer.map_or_else(
                        |status| Some(status.code()),
                        |ok| Status::from_header_map(ok.headers()).map(|s| s.code()),
                    );
                    self.arrived_late.lock().unwrap().push(code);
                });
                Err(Status::unavailable("the call is stuck somewhere"))
            }
        }
    }
}

async fn twice(request: Request<Body>) -> (Request<Body>, Request<Body>) {
    use http_body_util::{BodyExt, Full};
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let copy = || Body::new(Full::new(bytes.clone()).map_err(|never| match never {}));
    (Request::from_parts(parts.clone(), copy()), Request::from_parts(parts, copy()))
}

/// A process that dies at its nth commit. Dead, it reads and writes nothing any more.
#[derive(Debug)]
pub struct Mortal {
    commits_left: AtomicI64,
    after_the_effect: bool,
    dead: AtomicBool,
    died: Notify,
}

impl Mortal {
    pub fn dies_at(commit: i64, after_the_effect: bool) -> Arc<Mortal> {
        let (dead, died) = (AtomicBool::new(false), Notify::new());
        Arc::new(Mortal { commits_left: AtomicI64::new(commit), after_the_effect, dead, died })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub async fn death(&self) {
        let died = self.died.notified();
        if !self.is_dead() {
            died.await;
        }
    }

    /// Commits counted so far, for a process that was given more than it needs.
    pub fn spent(&self, given: i64) -> i64 {
        given - self.commits_left.load(Ordering::SeqCst)
    }

    /// The stores as this process has them. Bank and carrier are others' and live on.
    pub fn stores(self: &Arc<Mortal>, stores: &Stores) -> Stores {
        let mortal = |inner| self.store(inner);
        Stores {
            order: mortal(&stores.order),
            inventory: mortal(&stores.inventory),
            payment: mortal(&stores.payment),
            shipping: mortal(&stores.shipping),
            bank: mortal(&stores.bank),
            carrier: mortal(&stores.carrier),
            auditor: mortal(&stores.auditor),
            bus: stores.bus.clone(),
            order_search: stores.order_search.clone(),
            product_search: stores.product_search.clone(),
        }
    }
}

impl Mortal {
    /// One store as this process has it.
    pub fn store(self: &Arc<Mortal>, inner: &Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(MortalStore { inner: inner.clone(), life: self.clone() })
    }
}

struct MortalStore {
    inner: Arc<dyn Store>,
    life: Arc<Mortal>,
}

impl MortalStore {
    async fn alive<T>(&self, work: impl Future<Output = T>) -> T {
        if self.life.is_dead() {
            pending::<()>().await;
        }
        let done = work.await;
        if self.life.is_dead() {
            pending::<()>().await;
        }
        done
    }
}

#[async_trait]
impl Store for MortalStore {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.alive(self.inner.load(stream, after, limit)).await
    }
    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.alive(self.inner.version(stream)).await
    }
    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        self.alive(self.inner.streams(prefix, after, limit)).await
    }
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if self.life.is_dead() {
            return Box::pin(pending());
        }
        if self.life.commits_left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return self.inner.commit(commit);
        }
        if self.life.after_the_effect {
            drop(self.inner.commit(commit));
        }
        self.life.dead.store(true, Ordering::SeqCst);
        self.life.died.notify_waiters();
        Box::pin(pending())
    }
    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        self.alive(self.inner.reply(id)).await
    }
    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.alive(self.inner.read_all(after, limit)).await
    }
    async fn end(&self) -> Result<Position, ReadError> {
        self.alive(self.inner.end()).await
    }
    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        self.alive(self.inner.claim_due(lease, limit)).await
    }
    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        self.alive(self.inner.lease(name, holder, length)).await
    }
    async fn armed(&self) -> Result<u64, ReadError> {
        self.alive(self.inner.armed()).await
    }
    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        self.alive(self.inner.timers(after, limit)).await
    }
    fn growth(&self) -> watch::Receiver<()> {
        self.inner.growth()
    }
    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.alive(self.inner.mark(name)).await
    }
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        self.alive(self.inner.snapshot(stream)).await
    }
    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        self.alive(self.inner.keep_snapshot(stream, snapshot)).await
    }
    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.alive(self.inner.drop_snapshots()).await
    }
}
