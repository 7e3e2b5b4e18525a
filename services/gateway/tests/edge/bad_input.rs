//! What clients get wrong, or try: each is a precise refusal, and no service sees it.
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;

use crate::shop::{Answer, ORDER, World};

async fn line(world: &World, quantity: &str) -> Answer {
    world.post("/v1/orders", &format!(r#"{{"lines":[{{"sku":"A","quantity":{quantity},"unit_price":1}}]}}"#)).await
}

#[tokio::test]
async fn malformed_json_is_refused() {
    let deep = "[".repeat(60_000);
    let nested = format!(r#"{{"shipping_address":{}"#, r#"{"city":"#.repeat(5_000));
    for body in ["{", "nonsense", r#"{"lines":[]} {}"#, "\"", r#"{"lines":[],}"#, "{\"payment_method\":\"\u{1}\"}"] {
        let world = World::new();
        let answer = world.post("/v1/orders", body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(world.shop.calls().is_empty());
    }
    for body in ["null", "[]", "7", "\"text\"", &deep, &nested] {
        let world = World::new();
        let answer = world.post("/v1/orders", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.problem();
        assert!(world.shop.calls().is_empty() && answer.text.len() < 2_000);
    }
    let world = World::new();
    let request = http::Request::post("/v1/orders").header("Idempotency-Key", "k");
    let not_text = http_body_util::Full::from(b"{\"payment_method\":\"\xff\"}".as_slice());
    assert_eq!(world.answer(request.body(not_text).unwrap()).await.status, 400);
}

#[tokio::test]
async fn a_field_that_is_wrong_is_named() {
    for (body, field) in [
        (r#"{"colour":"red"}"#, "colour"),
        (r#"{"lines":[{"sku":"A"},{"sku":"B","colour":"red"}]}"#, "lines[1].colour"),
        (r#"{"lines":"TEA-1"}"#, "lines"),
        (r#"{"lines":{"sku":"A"}}"#, "lines"),
        (r#"{"lines":[7]}"#, "lines[0]"),
        (r#"{"lines":[null]}"#, "lines[0]"),
        (r#"{"lines":[{"sku":7}]}"#, "lines[0].sku"),
        (r#"{"payment_method":true}"#, "payment_method"),
        (r#"{"shipping_address":"Seoul"}"#, "shipping_address"),
        (r#"{"shipping_address":{"city":["Seoul"]}}"#, "shipping_address.city"),
    ] {
        let world = World::new();
        let answer = world.post("/v1/orders", body).await;
        world.refused_here(&answer, 400, "invalid", field);
    }
}

#[tokio::test]
async fn a_number_that_does_not_fit_its_type_names_the_field() {
    let (two_to_70, negative) = ((1_i128 << 70).to_string(), (-(1_i128 << 70)).to_string());
    for quantity in
        [two_to_70.as_str(), &negative, "9223372036854775808", "1.5", "1e400", "\"two\"", "true", "[]", "\"\""]
    {
        let world = World::new();
        let answer = line(&world, quantity).await;
        if quantity == "1e400" {
            assert_eq!(answer.status, 400); // not a number to the JSON reader either
            continue;
        }
        world.refused_here(&answer, 400, "invalid", "lines[0].quantity");
    }
}

#[tokio::test]
async fn a_number_that_fits_its_type_is_for_the_service_to_judge() {
    for (quantity, read) in
        [("0", 0), ("-1", -1), ("4294967296", 1_i64 << 32), ("9223372036854775807", i64::MAX), ("\"2\"", 2), ("2.0", 2)]
    {
        let world = World::new();
        assert_eq!(line(&world, quantity).await.status, 201, "{quantity}");
        let message = world.shop.last().message;
        assert!(message.contains(&format!("quantity: {read},")), "{quantity}: {message}");
    }
}

#[tokio::test]
async fn a_long_wrong_value_is_not_sent_back_whole() {
    let answer = line(&World::new(), &format!("{:?}", "x".repeat(50_000))).await;
    let name = World::new().post("/v1/orders", &format!(r#"{{"{}":1}}"#, "x".repeat(50_000))).await;
    for answer in [answer, name] {
        assert!(answer.status == 400 && answer.text.len() < 2_000, "{} bytes", answer.text.len());
    }
}

#[tokio::test]
async fn a_body_has_a_limit_a_type_and_a_content() {
    let large = format!(r#"{{"payment_method":"{}"}}"#, "x".repeat(64 * 1024));
    let world = World::new();
    let answer = world.post("/v1/orders", &large).await;
    world.refused_here(&answer, 413, "body_too_large", "");
    assert!(answer.json()["detail"].as_str().unwrap().contains("65536"), "it names the limit");
    let answer = world.post("/v1/orders", "").await;
    world.refused_here(&answer, 400, "body_missing", "");
    for (name, value) in [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Encoding", "gzip"),
    ] {
        let answer = world.send(Method::POST, "/v1/orders", &[("Idempotency-Key", "k"), (name, value)], ORDER).await;
        world.refused_here(&answer, 415, "unsupported_media_type", "Content-Type");
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        let answer =
            world.send(Method::POST, "/v1/orders", &[("Idempotency-Key", "k"), ("Content-Type", kind)], ORDER).await;
        assert_eq!(answer.status, 201);
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let exact = format!("{ORDER}{}", " ".repeat(64 * 1024 - ORDER.len()));
    assert_eq!(World::new().post("/v1/orders", &exact).await.status, 201);
    let over = World::new().post("/v1/orders", &format!("{exact} ")).await;
    assert_eq!(over.status, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let drip = |pause: u64| {
        futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b" "))), ()))
        })
    };
    let world = World::new();
    let started = tokio::time::Instant::now();
    let request = || http::Request::post("/v1/orders").header("Idempotency-Key", "k");
    let answer = world.answer(request().body(StreamBody::new(drip(100))).unwrap()).await;
    world.refused_here(&answer, 408, "body_too_slow", "");
    assert_eq!(started.elapsed().as_millis() / 100, 100, "after 10 s");
    let silent = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let answer = world.answer(request().body(StreamBody::new(silent)).unwrap()).await;
    world.refused_here(&answer, 408, "body_too_slow", "");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_used() {
    let world = World::new();
    let frames = [Ok(Frame::data(Bytes::from(ORDER))), Err(std::io::Error::other("gone"))];
    let request = http::Request::post("/v1/orders").header("Idempotency-Key", "k");
    let answer = world.answer(request.body(StreamBody::new(futures::stream::iter(frames))).unwrap()).await;
    world.refused_here(&answer, 400, "body_incomplete", "");
}

#[tokio::test]
async fn path_tricks_are_refused() {
    let (long, exact) = ("x".repeat(10_000), "x".repeat(2_000 - "/v1/orders/".len()));
    for (path, status, reason) in [
        ("/", 404, "no_such_path"),
        ("/v1", 404, "no_such_path"),
        ("/v1/order", 404, "no_such_path"),
        ("/v1/orders/", 404, "no_such_path"),
        ("/v1//orders", 404, "no_such_path"),
        ("//v1/orders", 404, "no_such_path"),
        ("/V1/orders", 404, "no_such_path"),
        ("/v1/%6Frders", 404, "no_such_path"),
        ("/v1/orders/o-1/", 404, "no_such_path"),
        ("/v1/orders/o-1:eat", 404, "no_such_path"),
        ("/v1/orders/o-1:", 404, "no_such_path"),
        ("/v1/orders:cancel", 404, "no_such_path"),
        ("/v1/orders/..", 400, "malformed_target"),
        ("/v1/../v1/orders", 400, "malformed_target"),
        ("/v1/orders/%2e%2e", 400, "malformed_target"),
        ("/v1/orders/%2E.", 400, "malformed_target"),
        ("/v1/./orders", 400, "malformed_target"),
        ("/v1/orders/%00", 400, "malformed_target"),
        ("/v1/orders/a%0d%0ab", 400, "malformed_target"),
        ("/v1/orders/%", 400, "malformed_target"),
        ("/v1/orders/%4", 400, "malformed_target"),
        ("/v1/orders/%zz", 400, "malformed_target"),
        ("/v1/orders/%ff", 400, "malformed_target"),
        ("/v1/orders/%c0%ae", 400, "malformed_target"),
        (&format!("/v1/orders/{long}"), 414, "path_too_long"),
        (&format!("/v1/orders?page_token={long}"), 414, "path_too_long"),
    ] {
        let world = World::new();
        let answer = world.get(path).await;
        world.refused_here(&answer, status, reason, "");
    }
    assert_eq!(World::new().get(&format!("/v1/orders/{exact}")).await.status, 200);
}

#[tokio::test]
async fn queries_are_read_strictly() {
    for (path, field) in [
        ("/v1/orders?colour=red", "colour"),
        ("/v1/orders?pageSize=3", "pageSize"),
        ("/v1/orders?=3", ""),
        ("/v1/orders?page_size=3&page_size=4", "page_size"),
        ("/v1/orders?page_size=ten", "page_size"),
        ("/v1/orders?page_size=", "page_size"),
        ("/v1/orders?page_size", "page_size"),
        ("/v1/orders?page_size=1.5", "page_size"),
        ("/v1/orders?page_size=4294967296", "page_size"),
        ("/v1/orders?status=EATEN", "status"),
        ("/v1/orders/o-1?order_id=o-2", "order_id"),
    ] {
        let world = World::new();
        let answer = world.get(path).await;
        world.refused_here(&answer, 400, "invalid", field);
    }
    for path in
        ["/v1/orders?page_token=%00", "/v1/orders?page_token=%ff", "/v1/orders?page_token=%", "/v1/orders?%zz=1"]
    {
        let world = World::new();
        let answer = world.get(path).await;
        world.refused_here(&answer, 400, "malformed_target", "");
    }
    let world = World::new();
    let answer = world.post("/v1/orders?page_size=1", ORDER).await;
    world.refused_here(&answer, 400, "invalid", "page_size");
}

#[tokio::test]
async fn a_body_cannot_say_something_else_than_the_path() {
    let world = World::new();
    let answer = world.post("/v1/orders/o-1:cancel", r#"{"order_id":"o-2"}"#).await;
    world.refused_here(&answer, 400, "invalid", "order_id");
}

/// RFC 3339, as people write it: in a query an unescaped + arrives as a blank.
#[tokio::test]
async fn a_moment_is_taken_in_every_form_of_its_standard_and_in_no_other() {
    let world = World::new();
    let taken = [
        ("2027-01-15T08:00:00Z", 1_800_000_000, 0),
        ("2027-01-15T17:00:00%2B09:00", 1_800_000_000, 0),
        ("2027-01-15T17:00:00+09:00", 1_800_000_000, 0),
        ("2027-01-15T17:00:00.5+09:00", 1_800_000_000, 500_000_000),
        ("2027-01-15T03:30:00-04:30", 1_800_000_000, 0),
        ("2027-01-15T08:00:00-00:00", 1_800_000_000, 0),
        ("2027-01-15t08:00:00z", 1_800_000_000, 0),
        ("2027-01-15T08:00:00.1Z", 1_800_000_000, 100_000_000),
        ("2027-01-15T08:00:00.123456789Z", 1_800_000_000, 123_456_789),
        ("2027-01-15T08:00:00.1234567899999Z", 1_800_000_000, 123_456_789),
        ("2016-12-31T23:59:60Z", 1_483_228_799, 0),
        ("2017-01-01T08:59:60+09:00", 1_483_228_799, 0),
        ("2028-02-29T00:00:00Z", 1_835_395_200, 0),
        ("0001-01-01T00:00:00Z", -62_135_596_800_i64, 0),
        ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
    ];
    for (moment, seconds, nanos) in taken {
        let answer = world.get(&format!("/v1/orders/a?at_time={moment}")).await;
        assert_eq!(answer.status, 200, "{moment}: {answer:?}");
        let message = world.shop.last().message;
        let read = format!("at_time: Some(Timestamp {{ seconds: {seconds}, nanos: {nanos} }})");
        assert!(message.contains(&read), "{moment}: {message}");
    }
    let refused = [
        "2027-01-15",
        "2027-01-15T08:00:00",
        "2027-01-15T08:00Z",
        "2027-01-15T08:00:00.Z",
        "2027-01-15T24:00:00Z",
        "2027-01-15T08:00:61Z",
        "2027-02-29T08:00:00Z",
        "2027-1-15T08:00:00Z",
        "2027-01-15T08:00:00+9:00",
        "2027-01-15T08:00:00+24:00",
        "2027-01-15T08:00:00++09:00",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00%2B09:00",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-09:00",
        "%EC%98%A4%EB%8A%98",
        "",
    ];
    let calls = world.shop.calls().len();
    for moment in refused {
        let answer = world.get(&format!("/v1/orders/a?at_time={moment}")).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (400, Some("at_time")), "{moment}: {answer:?}");
    }
    assert_eq!(world.shop.calls().len(), calls);
}
