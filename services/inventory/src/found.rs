//! What products can be found by: the read model of this service.
use async_trait::async_trait;
use search::Document;
use search::projection::Projection;
use store::folded::{self, Folded};
use store::{ReadError, Store, StreamId};

use crate::product::{Description, Product};
use crate::shelves::PRODUCT;

/// Products in a search index. They are everybody's.
#[derive(Clone, Copy, Debug)]
pub struct Found;

/// The facet that tells a product's category.
pub(crate) const CATEGORY: &str = "category";

#[async_trait]
impl Projection for Found {
    fn name(&self) -> &'static str {
        "product"
    }

    fn concerns(&self, stream: &StreamId) -> bool {
        stream.0.starts_with(PRODUCT)
    }

    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError> {
        let Folded { state, version }: Folded<Product> = folded::load(store, stream).await?;
        let Description { name_ko, name_en, category, .. } = state.description;
        let id = stream.0.strip_prefix(PRODUCT).unwrap_or_default().to_owned();
        let (facets, text) = ([(CATEGORY, category.clone())].into(), vec![name_ko, name_en, id.clone(), category]);
        Ok(state.unit_price.map(|_| Document { id, version, owner: String::new(), facets, text }))
    }
}
