//! The document of the API: whole, true, and with words for everything.
use std::collections::{BTreeMap, BTreeSet};

use host::error::{Refusal, TABLE};
use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use crate::shop::{Next, World};

async fn document(world: &World) -> Value {
    world.get("/openapi.json").await.json()
}

/// The operations, as `GET /v1/orders`.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    });
    all.collect()
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value.get("$ref") else {
        return value;
    };
    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn parameters<'a>(document: &'a Value, operation: &'a Value) -> Vec<&'a Value> {
    operation["parameters"].as_array().unwrap().iter().map(|parameter| resolved(document, parameter)).collect()
}

/// The ids of the operations that have a header, with what it says of being required.
fn takers(document: &Value, header: &str) -> BTreeMap<String, bool> {
    let mut takers = BTreeMap::new();
    for operation in operations(document).into_values() {
        for parameter in parameters(document, operation) {
            if parameter["in"] == "header" && parameter["name"] == header {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                takers.insert(id, parameter["required"].as_bool().unwrap());
            }
        }
    }
    takers
}

/// Calls `visit` with every object inside, and the way to it.
fn walk<'a>(at: &str, value: &'a Value, visit: &mut impl FnMut(&str, &'a Value)) {
    match value {
        Value::Object(members) => {
            visit(at, value);
            members.iter().for_each(|(name, member)| walk(&format!("{at}/{name}"), member, visit));
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| walk(&format!("{at}/{n}"), item, visit)),
        _ => {}
    }
}

/// The services that have dead letters, by their part of a path and of an id.
fn owners() -> [(&'static str, &'static str); 3] {
    [("/order/", "Order"), ("/inventory/", "Inventory"), ("/shipping/", "Shipping")]
}

fn has_words(at: &str, value: &Value, member: &str) {
    assert!(value[member].as_str().is_some_and(|text| !text.trim().is_empty()), "{at} has no {member}");
}

#[tokio::test]
async fn the_document_is_a_page_like_the_others() {
    let world = World::new();
    let answer = world.get("/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!((&answer.json()["openapi"], &answer.json()["info"]["version"]), (&json!("3.1.0"), &json!("0.1.0")));
    let license = "MIT OR Apache-2.0";
    assert_eq!(
        answer.json()["info"]["license"],
        json!({"name": license, "identifier": license}),
        "some generators want both"
    );
    let head = world.send(Method::HEAD, "/openapi.json", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), answer.text.len().to_string());
    assert_eq!(world.post("/openapi.json", "{}").await.header("allow"), "GET, HEAD");
    let label = r#"http_request_seconds_count{outcome="200",route="GET /openapi.json"} 2"#;
    assert!(world.get("/metrics").await.text.contains(label));
}

#[tokio::test]
async fn every_rpc_with_a_rule_is_described_once_and_nothing_else() {
    let document = document(&World::new()).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let extension = pool.get_extension_by_name("google.api.http").unwrap();
    let mut expected = BTreeMap::new();
    for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = rpc.options();
        let rule = options.get_extension(&extension);
        let rule: &DynamicMessage = rule.as_message().unwrap();
        let more = rule.get_field_by_name("additional_bindings").unwrap();
        let more: Vec<_> = more.as_list().unwrap().iter().map(|rule| rule.as_message().unwrap().clone()).collect();
        for rule in std::iter::once(rule).chain(&more) {
            for method in ["get", "post"].into_iter().filter(|method| rule.has_field_by_name(method)) {
                let path = rule.get_field_by_name(method).unwrap().as_str().unwrap().to_owned();
                let id = owners().into_iter().find(|(part, _)| !more.is_empty() && path.contains(part)).map_or_else(
                    || rpc.name().to_owned(),
                    |(_, owner)| rpc.name().replace("DeadLetter", &format!("{owner}DeadLetter")),
                );
                expected
                    .insert(format!("{} {path}", method.to_uppercase()), (id, rpc.parent_service().name().to_owned()));
            }
        }
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = operations(&document).into_iter();
    let found: BTreeMap<_, _> = found
        .map(|(label, operation)| (label, (text(&operation["operationId"]), text(&operation["tags"][0]))))
        .collect();
    assert!(expected.len() >= 9 && expected.contains_key("POST /v1/orders/{order_id}:cancel"), "{expected:?}");
    assert_eq!(found, expected);
    let ids: BTreeSet<_> = found.values().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), found.len(), "ids are unique");
    let letters_alone = |id: &&&String| id.chars().all(|letter| letter.is_ascii_alphabetic());
    assert_eq!(ids.iter().filter(letters_alone).count(), ids.len(), "each is fit for a method's name: {ids:?}");
    assert!(ids.iter().any(|id| *id == "RedriveInventoryDeadLetter"), "{ids:?}");
}

