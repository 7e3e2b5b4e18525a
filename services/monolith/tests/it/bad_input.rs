//! What bad input gets: a problem that names the field, never a 500, and nothing changed.
use crate::books;
use crate::harness::{Answer, Running, TEA, World, order, text};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// An order with one thing changed, by JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = order("pm_card_ok", "KR");
    *body.pointer_mut(pointer).unwrap() = value;
    body
}

fn lines(count: usize) -> Value {
    let line = |n| json!({"sku": format!("NO-SUCH-{n}"), "quantity": 1, "unit_price": 1});
    with("/lines", (0..count).map(line).collect())
}

async fn refused(shop: &Running, body: String, status: u16, field: Option<&str>) {
    let answer = shop.send(Method::POST, "/v1/orders", &[("Idempotency-Key", "k")], body.clone()).await;
    is_problem(&answer, status, field, &body);
}

fn is_problem(answer: &Answer, status: u16, field: Option<&str>, what: &str) {
    let shown: String = what.chars().take(200).collect();
    assert_eq!(answer.status, StatusCode::from_u16(status).unwrap(), "{shown}: {}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{shown}");
    assert!(!text(&answer.body, "detail").is_empty());
    if let Some(field) = field {
        assert_eq!(text(&answer.body, "field"), field, "{shown}: {}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_order_is_refused_by_field_and_changes_nothing() {
    let world = World::new();
    let shop = world.shop().await;
    let long = "x".repeat(201);
    let cases = [
        (with("/lines", json!([])), "lines"),
        (lines(101), "lines"),
        (lines(1_000), "lines"),
        (with("/lines/0/quantity", json!(0)), "lines[0].quantity"),
        (with("/lines/0/quantity", json!(-1)), "lines[0].quantity"),
        (with("/lines/0/quantity", json!(4_294_967_296_u64)), "lines[0].quantity"),
        (with("/lines/0/quantity", json!(1e30)), "lines[0].quantity"),
        (with("/lines/0/quantity", json!(1.5)), "lines[0].quantity"),
        (with("/lines/0/quantity", json!("two")), "lines[0].quantity"),
        (with("/lines/1/unit_price", json!(-5)), "lines[1].unit_price"),
        (with("/lines/1/unit_price", json!(i64::MAX)), "lines[1].unit_price"),
        (with("/lines/0/sku", json!("NO-SUCH-SKU")), "lines[0].sku"),
        (with("/lines/0/sku", json!("tea'; DROP TABLE")), "lines[0].sku"),
        (with("/lines/1/sku", json!(TEA.0)), "lines[1].sku"),
        (with("/payment_method", json!("pm_card_gold")), "payment_method"),
        (with("/payment_method", json!("")), "payment_method"),
        (with("/shipping_address", Value::Null), "shipping_address"),
        (with("/shipping_address/country", json!("Korea")), "shipping_address.country"),
        (with("/shipping_address/country", json!("kr")), "shipping_address.country"),
        (with("/shipping_address/street", json!(long)), "shipping_address.street"),
        (with("/shipping_address/city", json!("Seo\u{0}ul")), "shipping_address.city"),
        (with("/shipping_address/recipient", json!(" \n")), "shipping_address.recipient"),
    ];
    for (body, field) in cases {
        refused(&shop, body.to_string(), 400, Some(field)).await;
    }
    refused(&shop, with("/lines/0/unit_price", json!(1)).to_string(), 422, Some("lines[0].unit_price")).await;
    refused(&shop, with("/lines", json!("tea")).to_string(), 400, Some("lines")).await;
    assert!(books::balance(&world.stores).await.is_empty());
    assert_eq!(shop.available(TEA.0).await, inventory::catalogue::PIECES);
    // None of these used the key up.
    let good = shop.place("k", 10, &order("pm_card_ok", "KR")).await;
    assert_eq!(text(&good.body, "status"), "ORDER_STATUS_CONFIRMED");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_json_of_an_order_is_refused() {
    let world = World::new();
    let shop = world.shop().await;
    let extra = order("pm_card_ok", "KR").to_string().replacen('{', r#"{"coupon":"FREE","#, 1);
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for body in ["", "{", "null", "[]", "\"order\"", "{\"lines\":}", "\u{feff}{}", &extra, &deep] {
        refused(&shop, body.to_owned(), 400, None).await;
    }
    refused(&shop, format!("{{\"lines\":\"{}\"}}", "x".repeat(70_000)), 413, None).await;
    assert!(books::balance(&world.stores).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_key_or_with_a_bad_header_is_refused() {
    let world = World::new();
    let shop = world.shop().await;
    let body = order("pm_card_ok", "KR").to_string();
    let long = "k".repeat(101);
    let customer = "Kim & Sons";
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[], "Idempotency-Key"),
        (&[("Idempotency-Key", "")], "Idempotency-Key"),
        (&[("Idempotency-Key", &long)], "Idempotency-Key"),
        (&[("Idempotency-Key", "two words")], "Idempotency-Key"),
        (&[("Idempotency-Key", "k"), ("X-Customer-Id", customer)], "X-Customer-Id"),
    ];
    for (headers, field) in cases {
        let answer = shop.send(Method::POST, "/v1/orders", headers, body.clone()).await;
        is_problem(&answer, 400, Some(field), &format!("{headers:?}"));
    }
    assert!(books::balance(&world.stores).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn operators_name_themselves_and_what_they_do_is_checked() {
    let world = World::new();
    let shop = world.shop().await;
    let product = json!({"sku": "NEW-1", "name_ko": "새것", "name_en": "New", "category": "home", "unit_price": 1000, "currency": "KRW"});
    let customer = [("Idempotency-Key", "a")];
    let answer = shop.send(Method::POST, "/v1/products", &customer, product.to_string()).await;
    is_problem(&answer, 403, None, "no operator");
    let operator = [("Idempotency-Key", "a"), ("X-Operator", "lee")];
    let mut taken = product.clone();
    taken["sku"] = json!(TEA.0);
    let cases = [
        ("/v1/products", taken, 409, "sku"),
        ("/v1/products", json!({"sku": "x"}), 400, "sku"),
        ("/v1/products/NO-SUCH:receive", json!({"quantity": 1}), 404, "sku"),
        ("/v1/products/NO-SUCH:price", json!({"unit_price": 1}), 404, "sku"),
        ("/v1/products/TEA-BOSEONG-100:receive", json!({"quantity": 0}), 400, "quantity"),
        ("/v1/products/TEA-BOSEONG-100:receive", json!({"quantity": 9_000_000_000_i64}), 400, "quantity"),
        ("/v1/products/TEA-BOSEONG-100:price", json!({"unit_price": -1}), 400, "unit_price"),
    ];
    for (n, (path, body, status, field)) in cases.into_iter().enumerate() {
        let key = format!("case-{n}");
        let answer = shop.send(Method::POST, path, &[("Idempotency-Key", &key), operator[1]], body.to_string()).await;
        is_problem(&answer, status, Some(field), path);
    }
    let added = shop.send(Method::POST, "/v1/products", &operator, product.to_string()).await;
    assert_eq!(
        (added.status, &added.headers["location"]),
        (StatusCode::CREATED, &http::HeaderValue::from_static("/v1/products/NEW-1"))
    );
    let again = shop.send(Method::POST, "/v1/products", &operator, product.to_string()).await;
    assert_eq!(again.body, added.body, "the same key, the same answer");
    let recorded = world.stores.inventory.load(&"product-NEW-1".into(), 0, 1).await.unwrap();
    assert_eq!(recorded[0].meta.actor, "operator:lee");
}

#[tokio::test(start_paused = true)]
async fn paths_queries_and_tokens_that_make_no_sense_are_refused() {
    let world = World::new();
    let shop = world.shop().await;
    shop.place("k", 10, &order("pm_card_ok", "KR")).await;
    for (path, status) in [
        ("/v1/orders/1", 400),
        ("/v1/orders/01A20462-C758-7669-B687-17E0A940C40E", 400),
        ("/v1/orders/01a20462-c758-7669-b687-17e0a940c40e", 404),
        ("/v1/products/tea", 400),
        ("/v1/products/NO-SUCH-SKU", 404),
        ("/v1/products?page_size=0", 400),
        ("/v1/products?page_size=101", 400),
        ("/v1/products?page_size=many", 400),
        ("/v1/products?colour=red", 400),
        ("/v1/products?category=TEA", 400),
        ("/v1/products?page_token=%00", 400),
        ("/v1/orders?page_token=99", 400),
        ("/v1/orders?page_token=-1", 400),
        ("/v1/orders?status=LOST", 400),
        ("/v1/orders?status=77", 400),
        ("/v1/order", 404),
        ("/", 404),
    ] {
        is_problem(&shop.get(path).await, status, None, path);
    }
}

#[tokio::test(start_paused = true)]
async fn the_catalogue_is_paged_and_filtered() {
    let world = World::new();
    let shop = world.shop().await;
    let (mut seen, mut token) = (vec![], String::new());
    loop {
        let page = shop.get(&format!("/v1/products?page_size=30&page_token={token}")).await.body;
        seen.extend(page["products"].as_array().unwrap().iter().map(|product| text(product, "sku").to_owned()));
        token = text(&page, "next_page_token").to_owned();
        if token.is_empty() {
            break;
        }
    }
    let mut all: Vec<_> = inventory::catalogue::PRODUCTS.iter().map(|product| product.0.to_owned()).collect();
    all.sort();
    assert_eq!(seen, all);
    assert!(all.len() >= 60);
    let tea = shop.get("/v1/products?category=tea&page_size=100").await.body;
    assert!(tea["products"].as_array().unwrap().iter().all(|product| product["category"] == "tea"));
    assert_eq!(tea["products"].as_array().unwrap().len(), 6);
}
