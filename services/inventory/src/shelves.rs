//! A change over several streams in one commit: the reservation of an order, and product and stock of each of its lines.
//!
//! Stock of a popular product is wanted by everybody at once, so states are chained (see [`store::hot`]): under one lock a
//! change is decided on the newest states handed over and takes its place in the store's queue.
//!
//! What gives goods back, or lets them leave, rests on the reservation alone: whatever the stock is, it holds them. So it asserts
//! no version of the stock, and comes through however busy other replicas are with the same product.
//!
//! Danger: another replica's commits do not show in what is held. A change learns of them by a conflict, for even what it refuses
//! is committed with the versions that it rests on; whoever only looks compares versions with the store now and then.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cache::Cache;
use futures::future::BoxFuture;
use host::Process;
use host::call::Caller;
use host::error::{Again, Refusal};
use host::remembered::{Remembered, fingerprint};
use host::use_case::{origin, recall, unavailable};
use prometheus::Counter;
use prost::Message;
use store::folded::{self, Folded, UNAVAILABLE_TRIES, UNAVAILABLE_WAIT, unreadable};
use store::hot::{self, Generation, Hot};
use store::{Append, Commit, CommitError, CommitId, Expected, ReadError, Store, StreamId, Version, Versions};
use tokio::time::Instant;

use crate::product::{self, Product};
use crate::reservation::{self, Reservation};
use crate::stock::{self, Stock};
use crate::window::{Window, Written};

/// At most so many products are held in memory.
const PRODUCTS: usize = 20_000;
const TRIES: u32 = 32;
/// As many states are loaded at once; two of one product never are.
const LOADING: usize = 64;
/// For so long what is held is shown without asking whether another replica is ahead.
pub(crate) const TRUSTED: Duration = Duration::from_millis(250);

/// The states of products and stock, and the way to change them.
#[derive(Clone)]
pub(crate) struct Shelves {
    process: Process,
    store: Arc<dyn Store>,
    held: Arc<Mutex<Held>>,
    /// Who loads a product has its lock, for everybody loses it at once, to another replica: the others wait for what is loaded.
    loading: Arc<[tokio::sync::Mutex<()>; LOADING]>,
    window: Option<Window>,
    conflicts: Counter,
}

struct Held {
    products: Hot<Product>,
    stock: Hot<Stock>,
    /// When a SKU was last compared with the store.
    compared: BTreeMap<String, Instant>,
}

/// What a change is decided on; products and stock in the order of the SKUs asked for, and none where none were.
pub(crate) struct Seen<'a> {
    pub(crate) products: Vec<&'a Folded<Product>>,
    pub(crate) stock: Vec<&'a Folded<Stock>>,
    pub(crate) reservation: &'a Folded<Reservation>,
}

/// What a change leads to; products and stock in the order of the SKUs, missing ones unchanged.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) products: Vec<Vec<product::Event>>,
    pub(crate) stock: Vec<Vec<stock::Event>>,
    pub(crate) reservation: Vec<reservation::Event>,
}

/// What came of a change.
#[derive(Debug, PartialEq)]
pub(crate) struct Changed<R> {
    pub(crate) reply: R,
    /// Whether it has changed stock now: neither is it remembered from before, nor was there nothing to change.
    pub(crate) stock: bool,
}

/// A change that has its place in the queue.
struct HandedOver<R> {
    /// What to answer if it is committed.
    outcome: Result<R, Refusal>,
    /// Whether it changes stock.
    changes_stock: bool,
    committed: BoxFuture<'static, Result<Versions, CommitError>>,
    /// Stock streams that it takes over a multiple of [`hot::SNAPSHOT_EVERY`].
    snapshots: Vec<StreamId>,
    /// What it was decided on.
    based_on: Vec<Base>,
    /// What it makes of products and stock, for the window.
    written: Vec<Written>,
    /// Which version an append to stock leads to where it asserts none, as far as was seen; by its place in the commit.
    assumed: Vec<(usize, Version)>,
    id: CommitId,
}

/// The streams of a SKU, product and stock, and the generations in which they were looked at.
struct Base {
    product: (StreamId, Generation),
    stock: (StreamId, Generation),
}

