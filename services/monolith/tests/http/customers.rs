//! What customers see of their orders, and not of those of others.
use http::StatusCode;
use serde_json::json;

use crate::shop::{Client, text};

#[tokio::test]
async fn orders_are_listed_and_found_by_their_customers_only() {
    let (kim, lee) = (Client::new("kim"), Client::new("lee"));
    let product = kim.product("FOUND", 10).await;
    let mut body = product.order(1, "pm_card_ok", "KR");
    body["shipping_address"]["recipient"] = json!("김장터");
    body["shipping_address"]["city"] = json!("Busan");
    let placed = kim.place(&kim.key(), 20, &body).await;
    let id = placed.text("order_id");
    let listed = kim.get("/v1/orders").await.body;
    assert_eq!(text(&listed["orders"][0], "order_id"), id, "at once");
    // 장터
    let path = format!("/v1/orders?query=%EC%9E%A5%ED%84%B0%20busan&seen={id}@{}", placed.body["version"]);
    let found = kim.until(&path, |answer| answer.status == StatusCode::OK).await.body;
    assert_eq!(text(&found["orders"][0], "order_id"), id, "{found}");
    for path in ["/v1/orders", "/v1/orders?query=busan"] {
        assert_eq!(lee.get(path).await.body["orders"], json!([]), "{path}");
    }
    assert_eq!(lee.get(&format!("/v1/orders/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(lee.cancel(&lee.key(), id, 0).await.status, StatusCode::NOT_FOUND);
}
