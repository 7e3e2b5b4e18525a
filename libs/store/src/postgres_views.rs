//! Makes the views of a store on PostgreSQL that people read at psql.
//!
//! # Problem
//! The tables are made for the program: a stream is a number, a moment a count of microseconds. Whoever looks into them for one
//! order has to know two joins and a formula first.
//!
//! # Pattern
//! A view beside each table that has such columns, with the words that clients know.
//!
//! # Here
//! A view is made when it is missing, after the steps of the layout and in their transaction. It is no step itself: no program
//! reads it, and an earlier one can still be put back. Where the role may make none, that is said and the store opens without.
//! The role of the service owns the views, so that somebody else reads them only if it is granted.
//!
//! # Limits
//! A step that changes a column of a view drops the view first; it is made anew behind it. What is remembered of replies
//! (`commits`) is binary and stays so.
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

/// A column of microseconds since 1970 as a moment. A product with an interval is exact to the microsecond.
macro_rules! moment {
    ($column:literal) => {
        concat!("timestamptz 'epoch' + ", $column, " * interval '1 microsecond'")
    };
}

const VIEWS: [(&str, &str); 5] = [
    (
        "events_readable",
        concat!(
            "SELECT position, name AS stream, events.version, type, ",
            moment!("events.timestamp"),
            " AS recorded_at, data, actor, correlation_id, causation_id, split_part(traceparent, '-', 2) AS trace_id,
            id AS event_id, schema FROM events JOIN streams ON key = stream"
        ),
    ),
    (
        "streams_readable",
        concat!(
            // Heads of version 0 were only ever asked for.
            "SELECT name AS stream, version, ",
            moment!("timestamp"),
            " AS changed_at FROM streams WHERE version > 0"
        ),
    ),
    ("timers_readable", concat!("SELECT key, ", moment!("due"), " AS due_at FROM timers")),
    ("leases_readable", concat!("SELECT name, holder, ", moment!("until"), " AS held_until FROM leases")),
    (
        "snapshots_readable",
        "SELECT name AS stream, snapshots.version, schema, data FROM snapshots JOIN streams ON key = stream",
    ),
];

/// Makes the views that are missing, within a transaction.
///
/// # Errors
/// If the server does not answer; that it refuses is only said.
pub(crate) async fn make(transaction: &mut PgConnection, database: &str) -> Result<(), sqlx::Error> {
    // Danger: only what is missing. To replace a view waits for everybody who reads it, and a person may forget a transaction.
    let missing = "SELECT to_regclass($1) IS NULL";
    for (name, query) in VIEWS {
        if !sqlx::query_scalar(missing).bind(name).fetch_one(&mut *transaction).await? {
            continue;
        }
        // What fails here does not take the transaction with it.
        let mut attempt = transaction.begin().await?;
        match attempt.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE VIEW {name} AS {query}")))).await {
            Ok(_) => attempt.commit().await?,
            Err(sqlx::Error::Database(why)) => {
                attempt.rollback().await?;
                tracing::warn!(database, why = why.message(), "the view {name} cannot be made; only people miss it");
            }
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "postgres_views_tests.rs"]
mod tests;
