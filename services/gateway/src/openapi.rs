//! The document of the API (OpenAPI 3.1), from the same descriptors that route the requests.
use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value as Json, json};

use crate::events::LAST_EVENT_ID;
use crate::openapi_parts as parts;
use crate::openapi_schemas::{Schemas, Side, comment};
use crate::routes::{Route, Table, segment, variables};

/// The document: every route of the table, and nothing else.
///
/// # Errors
/// A sentence that names what cannot be described.
pub(crate) fn document(table: &Table) -> Result<Json, String> {
    let mut schemas = Schemas::default();
    schemas.define("Problem".to_owned(), "the gateway's own Problem".to_owned(), |_| Ok(parts::problem()))?;
    let (mut paths, mut tags, mut ids) = (BTreeMap::<_, Map<_, _>>::new(), vec![], BTreeMap::new());
    for route in table.routes() {
        let service = route.rpc.parent_service();
        let tag = json!({"name": service.name(), "description": comment(&service.parent_file(), service.path())});
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        let is_alone = table.routes().filter(|other| other.rpc == route.rpc).count() == 1;
        let id = if is_alone { route.rpc.name().to_owned() } else { id_by_path(route) };
        if let Some(other) = ids.insert(id.clone(), route.label.as_str()) {
            return Err(format!("{}: {other} is the operation {id} already", route.label));
        }
        let operation = operation(route, &id, &mut schemas).map_err(|why| format!("{}: {why}", route.label))?;
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(route.template.as_str()).or_default().insert(method, operation);
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": parts::info(),
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_json(),
            "parameters": parts::parameters(),
            "headers": parts::headers(),
            "responses": parts::responses(),
        },
    }))
}

/// What one of several operations of an RPC is called: as in `ListOrderDeadLetters`, the word behind the verb is what the path is
/// about. Generators of clients make it the name of a method.
fn id_by_path(route: &Route) -> String {
    let words = segment(&route.template).split(|letter: char| !letter.is_ascii_alphanumeric());
    let about =
        words.map(|word| word.get(..1).unwrap_or_default().to_ascii_uppercase() + word.get(1..).unwrap_or_default());
    let rpc = route.rpc.name();
    let second_word = rpc.char_indices().skip(1).find(|(_, letter)| letter.is_ascii_uppercase());
    let (verb, object) = rpc.split_at(second_word.map_or(rpc.len(), |(at, _)| at));
    [verb, &about.collect::<String>(), object].concat()
}

fn operation(route: &Route, id: &str, schemas: &mut Schemas) -> Result<Json, String> {
    let rpc = &route.rpc;
    let text = comment(&rpc.parent_file(), rpc.path());
    let in_path = variables(&route.template)?;
    let mut responses = parts::problems_of(route);
    responses.insert(route.success.as_str().to_owned(), success(route, schemas)?);
    if route.events.is_some() {
        let headers = json!({"traceparent": parts::header("traceparent")});
        let text = "Nothing will follow what was seen: there is no use in asking again.";
        responses.insert("204".to_owned(), json!({"description": text, "headers": headers}));
    }
    let mut operation = json!({
        "operationId": id,
        "tags": [rpc.parent_service().name()],
        "summary": first_sentence(&text),
        "description": text,
        "parameters": parameters(route, &in_path, schemas)?,
        "responses": responses,
    });
    if route.needs_body() {
        let schema = schemas.body(&route.input, &in_path)?;
        let text = comment(&route.input.parent_file(), route.input.path());
        let content = json!({"application/json": {"schema": schema}});
        operation["requestBody"] = json!({"required": true, "description": text, "content": content});
    }
    Ok(operation)
}

fn parameters(route: &Route, in_path: &[&str], schemas: &mut Schemas) -> Result<Vec<Json>, String> {
    let mut parameters = Vec::new();
    for field in route.input.fields() {
        let required = in_path.contains(&field.name());
        if !required && (route.takes_body || !fits_a_query(&field)) {
            continue;
        }
        parameters.push(json!({
            "name": field.name(),
            "in": if required { "path" } else { "query" },
            "required": required,
            "description": comment(&field.parent_file(), field.path()),
            "schema": schemas.field(&field, Side::Request)?,
        }));
    }
    let headers = [
        (LAST_EVENT_ID, route.events.is_some()),
        ("Idempotency-Key", route.method == http::Method::POST),
        ("Prefer", route.waits),
        ("X-Customer-Id", !route.operators_only),
        ("X-Operator", route.operators_only),
        ("traceparent", true),
    ];
    let headers = headers.into_iter().filter(|(_, taken)| *taken);
    parameters.extend(headers.map(|(name, _)| json!({"$ref": format!("#/components/parameters/{name}")})));
    Ok(parameters)
}

/// Whether a field can be said in a query: the gateway reads one word as one value.
fn fits_a_query(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Timestamp",
        _ => true,
    }
}