/// What a change is about.
pub(crate) struct About<'a, Q> {
    /// The method's name, which never changes: fingerprints are kept for ever.
    pub(crate) method: &'static str,
    /// The request, for its fingerprint.
    pub(crate) request: &'a Q,
    /// The SKUs whose products and stock are looked at, in order, all asserted to be unchanged until the commit; `None` for
    /// a change of the stock that the order's reservation holds, whatever that stock is.
    pub(crate) skus: Option<&'a [String]>,
    /// The order whose reservation is looked at, if any.
    pub(crate) order_id: Option<&'a str>,
}

impl Shelves {
    pub(crate) fn new(process: &Process, store: Arc<dyn Store>, cache: Option<Arc<dyn Cache>>) -> Shelves {
        let help = "Commits of stock that had to be decided again because somebody else was faster.";
        Shelves {
            process: process.clone(),
            window: cache.map(|cache| Window::new(process, store.clone(), cache)),
            store,
            held: Arc::new(Mutex::new(Held {
                products: Hot::new(PRODUCTS),
                stock: Hot::new(PRODUCTS),
                compared: BTreeMap::new(),
            })),
            loading: Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default())),
            conflicts: process.metrics.counter("inventory_conflicts_total", help),
        }
    }

    /// Product and stock of a SKU, as far as changes were handed over: at most some milliseconds ahead of the disk, or
    /// [`TRUSTED`] behind another replica.
    pub(crate) async fn look(&self, sku: &str) -> Result<(Folded<Product>, Folded<Stock>), ReadError> {
        let compared = self.lock().compared.get(sku).copied();
        if compared.is_some_and(|compared| compared.elapsed() < TRUSTED) {
            // What does not exist is not held: anybody can ask for any number of such.
            return self.fetch(sku, false).await;
        }
        self.look_anew(sku).await
    }

    /// The same, behind nobody.
    pub(crate) async fn look_anew(&self, sku: &str) -> Result<(Folded<Product>, Folded<Stock>), ReadError> {
        let (product, stock) = streams(sku);
        let versions = (self.store.version(&product).await?, self.store.version(&stock).await?);
        {
            let mut held = self.lock();
            if held.products.get(&product).is_some_and(|held| held.version < versions.0) {
                let generation = held.products.generation(&product);
                held.products.forget(&product, generation);
            }
            if held.stock.get(&stock).is_some_and(|held| held.version < versions.1) {
                let generation = held.stock.generation(&stock);
                held.stock.forget(&stock, generation);
            }
            if versions.0 > 0 {
                if held.compared.len() >= PRODUCTS {
                    held.compared.clear();
                }
                held.compared.insert(sku.to_owned(), Instant::now());
            }
        }
        self.fetch(sku, false).await
    }

    /// The same to be shown, never decided on: where replicas share a cache, through it, and as it was while the store is
    /// away.
    pub(crate) async fn show(&self, sku: &str) -> Result<(Folded<Product>, Folded<Stock>), ReadError> {
        let Some(window) = &self.window else { return self.look(sku).await };
        let streams = streams(sku);
        let product = newer(window.show(&streams.0, false).await?, self.lock().products.get(&streams.0));
        if product.version == 0 {
            return Ok(Default::default());
        }
        let stock = newer(window.show(&streams.1, true).await?, self.lock().stock.get(&streams.1));
        Ok((product, stock))
    }

    async fn fetch(&self, sku: &str, hold_absent: bool) -> Result<(Folded<Product>, Folded<Stock>), ReadError> {
        let (product, stock) = streams(sku);
        let held = || {
            let held = self.lock();
            Some((held.products.get(&product)?.clone(), held.stock.get(&stock)?.clone()))
        };
        if let Some(held) = held() {
            return Ok(held);
        }
        let place = sku.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % LOADING;
        let _loading = self.loading[place].lock().await;
        if let Some(held) = held() {
            return Ok(held);
        }
        let generations = {
            let held = self.lock();
            (held.products.generation(&product), held.stock.generation(&stock))
        };
        let store = self.store.as_ref();
        let loaded: (Folded<Product>, _) = (folded::load(store, &product).await?, hot::load(store, &stock).await?);
        if hold_absent || loaded.0.version > 0 {
            let mut held = self.lock();
            held.products.put(product, generations.0, loaded.0.clone());
            held.stock.put(stock, generations.1, loaded.1.clone());
        }
        Ok(loaded)
    }

    /// What is set aside for an order.
    pub(crate) async fn reservation(&self, order_id: &str) -> Result<Folded<Reservation>, ReadError> {
        folded::load(self.store.as_ref(), &reservation_stream(order_id)).await
    }

    /// Changes several streams in one commit, once per command id. A refusal is remembered too, together with the versions
    /// that it was decided on: it may rest on a change that fails after all.
    pub(crate) async fn change<Q: Message, R: Message + Default>(
        &self,
        caller: &Caller,
        about: &About<'_, Q>,
        decide: impl Fn(&Seen<'_>) -> Result<(Change, R), Refusal> + Send + Sync,
    ) -> Result<Changed<R>, Refusal> {
        let correlation_id =
            about.order_id.or(about.skus.and_then(|skus| skus.first()).map(String::as_str)).unwrap_or_default();
        let (id, meta) = origin(caller, correlation_id)?;
        let print = fingerprint(about.method, about.request);
        // Looked for first: a commit that is refused as handled takes those chained behind it with it.
        if let Some(reply) = self.store.reply(&id).await.map_err(unavailable)? {
            return Ok(Changed { reply: recall(&reply, print)?, stock: false });
        }
        self.insist(about, &Commit::new(id, meta), Some(print), decide).await
    }

    /// Changes several streams in the commit that takes in what another service told. Nothing is remembered but that, and a
    /// refusal takes nothing in. Whether it has changed stock now.
    pub(crate) async fn take_in(
        &self,
        blank: &Commit,
        order_id: &str,
        decide: impl Fn(&Seen<'_>) -> Result<Change, Refusal> + Send + Sync,
    ) -> Result<bool, Refusal> {
        let about = About { method: "", request: &(), skus: None, order_id: Some(order_id) };
        let decide = |seen: &Seen<'_>| decide(seen).map(|change| (change, ()));
        self.insist(&about, blank, None, decide).await.map(|changed| changed.stock)
    }

    /// Decides and commits until it went through. With a fingerprint, what was answered is remembered under it.
    async fn insist<Q: Message, R: Message + Default>(
        &self,
        about: &About<'_, Q>,
        blank: &Commit,
        print: Option<[u8; 16]>,
        decide: impl Fn(&Seen<'_>) -> Result<(Change, R), Refusal> + Send + Sync,
    ) -> Result<Changed<R>, Refusal> {
        // Where SKUs are named, the order has mostly reserved nothing yet; a wrong guess is a conflict.
        let (mut guess, mut unanswered, mut may_have_changed) = (about.skus.is_some(), 0, false);
        for tried in 0..TRIES {
            let reservation = match about.order_id {
                Some(order_id) if !guess => self.reservation(order_id).await.map_err(unavailable)?,
                _ => Folded::default(),
            };
            guess = false;
            let held = || reservation.state.held().iter().map(|held| held.sku.clone()).collect();
            let skus: Vec<String> = about.skus.map_or_else(held, <[String]>::to_vec);
            if about.skus.is_some() {
                for sku in &skus {
                    self.fetch(sku, true).await.map_err(unavailable)?;
                }
            }
            let first = tried == 0;
            let Some(handed_over) = self.hand_over(about, &skus, &reservation, (blank.clone(), print, first), &decide)
            else {
                continue;
            };
            match handed_over.committed.await {
                Ok(versions) => {
                    let as_seen = handed_over.assumed.iter().all(|(place, version)| versions[*place] == *version);
                    if as_seen {
                        self.confirm(&handed_over.based_on, &handed_over.id);
                        if let Some(window) = &self.window {
                            window.wrote(&self.process.tasks, handed_over.written);
                        }
                    } else {
                        self.forget(&handed_over.based_on);
                    }
                    self.keep_snapshots(&handed_over.snapshots).await;
                    return handed_over.outcome.map(|reply| Changed { reply, stock: handed_over.changes_stock });
                }
                Err(failed) => {
                    self.forget(&handed_over.based_on);
                    match failed {
                        CommitError::AlreadyHandled(reply) => {
                            self.catch_up(&handed_over.based_on).await;
                            let reply = print.map_or_else(|| Ok(R::default()), |print| recall(&reply, print))?;
                            // Handled before is mostly the commit whose answer was lost.
                            return Ok(Changed { reply, stock: may_have_changed });
                        }
                        CommitError::Conflict { .. } => self.conflicts.inc(),
                        CommitError::Unavailable(_) if unanswered + 1 < UNAVAILABLE_TRIES => {
                            unanswered += 1;
                            may_have_changed |= handed_over.changes_stock;
                            tokio::time::sleep(UNAVAILABLE_WAIT).await;
                        }
                        other => return Err(unavailable(unreadable(other))),
                    }
                }
            }
        }
        Err(Refusal::unavailable(format!("stock changed {TRIES} times while it was being changed")))
    }

    /// Decides and takes the place in the queue, under one lock; `None` if a state that is needed is not held any more.
    fn hand_over<Q: Message, R: Message + Default>(
        &self,
        about: &About<'_, Q>,
        skus: &[String],
        reservation: &Folded<Reservation>,
        (mut commit, print, first): (Commit, Option<[u8; 16]>, bool),
        decide: &(impl Fn(&Seen<'_>) -> Result<(Change, R), Refusal> + Send + Sync),
    ) -> Option<HandedOver<R>> {
        let mut held = self.lock();
        let streams: Vec<_> = skus.iter().map(|sku| streams(sku)).collect();
        let products = streams.iter().map(|(product, _)| held.products.get(product)).collect::<Option<Vec<_>>>();
        let stock = streams.iter().map(|(_, stock)| held.stock.get(stock)).collect::<Option<Vec<_>>>();
        let all_held = products.is_some() && stock.is_some();
        let seen = match about.skus {
            Some(_) => Seen { products: products?, stock: stock?, reservation },
            None => Seen { products: vec![], stock: vec![], reservation },
        };
        // What asserts no version of the stock takes a place in the chain as well, to move on what is held; but not again once
        // the chain broke, for it has to come through.
        let chained = about.skus.is_some() || (first && all_held);
        let (change, reply, outcome) = match decide(&seen) {
            Ok((change, reply)) => (change, Ok(reply.encode_to_vec()), Ok(reply)),
            Err(refusal) => (Change::default(), Err(refusal.clone()), Err(refusal)),
        };
        // "Not now" is no answer to remember.
        let remembered = print.filter(|_| !matches!(&outcome, Err(refusal) if refusal.again() == Again::SameId));
        match remembered {
            Some(print) => commit.reply = Remembered::new(print, reply).encode(),
            // Only that what the refusal rests on comes true: the command, or the fact, is not taken in.
            None if outcome.is_err() => commit = Commit::new(self.process.ids.next().to_string().into(), commit.meta),
            None => {}
        }
        self.append(&mut commit, about, &seen, &streams, &change);
        let (mut snapshots, mut written, mut assumed) = (vec![], vec![], vec![]);
        let mut based_on = Vec::with_capacity(streams.len());
        let of_stock = commit.appends.len() - streams.len();
        for (n, (product, stock)) in streams.into_iter().enumerate() {
            let sold = change.stock.get(n).map_or(&[][..], Vec::as_slice);
            if chained {
                if held.stock.get(&stock).is_some_and(|before| hot::crosses(before.version, sold.len())) {
                    snapshots.push(stock.clone());
                }
                let rest_on = [held.products.rests_on(&product), held.stock.rests_on(&stock)];
                commit.after.extend(rest_on.into_iter().flatten().cloned());
                held.products.advance(&product, change.products.get(n).map_or(&[], Vec::as_slice), &commit.id);
                held.stock.advance(&stock, sold, &commit.id);
            }
            if chained && self.window.is_some() {
                let changed = change.products.get(n).is_some_and(|events| !events.is_empty());
                written
                    .extend(held.products.get(&product).filter(|_| changed).map(|after| Written::of(&product, after)));
                written.extend(
                    held.stock.get(&stock).filter(|_| !sold.is_empty()).map(|after| Written::of(&stock, after)),
                );
            }
            if about.skus.is_none() {
                // Where it is not chained, no version is that one.
                let after = held.stock.get(&stock).filter(|_| chained).map_or(0, |after| after.version);
                assumed.push((of_stock + n, after));
            }
            let generations = (held.products.generation(&product), held.stock.generation(&stock));
            based_on.push(Base { product: (product, generations.0), stock: (stock, generations.1) });
        }
        // Danger: under the same lock as the decision. Otherwise two that decided on one state swap places in the queue.
        let id = commit.id.clone();
        let committed = self.store.commit(commit);
        let changes_stock = change.stock.iter().any(|events| !events.is_empty());
        Some(HandedOver { outcome, changes_stock, committed, snapshots, based_on, written, assumed, id })
    }

    /// Adds to a commit what a change appends; to each stock last.
    fn append<Q>(
        &self,
        commit: &mut Commit,
        about: &About<'_, Q>,
        seen: &Seen<'_>,
        streams: &[(StreamId, StreamId)],
        change: &Change,
    ) {
        let ids = &self.process.ids;
        if let Some(order_id) = about.order_id {
            let stream = reservation_stream(order_id);
            commit.appends.push(folded::append(&stream, seen.reservation.version, &change.reservation, ids));
        }
        for ((n, (product, _)), seen) in streams.iter().enumerate().zip(&seen.products) {
            let events = change.products.get(n).map_or(&[][..], Vec::as_slice);
            commit.appends.push(folded::append(product, seen.version, events, ids));
        }
        for (n, (_, stock)) in streams.iter().enumerate() {
            let events = change.stock.get(n).map_or(&[][..], Vec::as_slice);
            let seen = seen.stock.get(n);
            let append = folded::append(stock, seen.map_or(0, |seen| seen.version), events, ids);
            let expected = if seen.is_some() { append.expected } else { Expected::Any };
            commit.appends.push(Append { expected, ..append });
        }
    }

    /// A busy product's stock has a long stream; a snapshot keeps a restart from reading all of it.
    async fn keep_snapshots(&self, streams: &[StreamId]) {
        for stream in streams {
            let kept = async {
                // Not the held state, which may be ahead of what is durable.
                let durable = hot::load::<Stock>(self.store.as_ref(), stream).await?;
                self.store.keep_snapshot(stream, hot::snapshot(&durable)).await
            };
            if let Err(why) = kept.await {
                tracing::debug!(%stream, %why, "a snapshot was not kept");
            }
        }
    }

    fn confirm(&self, based_on: &[Base], id: &CommitId) {
        let mut held = self.lock();
        for Base { product, stock } in based_on {
            held.products.confirm(&product.0, id);
            held.stock.confirm(&stock.0, id);
        }
    }

    fn forget(&self, based_on: &[Base]) {
        let mut held = self.lock();
        for Base { product, stock } in based_on {
            held.products.forget(&product.0, product.1);
            held.stock.forget(&stock.0, stock.1);
        }
    }

    /// It did happen, and is not held any more: the window must not show less than what was handed over here.
    async fn catch_up(&self, based_on: &[Base]) {
        let Some(window) = &self.window else { return };
        let (store, mut written) = (self.store.as_ref(), vec![]);
        for Base { product: (product, _), stock: (stock, _) } in based_on {
            written.extend(hot::load::<Product>(store, product).await.map(|after| Written::of(product, &after)));
            written.extend(hot::load::<Stock>(store, stock).await.map(|after| Written::of(stock, &after)));
        }
        window.wrote(&self.process.tasks, written);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this replica has handed over, where that is newer than what is shown. At the same version it is not: another replica's
/// change may have come true in its place.
fn newer<D: Clone>(shown: Folded<D>, held: Option<&Folded<D>>) -> Folded<D> {
    held.filter(|held| held.version > shown.version).cloned().unwrap_or(shown)
}

/// What product streams are named by, before the SKU.
pub(crate) const PRODUCT: &str = "product-";
/// What stock streams are named by, before the SKU.
pub(crate) const STOCK: &str = "stock-";

fn streams(sku: &str) -> (StreamId, StreamId) {
    (StreamId::from(format!("{PRODUCT}{sku}")), StreamId::from(format!("{STOCK}{sku}")))
}

/// What reservation streams are named by, before the order's id.
pub(crate) const RESERVATION: &str = "reservation-";

fn reservation_stream(order_id: &str) -> StreamId {
    StreamId::from(format!("{RESERVATION}{order_id}"))
}

#[cfg(test)]
#[path = "shelves_tests.rs"]
mod tests;
