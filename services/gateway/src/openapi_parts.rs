//! The parts of the API's document that are the gateway's own: what it says of itself, headers, problems, examples.
use host::call::LONGEST_WAIT;
use host::error::{Again, TABLE};
use http::{Method, StatusCode};
use serde_json::{Map, Value as Json, json};

use crate::edge::{CUSTOMER, DEFAULT_CUSTOMER, IDEMPOTENCY_KEY, MAX_KEY_CHARS, MAX_NAME_CHARS, OPERATOR};
use crate::events::LAST_EVENT_ID;
use crate::routes::{Route, variables};

const ABOUT: &str = "A shop: products, orders, and what becomes of them.

**Errors** are problem documents (RFC 9457, `application/problem+json`). `code` says what kind of no it is, `reason` is a \
stable word for programs, `detail` a sentence for people, `field` the part of the request to blame, and `trace_id` finds \
the request in the shop's logs. The statuses that an operation lists are all that it answers with.

**Idempotency**: every POST carries an `Idempotency-Key`, a text of the client's own. Whoever repeats a request under the \
same key, because its answer got lost or said to try again, gets the answer of the first time and causes nothing twice. \
The same key for another request is refused.

**Waiting**: placing an order or calling it off is durable when it is answered, and goes on after it. With \
`Prefer: wait=N` (RFC 7240) the answer comes when the order is settled or N seconds have passed.

**JSON** is the proto3 mapping with `snake_case` names. Unknown fields and parameters are refused. In requests null is \
the same as absent. In answers defaults are printed, and what is absent is left out, never null. 64-bit integers are \
numbers. HEAD is served wherever GET is.

**Callers** are believed who they say they are: `X-Customer-Id` and `X-Operator` stand in for a sign-in.";

/// What the document says of the whole.
pub(crate) fn info() -> Json {
    let license = env!("CARGO_PKG_LICENSE");
    json!({
        "title": "Jangteo",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "The REST interface of the shop.",
        "description": ABOUT,
        // OpenAPI needs the name alone, openapi-generator the identifier too.
        "license": {"name": license, "identifier": license},
    })
}

/// The headers that a request may or must carry, by their names among the components.
pub(crate) fn parameters() -> Json {
    let header = |name: &str, required: bool, description: String, schema: Json| json!({"name": name, "in": "header", "required": required, "description": description, "schema": schema});
    let name = json!({"type": "string", "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$")});
    let mut customer = name.clone();
    customer["default"] = DEFAULT_CUSTOMER.into();
    let key = json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]+$"});
    let key_text = "A text of the client's own, such as a UUID: the same whenever this request is repeated, another for \
                    every other request. Visible ASCII characters.";
    let longest = LONGEST_WAIT.as_secs();
    let prefer_text = format!(
        "`wait=N`: answer when the order is settled, or after N seconds, at most {longest}. Without it the answer comes \
         at once. What else it says is ignored."
    );
    let last_event_text = "The id of the last event that was seen: only what followed it is sent.";
    // Events have the versions of their streams as ids.
    let version = json!({"type": "string", "pattern": "^[0-9]{1,18}$"});
    let trace_text = "The trace that the request belongs to (W3C Trace Context); without it, it begins one.";
    json!({
        "Idempotency-Key": header(IDEMPOTENCY_KEY, true, key_text.to_owned(), key),
        "Last-Event-ID": header(LAST_EVENT_ID, false, last_event_text.to_owned(), version),
        "Prefer": header("Prefer", false, prefer_text, json!({"type": "string", "examples": ["wait=10"]})),
        "X-Customer-Id": header(CUSTOMER, false, "The customer who asks.".to_owned(), customer),
        "X-Operator": header(OPERATOR, true, "The operator who asks; this is for staff only.".to_owned(), name),
        "traceparent": header("traceparent", false, trace_text.to_owned(), json!({"type": "string"})),
    })
}

/// The headers of answers, by their names among the components; each operation says its own of `Location`.
pub(crate) fn headers() -> Json {
    let text = json!({"type": "string"});
    let trace = json!({"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"});
    json!({
        "traceparent": {"description": "The trace of the request (W3C Trace Context).", "required": true, "schema": trace},
        "Preference-Applied": {"description": "The wait that was honoured, such as `wait=10`.", "schema": text},
        "Retry-After": {
            "description": "How many seconds to wait before the same request is sent again.",
            "schema": {"type": "integer"},
        },
    })
}

