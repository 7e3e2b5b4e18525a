//! What people read of the databases at psql.
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::customers::text;
use crate::service::SECRET;
use crate::shop::Shop;

/// What one may see there, a line of JSON for each row.
async fn rows(url: &str, query: &str) -> Result<Vec<Value>, sqlx::Error> {
    let mut db = PgConnection::connect(url).await?;
    let query = format!("SELECT row_to_json(shown)::text FROM ({query}) AS shown");
    let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut db).await?;
    Ok(rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect())
}

#[tokio::test]
async fn the_history_of_an_order_is_read_at_psql_as_its_customer_reads_it() {
    let Some(shop) = Shop::open(1, &[]).await else { return };
    let order_id = shop.ordered("k", "pm_card_ok", "KR", "ORDER_STATUS_DELIVERED").await;
    let (_, told) = shop.gateway.get(&format!("/v1/orders/{order_id}/events")).await;
    let told = told["events"].as_array().unwrap();
    let database = |name| &shop.databases.iter().find(|(it, _)| *it == name).unwrap().1;

    // As the service's own role, which owns the view.
    let history = format!("SELECT * FROM events_readable WHERE stream = 'order-{order_id}' ORDER BY version");
    let read = rows(database("order"), &history).await.unwrap();
    assert!(told.len() == 4 && read.len() == told.len(), "{told:?} {read:?}");
    for (read, told) in read.iter().zip(told) {
        for column in ["version", "type", "actor", "causation_id", "trace_id", "event_id"] {
            assert_eq!(read[column], told[column], "{column} of {read}");
        }
        let moment = text(read, "recorded_at").strip_suffix("+00:00").unwrap();
        assert!(text(told, "recorded_at").starts_with(moment), "{read} {told}");
        assert_eq!(read["correlation_id"], order_id);
    }
    assert_eq!(read[0]["data"]["details"]["total"], told[0]["data"]["details"]["total"], "{}", read[0]);
    // What the others did for it has its id as well.
    for service in ["inventory", "payment", "shipping"] {
        let part = format!("SELECT stream FROM events_readable WHERE correlation_id = '{order_id}'");
        let part = rows(database(service), &part).await.unwrap();
        assert!(part.iter().any(|row| text(row, "stream").ends_with(order_id.as_str())), "{service}: {part:?}");
    }

    // Whom nothing was granted, reads nothing; who may read the views does not need the tables.
    let (order, other) = (&shop.servers[3], &shop.servers[0].name);
    let url = format!("postgres://{other}:{SECRET}@{}/{}", order.postgres_address(), order.name);
    let refused = rows(&url, &history).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied for view events_readable"), "{refused}");
    order.run(&format!("GRANT SELECT ON events_readable TO {other}")).await;
    assert_eq!(rows(&url, &history).await.unwrap(), read);
    let refused = rows(&url, "SELECT * FROM events").await.unwrap_err().to_string();
    assert!(refused.contains("permission denied for table events"), "{refused}");
    order.run(&format!("REVOKE SELECT ON events_readable FROM {other}")).await;
}
