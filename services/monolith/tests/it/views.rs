//! What people read of the stores' files with `sqlite3`.
use http::{Method, StatusCode};
use rusqlite::{Connection, OpenFlags};

use crate::customers::{client, order, send, text};
use crate::program::Program;

#[tokio::test]
async fn the_history_of_an_order_is_read_from_its_file_as_its_customer_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path()).await;
    let headers = [("Idempotency-Key", "k"), ("Content-Type", "application/json"), ("Prefer", "wait=20")];
    let body = order("pm_card_ok", "KR").to_string();
    let placed = send(&client(), &program.address, Method::POST, "/v1/orders", &headers, body).await.unwrap();
    let order_id = text(&placed.1, "order_id").to_owned();
    let path = format!("/v1/orders/{order_id}/events");
    let told = send(&client(), &program.address, Method::GET, &path, &[], String::new()).await.unwrap();
    assert_eq!((placed.0, told.0), (StatusCode::CREATED, StatusCode::OK));
    let told = told.1["events"].as_array().unwrap().clone();

    // While the shop is open, as another process.
    let read = |file: &str, query: &str| {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(folder.path().join(file), flags).unwrap();
        let mut query = db.prepare(query).unwrap();
        query.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let history = format!(
        "SELECT version || ' ' || type || ' ' || recorded_at || ' ' || actor || ' ' || trace_id || ' ' || event_id
        FROM events_readable WHERE stream = 'order-{order_id}' AND version <= {} ORDER BY version",
        told.len()
    );
    let history = read("order.db", &history);
    let words =
        |event| ["type", "recorded_at", "actor", "trace_id", "event_id"].map(|field| text(event, field)).join(" ");
    let expected: Vec<_> = told.iter().map(|event| format!("{} {}", event["version"], words(event))).collect();
    assert!(expected.len() >= 2);
    assert_eq!(history, expected);
    let facts = format!("SELECT type FROM messages_readable WHERE topic = 'order-events' AND key = 'order-{order_id}'");
    assert_eq!(read("bus.db", &facts)[0], "shop.events.v1.OrderPlaced");
    assert_eq!(program.stop().await, Some(0));
}
