//! What `/openapi.json` says that a request takes is what the services take: not less, and not more.
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Running, World, order};

/// A body with one thing changed, by JSON pointer; taken away if there is nothing to put there.
fn with(body: &Value, pointer: &str, value: Option<Value>) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap();
    match (value, name.parse::<usize>()) {
        (Some(value), Ok(n)) => parent[n] = value,
        (Some(value), Err(_)) => parent[name] = value,
        (None, _) => drop(parent.as_object_mut().unwrap().remove(name)),
    }
    body
}

/// `/lines/0/sku` as problems name it: `lines[0].sku`.
fn field(pointer: &str) -> String {
    let part = |part: &str| if part.parse::<usize>().is_ok() { format!("[{part}]") } else { format!(".{part}") };
    pointer.split('/').skip(1).map(part).collect::<String>().trim_start_matches('.').to_owned()
}

/// A thing to put at a pointer, or none, and whether it is as described.
type Case = (String, Option<Value>, bool);

/// What is just within each limit that is described, and just beyond it.
fn cases(document: &Value, schema: &Value, at: &str, value: &Value) -> Vec<Case> {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => schema,
    };
    let put = |value: Value, described: bool| (at.to_owned(), Some(value), described);
    let number = |keyword: &str| schema[keyword].as_i64();
    let mut cases = vec![];
    for (least, most, of) in [
        ("minimum", "maximum", (|n| json!(n)) as fn(i64) -> Value),
        ("minLength", "maxLength", |n| json!("가".repeat(n as usize))),
    ] {
        cases.extend(number(least).into_iter().flat_map(|n| [put(of(n), true), put(of(n - 1), false)]));
        cases.extend(number(most).into_iter().flat_map(|n| [put(of(n), true), put(of(n + 1), false)]));
    }
    let count = |n: i64| put(vec![value[0].clone(); n as usize].into(), false);
    cases.extend(number("minItems").map(|n| count(n - 1)));
    cases.extend(number("maxItems").map(|n| count(n + 1)));
    let unfit = ["a\u{1}", "가\u{202e}나", "\u{2066}ab\u{2069}"].into_iter().filter(|_| schema["pattern"].is_string());
    cases.extend(unfit.map(|text| put(json!(text), false)));
    // What nobody can read is no name and no street, however long it is.
    let unseen = ["   ", "\u{200b}\u{200b}", "\u{3164} \u{ad}", "\u{3000}\u{2800}"];
    let unseen = unseen.into_iter().filter(|_| number("minLength") > Some(0));
    cases.extend(unseen.map(|text| put(json!(text), false)));
    let seen =
        ["김 장터", " 나 ", "a\u{ad}b"].into_iter().filter(|_| schema["pattern"].as_str().is_some_and(is_for_any_text));
    cases.extend(seen.map(|text| put(json!(text), true)));
    let needed = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        cases.push((at.clone(), None, !needed.contains(&json!(name))));
        cases.extend(self::cases(document, part, &at, &value[name]));
    }
    if value.is_array() {
        cases.extend(self::cases(document, &schema["items"], &format!("{at}/0"), &value[0]));
    }
    cases
}

/// Whether a pattern says what all texts have in common, and not what one kind is made of.
fn is_for_any_text(pattern: &str) -> bool {
    pattern.starts_with("^[^")
}

async fn send(shop: &Running, path: &str, key: usize, body: &Value) -> Answer {
    let key = key.to_string();
    shop.send(Method::POST, path, &[("X-Operator", "lee"), ("Idempotency-Key", &key)], body.to_string()).await
}

#[tokio::test(start_paused = true)]
async fn what_is_described_of_a_request_is_what_is_enforced() {
    let world = World::new();
    let shop = world.shop().await;
    let document = shop.get("/openapi.json").await.body;
    let product = json!({"sku": "NEW-1", "name_ko": "새것", "name_en": "New", "category": "home", "unit_price": 1000, "currency": "KRW"});
    let mut sent = 0;
    for (path, schema, body) in [
        ("/v1/orders", "PlaceOrderRequest", order("pm_card_ok", "KR")),
        ("/v1/products", "AddProductRequest", product),
        ("/v1/products/TEA-BOSEONG-100:receive", "ReceiveStockRequest", json!({"quantity": 1})),
        ("/v1/products/TEA-BOSEONG-100:price", "ChangePriceRequest", json!({"unit_price": 1})),
    ] {
        let schema = &document["components"]["schemas"][schema];
        for (pointer, value, described) in cases(&document, schema, "", &body) {
            // No card is called anything that fits.
            if described && pointer == "/payment_method" {
                continue;
            }
            sent += 1;
            let answer = send(&shop, path, sent, &with(&body, &pointer, value.clone())).await;
            let blamed = answer.status == StatusCode::BAD_REQUEST && answer.body["field"] == field(&pointer);
            assert_eq!(blamed, !described, "{path} {pointer} {value:?}: {}", answer.body);
        }
    }
    assert!(sent > 60, "{sent}");
}
