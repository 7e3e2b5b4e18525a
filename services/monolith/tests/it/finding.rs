//! Products and orders are found by words, and nobody finds another's.
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Running, World, order, text};

async fn find(shop: &Running, path: &str, parameters: &[(&str, &str)], customer: &str) -> Answer {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let query: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    shop.send(Method::GET, &format!("{path}?{}", query.join("&")), &[("X-Customer-Id", customer)], "").await
}

fn all(page: &Value, list: &str, field: &str) -> Vec<String> {
    page[list].as_array().unwrap().iter().map(|one| text(one, field).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn products_are_found_in_both_languages() {
    let shop = World::new().shop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (query, skus) in [
        ("녹차", vec!["TEA-BOSEONG-100"]),
        ("bose", vec!["TEA-BOSEONG-100"]),
        ("보성 tea", vec!["TEA-BOSEONG-100"]),
        ("고추장", vec!["SAUCE-GOCHU-500"]),
        ("TEA-JEJU", vec!["TEA-JEJU-080"]),
        ("nothing like it", vec![]),
    ] {
        let page = find(&shop, "/v1/products", &[("query", query)], "demo").await.body;
        assert_eq!(all(&page, "products", "sku"), skus, "{query}");
    }
    let only = find(&shop, "/v1/products", &[("query", "제주"), ("category", "fruit")], "demo").await.body;
    assert_eq!(all(&only, "products", "sku"), ["FRUIT-TANGER-5KG"]);
    let (mut skus, mut token) = (vec![], String::new());
    loop {
        let page = find(&shop, "/v1/products", &[("query", "g"), ("page_size", "3"), ("page_token", &token)], "demo")
            .await
            .body;
        skus.extend(all(&page, "products", "sku"));
        token = text(&page, "next_page_token").to_owned();
        if token.is_empty() {
            break;
        }
    }
    let whole = find(&shop, "/v1/products", &[("query", "g"), ("page_size", "100")], "demo").await.body;
    assert!(skus.len() > 6 && skus == all(&whole, "products", "sku"), "{skus:?}");
}

#[tokio::test(start_paused = true)]
async fn customers_find_their_own_orders_as_they_are_and_at_once_if_they_say_what_they_saw() {
    let shop = World::new().shop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut body = order("pm_card_ok", "KR");
    body["shipping_address"]["recipient"] = json!("김장터");
    body["shipping_address"]["city"] = json!("Busan");
    let placed = shop.place("k1", 30, &body).await.body;
    let (id, seen) = (text(&placed, "order_id"), format!("{}@{}", text(&placed, "order_id"), placed["version"]));
    let here =
        async |parameters: &[(&str, &str)], customer: &str| find(&shop, "/v1/orders", parameters, customer).await;
    let page = here(&[("query", "장터 busan"), ("seen", &seen)], "demo").await;
    assert_eq!(all(&page.body, "orders", "order_id"), [id], "{}", page.body);
    assert_eq!(text(&page.body["orders"][0], "status"), "ORDER_STATUS_CONFIRMED");
    for (status, found) in [("ORDER_STATUS_CONFIRMED", 1), ("ORDER_STATUS_REJECTED", 0)] {
        let page = here(&[("query", "busan"), ("status", status)], "demo").await.body;
        assert_eq!(page["orders"].as_array().unwrap().len(), found, "{status}");
    }
    assert_eq!(here(&[("query", "busan")], "lee").await.body["orders"], json!([]), "another's");
    for (parameters, field) in [
        (vec![("query", "\"*:()")], "query"),
        (vec![("query", "busan"), ("page_token", "x")], "page_token"),
        (vec![("query", "busan"), ("seen", "x")], "seen"),
    ] {
        let refused = here(&parameters, "demo").await;
        assert_eq!((refused.status, text(&refused.body, "field")), (StatusCode::BAD_REQUEST, field));
    }
    let long = "a".repeat(201);
    assert_eq!(here(&[("query", &long)], "demo").await.status, StatusCode::BAD_REQUEST);
}
