//! What orders can be found by: the read model of this service.
use async_trait::async_trait;
use search::Document;
use search::projection::Projection;
use store::folded::{self, Folded};
use store::{ReadError, Store, StreamId};

use crate::ledger::ORDER;
use crate::order::{Address, Order};

/// Orders in a search index. Each is its customer's.
#[derive(Clone, Copy, Debug)]
pub struct Found;

/// The facet that tells where an order stands.
pub(crate) const STATUS: &str = "status";

#[async_trait]
impl Projection for Found {
    fn name(&self) -> &'static str {
        "order"
    }

    fn concerns(&self, stream: &StreamId) -> bool {
        stream.0.starts_with(ORDER)
    }

    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
        let Folded { state, version }: Folded<Order> = folded::load(store, stream).await?;
        let status = crate::grpc::status(&state).as_str_name().to_owned();
        let Address { recipient, street, city, postal_code, .. } = state.details.shipping_address;
        let skus = state.details.lines.into_iter().map(|line| line.sku);
        Ok(Some(Document {
            id: stream.0.strip_prefix(ORDER).unwrap_or_default().to_owned(),
            version,
            owner: state.details.customer_id,
            facets: [(STATUS, status)].into(),
            text: [recipient, street, city, postal_code].into_iter().chain(skus).collect(),
        }))
    }
}
