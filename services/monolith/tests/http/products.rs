//! The catalogue.
use http::StatusCode;
use serde_json::json;

use crate::shop::{Client, text};

#[tokio::test]
async fn a_product_is_found_soon_after_it_was_added_and_shown_as_it_is() {
    let client = Client::new("kim");
    let product = client.product("NEW", 3).await;
    let there = |answer: &crate::shop::Answer| answer.body["products"].as_array().is_some_and(|all| !all.is_empty());
    let found = client.until(&format!("/v1/products?query={}", product.sku), there).await.body;
    assert_eq!(
        (text(&found["products"][0], "sku"), &found["products"][0]["available"]),
        (product.sku.as_str(), &json!(3))
    );
    client.act(&format!("/v1/products/{}:receive", product.sku), &json!({"quantity": 4})).await;
    assert_eq!(product.available(&client).await, 7);
}

#[tokio::test]
async fn the_catalogue_is_paged_without_gaps() {
    let client = Client::new("kim");
    let (mut seen, mut token) = (vec![], String::new());
    loop {
        let page = client.get(&format!("/v1/products?category=tea&page_size=2&page_token={token}")).await.body;
        seen.extend(page["products"].as_array().unwrap().iter().map(|product| text(product, "sku").to_owned()));
        token = text(&page, "next_page_token").to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert!(seen.len() >= 6 && seen.is_sorted() && seen.contains(&"TEA-BOSEONG-100".to_owned()), "{seen:?}");
    assert_eq!(client.get("/v1/products/NO-SUCH-THING").await.status, StatusCode::NOT_FOUND);
}