fn success(route: &Route, schemas: &mut Schemas) -> Result<Json, String> {
    let shown = route.resource.as_ref().and_then(|field| field.kind().as_message().cloned());
    let schema = schemas.message(shown.as_ref().unwrap_or(&route.output), Side::Answer)?;
    let mut headers = Map::from_iter([("traceparent".to_owned(), parts::header("traceparent"))]);
    if route.waits {
        headers.insert("Preference-Applied".to_owned(), parts::header("Preference-Applied"));
    }
    if let Some(location) = &route.location {
        let description = format!("Where it can be read: `{location}`.");
        let schema = json!({"type": "string", "format": "uri-reference"});
        headers.insert("Location".to_owned(), json!({"description": description, "required": true, "schema": schema}));
    }
    let description = comment(&route.output.parent_file(), route.output.path());
    let (media_type, schema) = match route.events {
        Some(_) => ("text/event-stream", parts::stream(&schema)),
        None => ("application/json", schema),
    };
    Ok(json!({"description": description, "headers": headers, "content": {media_type: {"schema": schema}}}))
}

fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::{rpc, table};
    use crate::transcode;
    use host::transport::Transport;
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    #[test]
    fn an_additional_binding_is_an_operation_of_its_own_named_by_what_its_path_is_about() {
        let rule = r#"get: "/v1/left-hand/{id}" additional_bindings { get: "/v1/right" } additional_bindings { post: "/v1/both" body: "*" }"#;
        let several = document(&table(&rpc("ListThings", rule)).unwrap()).unwrap();
        assert_eq!(several["paths"]["/v1/left-hand/{id}"]["get"]["operationId"], "ListLeftHandThings");
        assert_eq!(several["paths"]["/v1/right"]["get"]["operationId"], "ListRightThings");
        assert_eq!(several["paths"]["/v1/both"]["post"]["operationId"], "ListBothThings");
        let names = |operation: &Json| {
            let parameters = operation["parameters"].as_array().unwrap().iter();
            parameters.filter_map(|parameter| parameter["name"].as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&several["paths"]["/v1/right"]["get"]), "id size names", "a message is nothing for a query");
        assert_eq!(names(&several["paths"]["/v1/both"]["post"]), "");
        let one = document(&table(&rpc("Do", r#"get: "/v1/right""#)).unwrap()).unwrap();
        assert_eq!(
            one["paths"]["/v1/right"]["get"]["operationId"], "Do",
            "one binding needs no more than the RPC's name"
        );
    }

    #[test]
    fn two_operations_of_one_name_refuse_the_start() {
        let rule = r#"get: "/v1/a/{id}" additional_bindings { post: "/v1/a" body: "*" }"#;
        let why = document(&table(&rpc("Do", rule)).unwrap()).err().unwrap_or_default();
        assert_eq!(why, "POST /v1/a: GET /v1/a/{id} is the operation DoA already");
    }

    #[test]
    fn two_messages_of_one_name_refuse_the_start_and_one_that_holds_itself_does_not() {
        let get = |answer: &str| {
            format!(
                "rpc Get{answer}(Ask) returns ({answer}) {{ option (google.api.http) = {{ get: \"/{answer}\" }}; }}"
            )
        };
        let service = |rpcs: &str, messages: &str| format!("{rpcs} }} {messages} service Other {{");
        let knot = service(&get("Knot"), "message Knot { Knot knot = 1; }");
        let schema = &document(&table(&knot).unwrap()).unwrap()["components"]["schemas"]["Knot"];
        assert_eq!(schema["properties"]["knot"]["$ref"], "#/components/schemas/Knot");
        let clash = [get("Answer"), get("Box")].concat();
        let clash = service(&clash, "message Box { message Thing { int32 size = 1; } Thing thing = 1; }");
        let why = document(&table(&clash).unwrap()).unwrap_err();
        assert_eq!(why, "GET /Box: given.Thing and given.Box.Thing would both be the schema Thing");
    }

    #[test]
    fn the_example_of_an_order_is_what_such_an_order_is_written_as() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let nobody = tower::service_fn(|_: http::Request<tonic::body::Body>| async {
            Err::<http::Response<tonic::body::Body>, _>(tonic::Status::unavailable("nobody"))
        });
        let nobody = Transport::new(nobody);
        let services = pool.services().map(|service| service.full_name().to_owned()).collect::<Vec<_>>();
        let upstreams = services.iter().map(|name| (name.as_str(), nobody.clone())).collect();
        let table = Table::read(&pool, &upstreams).unwrap();
        let place = table.routes().find(|route| route.rpc.name() == "PlaceOrder").unwrap();
        let (example, field) = (parts::example("shop.order.v1.Order").unwrap(), place.resource.clone().unwrap());
        let order = transcode::body(field.kind().as_message().unwrap(), example.to_string().as_bytes()).unwrap();
        let mut whole = DynamicMessage::new(place.output.clone());
        whole.set_field(&field, Value::Message(order));
        let answer = transcode::answer(place, whole.encode_to_vec().into()).unwrap();
        assert_eq!(serde_json::from_slice::<Json>(&answer.json).unwrap(), example);
    }
}