/// A status that says no: on which routes, and why.
struct No {
    status: StatusCode,
    on: fn(&Route) -> bool,
    why: &'static str,
}

const fn no(status: StatusCode, on: fn(&Route) -> bool, why: &'static str) -> No {
    No { status, on, why }
}

const ALWAYS: fn(&Route) -> bool = |_| true;
const ON_POST: fn(&Route) -> bool = |route| route.method == Method::POST;
const WITH_BODY: fn(&Route) -> bool = Route::needs_body;
const ON_ONE_THING: fn(&Route) -> bool = |route| variables(&route.template).is_ok_and(|names| !names.is_empty());

/// What can be answered to a request for a path and a method that are in the document.
const PROBLEMS: [No; 13] = [
    no(StatusCode::BAD_REQUEST, ALWAYS, "A part of the request is not what it must be; `field` says which."),
    no(StatusCode::FORBIDDEN, |route| route.operators_only, "This is for operators."),
    no(StatusCode::NOT_FOUND, ON_ONE_THING, "There is no such thing, or not for this caller."),
    no(StatusCode::REQUEST_TIMEOUT, WITH_BODY, "The body took too long to arrive."),
    no(
        StatusCode::CONFLICT,
        ON_POST,
        "It exists already; or, with `ABORTED`, there is no outcome yet, and the same request may be sent again under the \
         same Idempotency-Key.",
    ),
    no(StatusCode::PAYLOAD_TOO_LARGE, WITH_BODY, "The body is too large."),
    no(StatusCode::URI_TOO_LONG, ALWAYS, "Path and query are too long."),
    no(StatusCode::UNSUPPORTED_MEDIA_TYPE, WITH_BODY, "The body is not plain JSON."),
    no(
        StatusCode::UNPROCESSABLE_ENTITY,
        ON_POST,
        "The rules say no in the present state; `reason` says which rule. Also if the Idempotency-Key was used for \
         another request.",
    ),
    no(StatusCode::TOO_MANY_REQUESTS, ALWAYS, "Too much is under way."),
    no(StatusCode::INTERNAL_SERVER_ERROR, ALWAYS, "Something is wrong in the shop; `trace_id` finds it in the log."),
    no(StatusCode::SERVICE_UNAVAILABLE, ALWAYS, "A part of the shop does not answer."),
    no(StatusCode::GATEWAY_TIMEOUT, ALWAYS, "It took too long; whether it took effect is unknown."),
];

/// The problems that a route can answer with, as references by status.
pub(crate) fn problems_of(route: &Route) -> Map<String, Json> {
    let reference = |name: String| json!({"$ref": format!("#/components/responses/{name}")});
    let foreseen = PROBLEMS.iter().filter(|no| (no.on)(route));
    foreseen.map(|no| (no.status.as_str().to_owned(), reference(component(no.status)))).collect()
}

/// The problems, as the components that [`problems_of`] refers to.
pub(crate) fn responses() -> Map<String, Json> {
    let response = |description: String, headers: &[&str]| {
        let headers = headers.iter().map(|name| ((*name).to_owned(), header(name))).collect::<Map<_, _>>();
        let content = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
        json!({"description": description, "headers": headers, "content": content})
    };
    let described = PROBLEMS.iter().map(|no| {
        let rows = TABLE.iter().filter(|row| row.http == no.status);
        let (words, again): (Vec<_>, Vec<_>) = rows.map(|row| (format!("`{}`", row.word), row.again)).unzip();
        let mut text = no.why.to_owned();
        if !words.is_empty() {
            text = format!("{text} `code` is {}.", words.join(" or "));
        }
        if !again.is_empty() && again.iter().all(|again| *again == Again::SameId) {
            text.push_str(" The same request may be sent again, a POST under the same Idempotency-Key.");
        }
        let retried =
            matches!(no.status, StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let headers: &[&str] = if retried { &["traceparent", "Retry-After"] } else { &["traceparent"] };
        (component(no.status), response(text, headers))
    });
    described.collect()
}

/// The schema of a stream of events whose messages have this one: a text, as which generated clients read it, and in it events.
/// OpenAPI 3.1 has no other words for a stream.
pub(crate) fn stream(message: &Json) -> Json {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut data = text("The message, as JSON.");
    data["contentMediaType"] = "application/json".into();
    data["contentSchema"] = message.clone();
    let mut stream = text("Server-sent events.");
    stream["contentMediaType"] = "text/event-stream".into();
    stream["contentSchema"] = json!({
        "type": "object",
        "description": "Each event.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": text("What `Last-Event-ID` takes to go on from here."),
            "event": text("What happened."),
            "data": data,
        },
    });
    stream
}

