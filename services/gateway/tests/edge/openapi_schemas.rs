//! The schemas of the API's document, held against what the gateway takes and answers.
use host::error::Refusal;
use http::Method;
use serde_json::{Value, json};

use crate::shop::{Next, ORDER, World};

async fn schemas(world: &World) -> Value {
    world.get("/openapi.json").await.json()["components"]["schemas"].take()
}

/// Has all that is required, and nothing that is not described, all the way down.
fn fits(schemas: &Value, schema: &Value, value: &Value) {
    let name = schema.get("$ref").map(|reference| reference.as_str().unwrap().rsplit('/').next().unwrap());
    let schema = name.map_or(schema, |name| &schemas[name]);
    let is_it = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        other => panic!("{other} is not looked at"),
    };
    assert!(is_it, "{value} is no {schema}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{value} is none of {values:?}");
    }
    for item in value.as_array().into_iter().flatten() {
        fits(schemas, &schema["items"], item);
    }
    let Some(members) = value.as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(members.contains_key(required.as_str().unwrap()), "{required} is missing in {value}");
    }
    for (name, member) in members {
        let known = schema["properties"].get(name).or(schema.get("additionalProperties"));
        fits(schemas, known.unwrap_or_else(|| panic!("{name} is not described")), member);
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[tokio::test]
async fn answers_are_as_described() {
    let world = World::new();
    let schemas = schemas(&world).await;
    for (path, schema) in [
        ("/v1/orders/o-1", "Order"),
        ("/v1/orders", "ListOrdersResponse"),
        ("/v1/orders/o-1/events", "ListOrderEventsResponse"),
        ("/v1/products", "ListProductsResponse"),
        ("/v1/products/TEA-1", "Product"),
    ] {
        fits(&schemas, &reference(schema), &world.get(path).await.json());
    }
    fits(&schemas, &reference("Order"), &world.post("/v1/orders", ORDER).await.json());
}

#[tokio::test]
async fn what_is_always_printed_is_required_and_what_may_be_absent_is_not() {
    let schemas = schemas(&World::new()).await;
    let required = |name: &str| schemas[name]["required"].clone();
    let order = json!(["order_id", "customer_id", "status", "cancellation", "lines", "total", "currency", "version"]);
    assert_eq!(required("Order"), order);
    assert_eq!(required("Rejection"), json!(["reason", "message", "sku"]));
    assert_eq!(required("PlaceOrderRequest"), json!(["lines", "payment_method", "shipping_address"]));
    assert_eq!(required("RedriveDeadLetterRequest"), json!(["reason"]));
    let type_of = |field: &str| schemas["RedriveDeadLetterRequest"]["properties"][field]["type"].clone();
    assert_eq!((type_of("reason"), type_of("over_gap")), (json!("string"), json!(["boolean", "null"])));
    let data = &schemas["OrderEvent"]["properties"]["data"];
    assert_eq!((&data["type"], &data["additionalProperties"]), (&json!("object"), &json!(true)), "free JSON");
}

#[tokio::test]
async fn a_problem_has_the_members_that_are_described() {
    let world = World::new();
    let schemas = schemas(&world).await;
    let refusal = Refusal::precondition("price_changed", "the price is 900 now").field("lines[0]").fact("price", 900);
    world.shop.next(Next::Refuse(refusal.into()));
    let full = world.post("/v1/orders", ORDER).await.json();
    assert_eq!(full.as_object().unwrap().len(), schemas["Problem"]["properties"].as_object().unwrap().len());
    fits(&schemas, &reference("Problem"), &full);
    fits(&schemas, &reference("Problem"), &world.get("/nothing").await.json());
    fits(&schemas, &reference("Problem"), &schemas["Problem"]["examples"][0]);
}

#[tokio::test]
async fn every_body_has_an_example_that_is_taken_as_it_stands() {
    let world = World::new();
    let document = world.get("/openapi.json").await.json();
    let schemas = &document["components"]["schemas"];
    let headers = [("Idempotency-Key", "k-1"), ("X-Operator", "kim")];
    let mut bodies = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let schema = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) else { continue };
        bodies += 1;
        let example = &schemas[name]["examples"][0];
        fits(schemas, schema, example);
        let path = path.replace("{sku}", "TEA-1").replace(['{', '}'], "");
        let answer = world.send(Method::POST, &path, &headers, &example.to_string()).await;
        // Operators' services are not played here; what is answered in their place tells that they were reached.
        let reached = answer.text.contains("SagaService") || answer.text.contains("DeadLetterService/");
        assert!(answer.status < 300 || reached, "{name}: {answer:?}");
    }
    assert_eq!(bodies, 13);
    world.post("/v1/orders", &schemas["PlaceOrderRequest"]["examples"][0].to_string()).await;
    let message = world.shop.last().message;
    assert!(message.contains(r#"sku: "TEA-BOSEONG-100", quantity: 2, unit_price: 18000"#), "{message}");
    fits(schemas, &reference("Order"), &schemas["Order"]["examples"][0]);
}

#[tokio::test]
async fn what_a_request_takes_is_said_of_its_fields_and_of_no_answer() {
    let world = World::new();
    let document = world.get("/openapi.json").await.json();
    let schemas = &document["components"]["schemas"];
    let said =
        |schema: &Value, keywords: &[&str]| keywords.iter().map(|keyword| schema[keyword].clone()).collect::<Value>();
    let field = |schema: &str, field: &str, keywords: &[&str]| said(&schemas[schema]["properties"][field], keywords);
    let (numbers, texts) = (["minimum", "maximum"], ["minLength", "maxLength", "pattern"]);
    assert_eq!(field("PlaceOrderRequest", "lines", &["minItems", "maxItems"]), json!([1, 100]));
    assert_eq!(field("OrderLineInput", "quantity", &numbers), json!([1, 1_000]));
    assert_eq!(field("OrderLineInput", "sku", &texts), json!([null, null, "^[A-Z0-9-]{3,32}$"]));
    assert_eq!(field("ShippingAddressInput", "city", &texts[..2]), json!([1, 100]));
    let pattern = field("ShippingAddressInput", "city", &["pattern"]);
    let pattern = regex::Regex::new(pattern[0].as_str().unwrap()).unwrap();
    for seen in ["Seoul", " 서울 ", "a\u{ad}b", "👩\u{200d}🌾", "שלום", "\u{2010}"] {
        assert!(pattern.is_match(seen), "{seen:?}");
    }
    for unseen in
        ["", " ", "\u{200b}", "\u{3164}\u{3000}", "\u{2800}", "a\u{7}", "a\u{202e}b", "\u{2066}a", "\u{200e}a"]
    {
        assert!(!pattern.is_match(unseen), "{unseen:?}");
    }
    assert_eq!(field("OrderLine", "sku", &texts), json!([null, null, null]), "answers may grow");
    let list = document["paths"]["/v1/orders"]["get"]["parameters"].as_array().unwrap();
    let size = list.iter().find(|parameter| parameter["name"] == "page_size").unwrap();
    assert_eq!(said(&size["schema"], &numbers), json!([1, 100]));
}

#[tokio::test]
async fn a_stream_is_a_text_of_events_whose_data_is_a_message() {
    let document = World::new().get("/openapi.json").await.json();
    let answer = &document["paths"]["/v1/orders/{order_id}:watch"]["get"]["responses"]["200"];
    let schema = &answer["content"]["text/event-stream"]["schema"];
    assert_eq!((&schema["type"], &schema["contentMediaType"]), (&json!("string"), &json!("text/event-stream")));
    assert_eq!(schema.get("oneOf"), None, "generated clients would read it as JSON");
    let event = &schema["contentSchema"];
    assert_eq!(event["required"], json!(["id", "event", "data"]));
    assert_eq!(event["properties"]["data"]["contentSchema"], reference("OrderEvent"));
}

#[tokio::test]
async fn requests_have_no_other_fields_and_numbers_stay_exact() {
    let schemas = schemas(&World::new()).await;
    for name in ["PlaceOrderRequest", "OrderLineInput", "ShippingAddressInput", "ChangePriceRequest"] {
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
    for name in ["Order", "OrderLine", "Product"] {
        assert_eq!(schemas[name].get("additionalProperties"), None, "{name}: answers may grow");
    }
    let total = &schemas["Order"]["properties"]["total"];
    assert_eq!((&total["type"], &total["format"]), (&json!("integer"), &json!("int64")));
    assert_eq!(total["maximum"], 9_007_199_254_740_991_i64);
    assert_eq!(schemas["Order"]["properties"]["placed_at"]["format"], "date-time");
    assert_eq!(schemas["OrderStatus"]["enum"][1], "ORDER_STATUS_PLACED");
}
