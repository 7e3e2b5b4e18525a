//! Use cases: place, look at, list and call off orders.
use std::sync::Arc;
use std::time::Duration;

use host::call::Caller;
use host::error::{Again, Refusal};
use host::remembered::{Remembered, fingerprint};
use host::use_case::{origin, recall, unavailable};
use host::{Process, check};
use proto::inventory::CheckLinesRequest;
use proto::order::{CancelOrderRequest, ListOrdersRequest, OrderStatus, PlaceOrderRequest, ShippingAddress};
use proto::payment::CheckPaymentMethodRequest;
use saga::{Input, Pending, Runner};
use search::Query;
use search::projection::Projector;
use store::folded::{self, Folded, persist, unreadable};
use store::{Append, Commit, CommitError, CommitId, Expected, StreamId, Version};
use tokio::time::Instant;
use tonic::Code;

use crate::checkout::{Calls, OrderData, Sagas, lines};
use crate::followers::Follower;
use crate::found::STATUS;
use crate::ledger::{Ledger, Listing, cancellation_stream, checkout_stream, customer_stream, order_stream, refusal};
use crate::order::{Address, Command, Details, Line, Order, Status};

/// The currency that the shop sells in.
const CURRENCY: &str = "KRW";
/// The most lines of an order.
const MAX_LINES: usize = 100;
/// The highest total of an order, in minor units.
const MAX_TOTAL: i64 = 1_000_000_000_000;
/// About so many orders are under way at most, waiting for a participant or not; more are refused.
const MAX_UNDER_WAY: u64 = 20_000;
/// How long the checks before an order is placed may take; without an answer the checkout will find out.
const COURTESY: Duration = Duration::from_millis(500);
/// How long an order is waited for before the log is read for it: by then this process has settled its own, if all is well.
const OWN: Duration = Duration::from_millis(500);
/// At most so many orders are looked through for one page.
const SCAN: u64 = 1_000;
const TRIES: u32 = 16;

/// The orders of the shop. Clones share them.
#[derive(Clone)]
pub(crate) struct Orders {
    pub(crate) process: Process,
    pub(crate) ledger: Ledger,
    pub(crate) calls: Arc<Calls>,
    pub(crate) runner: Runner,
    pub(crate) sagas: Sagas,
    pub(crate) found: Projector,
}

/// An order and its id, as they are answered.
pub(crate) type Answer = (String, Folded<Order>);

/// What is remembered under a command id is the order that it was about.
type Named = CancelOrderRequest;

/// An order that a command was carried out on, now or before.
pub(crate) struct Accepted {
    order_id: String,
    /// There if the order was placed now: it follows it since before it could be settled.
    follower: Option<Follower>,
}

impl Accepted {
    fn new(order_id: String) -> Accepted {
        Accepted { order_id, follower: None }
    }
}

impl Orders {
    /// Places an order, once per command id, and begins its checkout in the same commit.
    pub(crate) async fn place(&self, caller: &Caller, request: PlaceOrderRequest) -> Result<Accepted, Refusal> {
        let print = fingerprint("PlaceOrder", &request);
        if let Some(Named { order_id }) = self.answered(caller, print).await? {
            return Ok(Accepted::new(order_id));
        }
        let details = details(caller, request)?;
        if self.runner.open() >= MAX_UNDER_WAY {
            let message = "too many orders are under way; try again in a second";
            return Err(Refusal::new(Code::ResourceExhausted, "too_many_orders", message));
        }
        self.check_courteously(caller, &details).await?;
        let order_id = self.process.ids.next().to_string();
        let saga = checkout_stream(&order_id);
        let pending = self.begin(&saga, &self.sagas.checkout, caller, &order_id, details.clone()).await?;
        let placed = self.ledger.decided(&order_id, &Folded::default(), Command::Place(details)).map_err(refusal)?;
        let listed = folded::encode(&Listing::OrderListed { order_id: order_id.clone() }, &self.process.ids);
        let listing =
            Append { stream: customer_stream(&caller.customer), expected: Expected::Any, events: vec![listed] };
        let follower = self.ledger.followers.follow(order_stream(&order_id));
        let outcome = Ok(Named { order_id: order_id.clone() });
        match self.commit(caller, print, &outcome, vec![placed, listing], Some(&pending)).await {
            Ok(()) => {
                tracing::info!(order_id, "order placed");
                self.runner.carry_on(pending);
                Ok(Accepted { order_id, follower: Some(follower) })
            }
            Err(CommitError::AlreadyHandled(reply)) => {
                let Named { order_id } = recall(&reply, print)?;
                Ok(Accepted::new(order_id))
            }
            Err(other) => Err(unavailable(unreadable(other))),
        }
    }