/// A reference to one of [`headers`].
pub(crate) fn header(name: &str) -> Json {
    json!({"$ref": format!("#/components/headers/{name}")})
}

fn component(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or(status.as_str()).replace(' ', "")
}

/// The schema of every answer that says no.
pub(crate) fn problem() -> Json {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut code = text("The kind of problem, by the name of its gRPC status.");
    code["enum"] = TABLE.iter().map(|row| row.word).collect();
    let mut trace_id = text("Finds the request in the shop's logs.");
    trace_id["pattern"] = "^[0-9a-f]{32}$".into();
    let mut facts = json!({"type": "object", "description": "Further facts for programs, such as the new price."});
    facts["additionalProperties"] = json!({"type": "string"});
    let status = json!({"type": "integer", "format": "int32", "description": "The status of the answer, once more."});
    json!({
        "type": "object",
        "description": "Why a request is not answered as asked (RFC 9457).",
        "required": ["type", "title", "status", "code", "reason", "detail", "trace_id"],
        "properties": {
            "type": text("`urn:jangteo:problem:` and the reason."),
            "title": text("The reason as people read it."),
            "status": status,
            "code": code,
            "reason": text("A stable word for programs, such as `out_of_stock`."),
            "detail": text("A sentence for people, with what they can do."),
            "field": text("The part of the request to blame: a JSON path such as `lines[0].quantity`, or a header."),
            "facts": facts,
            "trace_id": trace_id,
        },
        "examples": [{
            "type": "urn:jangteo:problem:invalid", "title": "Invalid", "status": 400, "code": "INVALID_ARGUMENT",
            "reason": "invalid", "detail": "lines[0].quantity is 1 to 1000, not 0", "field": "lines[0].quantity",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        }],
    })
}

/// An example of a message.
pub(crate) fn example(message: &str) -> Option<Json> {
    let lines = json!([{"sku": "TEA-BOSEONG-100", "quantity": 2, "unit_price": 18_000}]);
    let address = json!({
        "recipient": "Kim Jangteo", "street": "Sejong-daero 110", "city": "Seoul", "postal_code": "04524", "country": "KR",
    });
    match message {
        "shop.order.v1.PlaceOrderRequest" => {
            Some(json!({"lines": lines, "payment_method": "pm_card_ok", "shipping_address": address}))
        }
        "shop.order.v1.Order" => Some(json!({
            "order_id": "019b7cc2-2f6a-7c41-9d3e-5b8a6f0e1c27", "customer_id": DEFAULT_CUSTOMER,
            "status": "ORDER_STATUS_CONFIRMED", "cancellation": "CANCELLATION_UNSPECIFIED", "lines": lines, "total": 36_000,
            "currency": "KRW", "shipping_address": address, "placed_at": "2026-01-02T03:04:05.123456Z",
            "updated_at": "2026-01-02T03:04:05.151206Z", "version": 2,
        })),
        "shop.inventory.v1.AddProductRequest" => Some(json!({
            "sku": "TEA-JEJU-050", "name_ko": "제주 녹차 50g", "name_en": "Jeju green tea 50g", "category": "tea",
            "unit_price": 13_000, "currency": "KRW",
        })),
        "shop.inventory.v1.ReceiveStockRequest" => Some(json!({"quantity": 100})),
        "shop.inventory.v1.ChangePriceRequest" => Some(json!({"unit_price": 19_000})),
        "shop.order.v1.RetrySagaRequest" => Some(json!({"reason": "the carrier is back"})),
        "shop.order.v1.SkipSagaStepRequest" => Some(json!({"reason": "booked by phone"})),
        "shop.order.v1.ForceSagaRequest" => Some(json!({"reason": "the customer is unknown at this address"})),
        "shop.messaging.v1.RedriveDeadLetterRequest" => Some(json!({"reason": "the new version can read it"})),
        "shop.messaging.v1.SkipDeadLetterRequest" => Some(json!({"reason": "nobody sent it"})),
        _ => None,
    }
}
