//! What services refuse, and how they fail.
use std::cell::RefCell;

use host::error::{Refusal, TABLE};
use http::Method;
use tonic::{Code, Status};

use crate::shop::{Next, ORDER, World};

#[tokio::test]
async fn a_refusal_arrives_whole() {
    let world = World::new();
    let refusal = Refusal::precondition("price_changed", "the price is 900 now")
        .field("lines[0].unit_price")
        .fact("unit_price", 900);
    world.shop.next(Next::Refuse(refusal.into()));
    let answer = world.post("/v1/orders", ORDER).await;
    assert_eq!((answer.status, answer.header("retry-after"), answer.header("location")), (422, "", ""));
    assert_eq!(answer.problem(), ("price_changed".to_owned(), "lines[0].unit_price".to_owned()));
    let json = answer.json();
    assert_eq!((json["title"].as_str(), json["code"].as_str()), (Some("Price changed"), Some("FAILED_PRECONDITION")));
    assert_eq!(
        (json["detail"].as_str(), json["facts"]["unit_price"].as_str()),
        (Some("the price is 900 now"), Some("900"))
    );
}

#[tokio::test]
async fn every_code_has_the_status_of_the_table() {
    for row in TABLE {
        let world = World::new();
        world.shop.next(Next::Refuse(Refusal::new(row.code, "why", "a sentence").into()));
        let answer = world.get("/v1/orders/o-1").await;
        answer.problem();
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (row.http.as_u16(), Some(row.word)),
            "{:?}",
            row.code
        );
        let again = matches!(answer.status, 429 | 503);
        assert_eq!(answer.header("retry-after"), if again { "1" } else { "" }, "{:?}", row.code);
    }
    let world = World::new();
    world.shop.next(Next::Refuse(Refusal::in_progress("the bank thinks").into()));
    let answer = world.post("/v1/orders", ORDER).await;
    assert_eq!((answer.status, answer.header("retry-after")), (409, "1"), "what is in progress may be asked again");
}

#[tokio::test]
async fn what_is_wrong_inside_stays_inside() {
    let refusals = [Code::Internal, Code::Unknown, Code::DataLoss].map(|code| {
        Refusal::new(code, "secret_reason", "select * from secret at 10.0.0.7")
            .field("secret")
            .fact("secret", "secret")
            .into()
    });
    let on_the_way = Status::cancelled("tcp connect error: secret 10.0.0.7:5432");
    for status in refusals.into_iter().chain([on_the_way]) {
        let world = World::new();
        world.shop.next(Next::Refuse(status));
        let answer = world.post("/v1/orders", ORDER).await;
        answer.problem();
        assert!(
            answer.status >= 500 && !answer.text.contains("secret") && !answer.text.contains("10.0.0.7"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_next_request_is_served() {
    let world = World::new();
    world.shop.next(Next::Panic);
    let answer = world.post("/v1/orders", ORDER).await;
    assert_eq!((answer.status, answer.problem().0.as_str()), (500, "internal"));
    assert!(!answer.text.contains("10.0.0.7"), "{answer:?}");
    assert_eq!(world.post("/v1/orders", ORDER).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_given_up_after_the_deadline() {
    let world = World::new();
    for (headers, seconds) in [(vec![], 10), (vec![("Prefer", "wait=7")], 17)] {
        world.shop.next(Next::Hang);
        let started = tokio::time::Instant::now();
        let answer = world.send(Method::GET, "/v1/orders/o-1", &headers, "").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("DEADLINE_EXCEEDED")));
        assert_eq!((started.elapsed().as_millis() + 5) / 1_000, seconds);
    }
}

#[tokio::test]
async fn one_line_a_request_without_bodies_and_customers() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(|| ThisThread).init();
    let world = World::new();
    let kim = [("X-Customer-Id", "kim"), ("Idempotency-Key", "key-7"), ("X-Operator", "lee")];
    world.send(Method::POST, "/v1/orders", &kim, ORDER).await;
    world.send(Method::GET, "/v1/orders/o-1?secret=1", &kim, "").await;
    world.send(Method::GET, "/v1/orders/o-1", &kim, "").await;
    world.shop.next(Next::Refuse(Status::internal("the disk is full")));
    world.send(Method::POST, "/v1/orders/o-77:cancel", &kim, "").await;
    let text = String::from_utf8(LINES.take()).unwrap();
    let found: Vec<_> = text.lines().collect();
    assert_eq!(found.len(), 4, "{text}");
    for (line, (level, route, status)) in found.iter().zip([
        ("INFO", "POST /v1/orders", 201),
        ("INFO", "GET /v1/orders/{order_id}", 400),
        ("DEBUG", "GET /v1/orders/{order_id}", 200),
        ("ERROR", "POST /v1/orders/{order_id}:cancel", 500),
    ]) {
        assert!(line.contains(level) && line.contains("trace_id=") && line.contains("took_us="), "{line}");
        assert!(line.contains(&format!("route=\"{route}\" status={status}")), "{line}");
    }
    assert!(found[3].contains("the disk is full"), "the log has the cause: {}", found[3]);
    for private in ["kim", "lee", "key-7", "TEA-1", "Jong-ro", "pm_card", "o-1", "o-77", "secret"] {
        assert!(!text.contains(private), "{private} is in {text}");
    }
}

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes log lines to the thread that they come from, so that tests beside this one do not mix in.
struct ThisThread;

impl std::io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn more_calls_than_fit_at_a_time_are_refused_and_none_waits() {
    let mut world = World::new();
    let limits = gateway::Limits { at_once: 0, ..gateway::Limits::default() };
    let process = host::Process::on_this_machine();
    let upstreams = crate::shop::upstreams(&process, &world.shop);
    world.gateway = std::sync::Arc::new(gateway::Gateway::new(&process, upstreams, limits).unwrap());
    let answer = world.get("/v1/orders/o-1").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"));
    assert_eq!(answer.problem().0, "too_many_requests");
    assert!(world.shop.calls().is_empty());
    assert_eq!(world.get("/healthz").await.status, 200, "health is always answered");
}