    /// One of the caller's own orders; waits for it to be settled if the caller wants to.
    pub(crate) async fn see(&self, caller: &Caller, order_id: String) -> Result<Answer, Refusal> {
        check::id("order_id", &order_id)?;
        let order = self.own(caller, &order_id).await?;
        if caller.wait.is_zero() { Ok((order_id, order)) } else { self.settled(caller, Accepted::new(order_id)).await }
    }

    /// Calls an order off. What becomes of order and saga is decided in one commit over both.
    pub(crate) async fn cancel(&self, caller: &Caller, request: CancelOrderRequest) -> Result<Accepted, Refusal> {
        let print = fingerprint("CancelOrder", &request);
        let order_id = request.order_id;
        check::id("order_id", &order_id)?;
        for _ in 0..TRIES {
            let order = self.own(caller, &order_id).await?;
            let (mut appends, mut pending) = (vec![], None);
            let outcome = match self.ledger.decided(&order_id, &order, Command::RequestCancellation) {
                Ok(asked) => {
                    if !asked.events.is_empty() {
                        (appends, pending) = self.turn(caller, &order_id, &order.state).await?;
                    }
                    appends.push(asked);
                    Ok(Named { order_id: order_id.clone() })
                }
                Err(why) => {
                    appends.push(folded::append::<crate::order::Event>(
                        &crate::ledger::order_stream(&order_id),
                        order.version,
                        &[],
                        &self.process.ids,
                    ));
                    Err(refusal(why))
                }
            };
            match self.commit(caller, print, &outcome, appends, pending.as_ref()).await {
                Ok(()) => {
                    outcome?;
                    tracing::info!(order_id, "cancellation accepted");
                    if let Some(pending) = pending {
                        self.runner.carry_on(pending);
                    }
                    return Ok(Accepted::new(order_id));
                }
                Err(CommitError::AlreadyHandled(reply)) => {
                    let Named { order_id } = recall(&reply, print)?;
                    return Ok(Accepted::new(order_id));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(other) => return Err(unavailable(unreadable(other))),
            }
        }
        Err(Refusal::unavailable(format!("order {order_id} changed {TRIES} times while it was being called off")))
    }

    /// What a cancellation does to the order's sagas: before confirmation it turns the checkout back, after it a saga of
    /// its own begins. A checkout that is turning back already is only held to that.
    async fn turn(
        &self,
        caller: &Caller,
        order_id: &str,
        order: &Order,
    ) -> Result<(Vec<Append>, Option<Pending>), Refusal> {
        if order.status == Status::Confirmed {
            let saga = cancellation_stream(order_id);
            let pending = self.begin(&saga, &self.sagas.cancellation, caller, order_id, order.details.clone()).await?;
            return Ok((vec![], Some(pending)));
        }
        let stream = checkout_stream(order_id);
        let saga = self.runner.load(&stream).await.map_err(unavailable)?;
        let cancel = Input::Cancel { by: caller.actor.to_string() };
        let pending = self.runner.decide(&stream, &saga, &cancel).await.map_err(unavailable)?;
        let held = Append { stream, expected: Expected::Exact(saga.version), events: vec![] };
        Ok((if pending.is_some() { vec![] } else { vec![held] }, pending))
    }

    async fn begin(
        &self,
        stream: &StreamId,
        definition: &Arc<saga::Definition>,
        caller: &Caller,
        order_id: &str,
        details: Details,
    ) -> Result<Pending, Refusal> {
        let data = OrderData { order_id: order_id.to_owned(), details };
        let start = Input::Start {
            saga: stream.0.clone(),
            definition: definition.clone(),
            data: Arc::new(serde_json::to_value(data).expect("an order is plain data")),
            correlation_id: order_id.to_owned(),
            traceparent: caller.trace.to_string(),
        };
        let pending = self.runner.decide(stream, &Folded::default(), &start).await.map_err(unavailable)?;
        Ok(pending.expect("a saga that has not begun begins"))
    }

    /// Commits a change of an order, together with what its saga decided, and the answer to remember.
    async fn commit(
        &self,
        caller: &Caller,
        print: [u8; 16],
        outcome: &Result<Named, Refusal>,
        mut appends: Vec<Append>,
        pending: Option<&Pending>,
    ) -> Result<(), CommitError> {
        let malformed = |why: Refusal| CommitError::Malformed(why.message);
        let order_id = outcome.as_ref().map(|named| named.order_id.as_str()).unwrap_or_default();
        let (id, meta) = origin(caller, order_id).map_err(malformed)?;
        let kept = outcome.as_ref().map(prost::Message::encode_to_vec).map_err(Clone::clone);
        appends.extend(pending.iter().flat_map(|pending| pending.appends.clone()));
        let timers = pending.iter().map(|pending| pending.timer.clone()).collect();
        let reply = Remembered::new(print, kept).encode();
        persist(self.ledger.store.as_ref(), Commit { appends, timers, reply, ..Commit::new(id, meta) }).await
    }

    /// What was answered under the caller's command id before.
    async fn answered(&self, caller: &Caller, print: [u8; 16]) -> Result<Option<Named>, Refusal> {
        let id = CommitId(caller.command()?.clone());
        let reply = self.ledger.store.reply(&id).await.map_err(unavailable)?;
        reply.map(|reply| recall(&reply, print)).transpose()
    }

    /// Refuses an order with a typo before it is placed. Only a definite answer counts: if nobody answers, the checkout
    /// finds out.
    async fn check_courteously(&self, caller: &Caller, details: &Details) -> Result<(), Refusal> {
        let mut caller = caller.clone();
        caller.deadline = caller.deadline.at_most(COURTESY);
        let (mut inventory, mut payment) = (self.calls.inventory.clone(), self.calls.payment.clone());
        let method = CheckPaymentMethodRequest { payment_method: details.payment_method.clone() };
        let lines = CheckLinesRequest { lines: lines(&details.lines) };
        for answer in [
            inventory.check_lines(caller.request(lines)).await.err(),
            payment.check_payment_method(caller.request(method)).await.err(),
        ] {
            let refusal = answer.map(|status| Refusal::of(&status));
            if let Some(refusal) = refusal.filter(|refusal| refusal.again() == Again::No) {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// An order, if it is the caller's own.
    pub(crate) async fn own(&self, caller: &Caller, order_id: &str) -> Result<Folded<Order>, Refusal> {
        let order = self.ledger.order(order_id).await.map_err(unavailable)?;
        if order.version == 0 || order.state.details.customer_id != *caller.customer {
            return Err(refusal(crate::order::Rejection::Unknown));
        }
        Ok(order)
    }

    /// The order as soon as it is settled, or as it is when the caller does not wait any longer.
    ///
    /// Danger: only in the future that answers the caller, which is dropped when the caller leaves. On the process's tasks a wait would
    /// outlive it, and waits that nobody waits for would add up.
    pub(crate) async fn settled(&self, caller: &Caller, accepted: Accepted) -> Result<Answer, Refusal> {
        let Accepted { order_id, follower } = accepted;
        let until = Instant::now() + caller.wait.min(caller.deadline.left());
        let mut just_placed = follower.is_some();
        let mut follower = follower.unwrap_or_else(|| self.ledger.followers.follow(order_stream(&order_id)));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !just_placed || left.is_zero() {
                let order = self.ledger.order(&order_id).await.map_err(unavailable)?;
                if order.state.settled() || left.is_zero() || self.process.tasks.is_stopping() {
                    return Ok((order_id, order));
                }
            }
            just_placed = false;
            // Woken or not: both lead to a look.
            let patience = if follower.reads_log() { left } else { left.min(OWN) };
            if tokio::time::timeout(patience, follower.woken()).await.is_err() {
                follower.read_log();
            }
        }
    }

    /// A page of the caller's own orders, newest first, and the token of the next.
    pub(crate) async fn list(
        &self,
        caller: &Caller,
        request: &ListOrdersRequest,
    ) -> Result<(Vec<Answer>, String), Refusal> {
        let size = check::page_size(request.page_size)?;
        let status = OrderStatus::try_from(request.status)
            .map_err(|_| Refusal::invalid("status", format!("there is no order status {}", request.status)))?;
        if !request.query.is_empty() {
            return self.find(caller, request, size, status).await;
        }
        let stream = customer_stream(&caller.customer);
        let store = &self.ledger.store;
        let newest = store.version(&stream).await.map_err(unavailable)?;
        let mut next = match request.page_token.as_str() {
            "" => newest,
            token => {
                token.parse::<Version>().ok().filter(|version| (1..=newest).contains(version)).ok_or_else(|| {
                    Refusal::invalid(
                        "page_token",
                        "page_token is the next_page_token of the page before, as it was given",
                    )
                })?
            }
        };
        let (mut page, last) = (vec![], next.saturating_sub(SCAN));
        while next > last && page.len() < size {
            let chunk = next.min(size as Version).min(next - last);
            let listed = store.load(&stream, next - chunk, chunk as usize).await.map_err(unavailable)?;
            for listing in listed.iter().rev() {
                let Listing::OrderListed { order_id } = folded::decode(listing).map_err(unavailable)?;
                let order = self.ledger.order(&order_id).await.map_err(unavailable)?;
                if status == OrderStatus::Unspecified || crate::grpc::status(&order.state) == status {
                    page.push((order_id, order));
                }
                next -= 1;
                if page.len() == size {
                    break;
                }
            }
        }
        Ok((page, if next == 0 { String::new() } else { next.to_string() }))
    }

    /// A page of the caller's own orders that have all the words. They are shown as they are now.
    async fn find(
        &self,
        caller: &Caller,
        request: &ListOrdersRequest,
        size: usize,
        status: OrderStatus,
    ) -> Result<(Vec<Answer>, String), Refusal> {
        let only = (status != OrderStatus::Unspecified).then(|| (STATUS, status.as_str_name().to_owned()));
        let query = Query {
            text: request.query.clone(),
            owner: caller.customer.to_string(),
            facets: only.into_iter().collect(),
            size,
            page_token: request.page_token.clone(),
            seen: request.seen.clone(),
        };
        let found = self.found.search(&query).await?;
        let mut page = Vec::with_capacity(found.ids.len());
        for order_id in found.ids {
            let order = self.ledger.order(&order_id).await.map_err(unavailable)?;
            page.push((order_id, order));
        }
        Ok((page, found.next_page_token))
    }
}

fn details(caller: &Caller, request: PlaceOrderRequest) -> Result<Details, Refusal> {
    check::text("customer_id", &caller.customer, 1..=64)?;
    let PlaceOrderRequest { lines, payment_method, shipping_address } = request;
    if !(1..=MAX_LINES).contains(&lines.len()) {
        return Err(Refusal::invalid("lines", format!("an order has 1 to {MAX_LINES} lines, not {}", lines.len())));
    }
    let mut total: i64 = 0;
    for (n, line) in lines.iter().enumerate() {
        check::sku(&format!("lines[{n}].sku"), &line.sku)?;
        check::number(&format!("lines[{n}].quantity"), line.quantity, 1..=1_000)?;
        check::number(&format!("lines[{n}].unit_price"), line.unit_price, 1..=MAX_TOTAL)?;
        if lines[..n].iter().any(|before| before.sku == line.sku) {
            let message = format!("{} stands in two lines; add up their quantities", line.sku);
            return Err(Refusal::invalid(format!("lines[{n}].sku"), message));
        }
        // At most 100 x 1,000 x 10^12, far below what 64 bits hold.
        total += line.quantity * line.unit_price;
    }
    if total > MAX_TOTAL {
        return Err(Refusal::invalid("lines", format!("an order's total is at most {MAX_TOTAL}, not {total}")));
    }
    check::text("payment_method", &payment_method, 1..=64)?;
    let Some(address) = shipping_address else {
        return Err(Refusal::invalid("shipping_address", "shipping_address is missing"));
    };
    let lines = lines
        .into_iter()
        .map(|line| Line { sku: line.sku, quantity: line.quantity, unit_price: line.unit_price })
        .collect();
    let (customer_id, currency) = (caller.customer.to_string(), CURRENCY.to_owned());
    Ok(Details { customer_id, lines, total, currency, payment_method, shipping_address: checked(address)? })
}

fn checked(address: ShippingAddress) -> Result<Address, Refusal> {
    let ShippingAddress { recipient, street, city, postal_code, country } = address;
    check::text("shipping_address.recipient", &recipient, 1..=100)?;
    check::text("shipping_address.street", &street, 1..=200)?;
    check::text("shipping_address.city", &city, 1..=100)?;
    check::text("shipping_address.postal_code", &postal_code, 1..=16)?;
    if !(country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase())) {
        return Err(Refusal::invalid(
            "shipping_address.country",
            "shipping_address.country is two letters A-Z, such as KR",
        ));
    }
    Ok(Address { recipient, street, city, postal_code, country })
}
