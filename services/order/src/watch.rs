//! What happens to an order, told while it happens.
//!
//! # Problem
//! A client that wants to know when its parcel leaves asks again and again, too often for the shop and too seldom for the
//! customer; and one whose connection breaks does not know what it missed.
//!
//! # Pattern
//! A subscription to one stream of the log, from a version on: catch up first, then follow. The version is what a client
//! resumes by.
//!
//! # Here
//! The same events as in the audit trail, in the same order, each once. Whoever follows is woken by what happens to the order
//! (`followers.rs`), and then looks at its stream.
//!
//! # Limits
//! What another replica does shows once the log has been read: some milliseconds later.
use std::collections::VecDeque;

use futures::stream::{BoxStream, StreamExt, try_unfold};
use host::call::Caller;
use host::check;
use host::error::Refusal;
use host::use_case::unavailable;
use proto::order::{OrderEvent, WatchOrderRequest, WatchOrderResponse};
use store::{StreamId, Version};
use tonic::{Code, Status};

use crate::followers::Follower;
use crate::ledger::order_stream;
use crate::service::Orders;

/// So many events are read at once.
const PAGE: usize = 100;

/// Somebody who follows an order.
struct Watcher {
    orders: Orders,
    order_id: String,
    stream: StreamId,
    follower: Follower,
    seen: Version,
    ready: VecDeque<OrderEvent>,
    /// At this version the order had not ended: until there is news, that need not be looked up.
    goes_on_after: Option<Version>,
}

impl Orders {
    /// The events of the caller's own order after a version, and those to come.
    ///
    /// # Errors
    /// OUT_OF_RANGE if none can come.
    pub(crate) async fn watch(
        &self,
        caller: &Caller,
        request: WatchOrderRequest,
    ) -> Result<BoxStream<'static, Result<WatchOrderResponse, Status>>, Refusal> {
        let WatchOrderRequest { order_id, after_version } = request;
        check::id("order_id", &order_id)?;
        let order = self.own(caller, &order_id).await?;
        let (present, after) = (order.version, after_version.unwrap_or(0));
        let seen = Version::try_from(after).ok().filter(|after| *after <= present).ok_or_else(|| {
            let message = format!("the order is at version {present}; what follows {after} cannot be told");
            Refusal::invalid("after_version", message)
        })?;
        if seen == present && order.state.ended() {
            let message = format!("the order has ended; nothing follows version {present}");
            return Err(Refusal::new(Code::OutOfRange, "ended", message));
        }
        let (orders, stream) = (self.clone(), order_stream(&order_id));
        let mut follower = self.ledger.followers.follow(stream.clone());
        follower.read_log();
        let watcher = Watcher { orders, order_id, stream, follower, seen, ready: VecDeque::new(), goes_on_after: None };
        Ok(try_unfold(watcher, Watcher::next).boxed())
    }
}

impl Watcher {
    async fn next(mut self) -> Result<Option<(WatchOrderResponse, Watcher)>, Status> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some((WatchOrderResponse { event: Some(event) }, self)));
            }
            let ledger = &self.orders.ledger;
            let news = ledger.store.load(&self.stream, self.seen, PAGE).await.map_err(unavailable)?;
            if let Some(last) = news.last() {
                self.seen = last.version;
                self.ready = news.into_iter().map(crate::history::shown).collect::<Result<_, _>>()?;
                continue;
            }
            if self.orders.process.tasks.is_stopping() {
                return Ok(None);
            }
            if self.goes_on_after != Some(self.seen) {
                let order = ledger.order(&self.order_id).await.map_err(unavailable)?;
                if order.version > self.seen {
                    continue;
                }
                if order.state.ended() {
                    return Ok(None);
                }
                self.goes_on_after = Some(self.seen);
            }
            self.follower.woken().await;
        }
    }
}