#[tokio::test]
async fn what_is_described_is_served() {
    let world = World::new();
    for label in operations(&document(&world).await).keys() {
        let (method, path) = label.split_once(' ').unwrap();
        let path = path.replace("{order_id}", "o-1").replace("{sku}", "TEA-1");
        let headers = [("Idempotency-Key", "k-1"), ("X-Operator", "kim")];
        let answer = world.send(method.parse().unwrap(), &path, &headers, "{}").await;
        // Only operators' services are not played here; what is answered in their place tells that they were reached.
        let reached =
            ["SagaService", "DeadLetterService/", "BookService"].iter().any(|name| answer.text.contains(name));
        assert!(answer.status < 300 || reached, "{label}: {answer:?}");
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_component_is_referred_to() {
    let document = document(&World::new()).await;
    let mut used = BTreeSet::new();
    walk("", &document, &mut |_, value| {
        resolved(&document, value);
        used.extend(value.get("$ref").map(|reference| reference.as_str().unwrap().to_owned()));
    });
    for (kind, components) in document["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is not used");
        }
    }
}

#[tokio::test]
async fn every_variable_of_a_path_is_a_parameter_and_no_part_of_the_body() {
    let document = document(&World::new()).await;
    for (label, operation) in operations(&document) {
        let expected: BTreeSet<_> = label.split('{').skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        let in_path = parameters(&document, operation).into_iter().filter(|parameter| parameter["in"] == "path");
        let in_path: Vec<_> = in_path.inspect(|parameter| assert_eq!(parameter["required"], true)).collect();
        let found: BTreeSet<_> = in_path.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!((found, in_path.len()), (expected.clone(), expected.len()), "{label}");
        let body = resolved(&document, &operation["requestBody"]["content"]["application/json"]["schema"]);
        assert!(expected.iter().all(|name| body["properties"].get(*name).is_none()), "{label}");
    }
}

#[tokio::test]
async fn everything_has_words() {
    let document = document(&World::new()).await;
    let tags = document["tags"].as_array().unwrap();
    tags.iter().for_each(|tag| has_words("a tag", tag, "description"));
    let tags: Vec<_> = tags.iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert_eq!(
        tags,
        ["InventoryService", "OrderService", "SagaService", "DeadLetterService", "BookService"],
        "what customers need first"
    );
    for (label, operation) in operations(&document) {
        has_words(&label, operation, "summary");
        has_words(&label, operation, "description");
        for parameter in parameters(&document, operation) {
            has_words(&format!("{label}: {}", parameter["name"]), parameter, "description");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            has_words(&format!("{label}: {status}"), resolved(&document, response), "description");
        }
        if let Some(body) = operation.get("requestBody") {
            has_words(&label, body, "description");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        has_words(name, schema, "description");
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            has_words(&format!("{name}.{property}"), schema, "description");
        }
        for value in schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let line = format!("- `{value}`: ");
            let text = schema["description"].as_str().unwrap();
            let said = text
                .split_once(&line)
                .is_some_and(|(_, rest)| !rest.trim_start_matches(' ').is_empty() && !rest.starts_with('\n'));
            assert!(said, "{value} has no comment: {text}");
        }
    }
    let place = operations(&document)["POST /v1/orders"];
    assert_eq!(place["summary"], "Places an order.");
    assert!(place["description"].as_str().unwrap().contains("have passed."), "the whole comment");
}

#[tokio::test]
async fn headers_are_asked_for_where_they_are_read() {
    let world = World::new();
    let document = document(&world).await;
    let map = |ids: &[&str], required| ids.iter().map(|id| ((*id).to_owned(), required)).collect::<BTreeMap<_, _>>();
    let letters = owners().map(|(_, owner)| {
        ["List*DeadLetters", "Get*DeadLetter", "Redrive*DeadLetter", "Skip*DeadLetter"].map(|id| id.replace('*', owner))
    });
    let letters = letters.concat();
    let letters: Vec<_> = letters.iter().map(String::as_str).collect();
    let acts: Vec<_> = letters.iter().copied().filter(|id| id.starts_with('R') || id.starts_with('S')).collect();
    let sagas = ["RetrySaga", "SkipSagaStep", "ForceSaga"];
    let products = ["AddProduct", "ChangePrice", "ReceiveStock"];
    let operators = [&products[..], &letters, &sagas, &["ListSagas", "GetSaga", "GetBooks"]].concat();
    let customers = [
        "CancelOrder",
        "GetOrder",
        "GetProduct",
        "ListOrderEvents",
        "ListOrders",
        "ListProducts",
        "PlaceOrder",
        "WatchOrder",
    ];
    assert_eq!(takers(&document, "X-Operator"), map(&operators, true));
    assert_eq!(takers(&document, "X-Customer-Id"), map(&customers, false));
    assert_eq!(takers(&document, "Last-Event-ID"), map(&["WatchOrder"], false));
    assert_eq!(takers(&document, "Prefer"), map(&["CancelOrder", "GetOrder", "PlaceOrder"], false));
    assert_eq!(takers(&document, "traceparent"), map(&[&operators[..], &customers].concat(), false));
    let posts = [&products[..], &acts, &sagas, &["CancelOrder", "PlaceOrder"]].concat();
    assert_eq!(takers(&document, "Idempotency-Key"), map(&posts, true));
}

#[tokio::test]
async fn statuses_are_those_that_are_answered() {
    let document = document(&World::new()).await;
    let operations = operations(&document);
    let statuses =
        |label: &str| operations[label]["responses"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(statuses("POST /v1/orders"), "201 400 408 409 413 414 415 422 429 500 503 504");
    assert_eq!(statuses("POST /v1/orders/{order_id}:cancel"), "202 400 404 409 414 422 429 500 503 504");
    assert_eq!(statuses("POST /v1/products/{sku}:price"), "200 400 403 404 408 409 413 414 415 422 429 500 503 504");
    assert_eq!(statuses("GET /v1/orders/{order_id}"), "200 400 404 414 429 500 503 504");
    assert_eq!(statuses("GET /v1/products"), "200 400 414 429 500 503 504");
    let headers = |label: &str, status: &str| {
        operations[label]["responses"][status]["headers"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(headers("POST /v1/orders", "201"), "Location Preference-Applied traceparent");
    assert_eq!(headers("POST /v1/products", "201"), "Location traceparent");
    assert_eq!(headers("POST /v1/orders/{order_id}:cancel", "202"), "Preference-Applied traceparent");
    let location = &operations["POST /v1/orders"]["responses"]["201"]["headers"]["Location"];
    let always = [location, &document["components"]["headers"]["traceparent"]];
    assert!(always.iter().all(|header| header["required"] == true), "{always:?}");
    for (name, response) in document["components"]["responses"].as_object().unwrap() {
        let content: Vec<_> = response["content"].as_object().unwrap().keys().collect();
        assert_eq!(content, ["application/problem+json"], "{name}");
    }
}

#[tokio::test]
async fn what_a_service_refuses_with_is_foreseen() {
    let world = World::new();
    let document = document(&world).await;
    let responses = &operations(&document)["POST /v1/products/{sku}:price"]["responses"];
    let headers = [("Idempotency-Key", "k-1"), ("X-Operator", "kim")];
    // There is no sign-in yet, and the services have all the RPCs that have routes.
    let rows = TABLE.iter().filter(|row| !matches!(row.word, "UNAUTHENTICATED" | "UNIMPLEMENTED"));
    for row in rows {
        world.shop.next(Next::Refuse(Refusal::new(row.code, "in_progress", "no").into()));
        let answer = world.send(Method::POST, "/v1/products/TEA-1:price", &headers, "{}").await;
        let response = resolved(&document, &responses[answer.status.to_string()]);
        let described = response["headers"].as_object().unwrap_or_else(|| panic!("{answer:?} is not described"));
        let retry = answer.headers.contains_key("retry-after");
        assert_eq!(described.contains_key("Retry-After"), retry || answer.status == 409, "{answer:?}");
    }
}
