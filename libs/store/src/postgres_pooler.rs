//! Detects a connection pooler that keeps no sessions between a store and PostgreSQL.
//!
//! # Problem
//! A store's connections have session state: settings, temporary functions, prepared statements, LISTEN. PgBouncer with
//! `pool_mode=transaction` runs each transaction on any idle server connection, so that this state is there for one transaction and
//! missing in the next. A service would start, and then fail now and then with errors that do not name the cause.
//!
//! # Pattern
//! Fail fast: a probe before anything depends on the connection.
//!
//! # Here
//! Two connections ask in turn for the process id of their server. If connections are sessions, each always gets the same
//! id, and the two ids differ. The probe uses the simple query protocol and changes nothing: a prepared statement would fail before
//! it could tell, and a setting would stay on a server connection that other clients get next.
//!
//! # Limits
//! The probe runs when a store is opened, so a pool mode that is changed later is not noticed. A pooler that gave a client the
//! same server connection for as long as nobody else wants it would not be noticed either; PgBouncer does not.
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};
use tokio::time::timeout;

use crate::postgres_schema::CONNECT;

/// How many rounds of the probe there are. In each, both connections ask twice in succession.
///
/// PgBouncer chooses among idle server connections without regard to who asks. If it takes the one that was returned last, or
/// has only one, both connections get the same. If it takes them in turn (`server_round_robin`), then of two or more the second
/// of two successive questions gets another. Other clients that take part in a regular rhythm, such as replicas that start
/// together, only shift the turn: if it comes back to the same server connection for the second question, it does so for the
/// other connection as well. Irregular clients make each answer random: the probe then misses a pool of two with a probability of
/// 2^-32, and a larger one less often.
const ROUNDS: usize = 8;

/// Whether a pooler changes the server connection between statements outside a transaction.
///
/// # Errors
/// If one of the connections is not answered.
pub(crate) async fn shares_servers(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let (ours, theirs) = (server_of(one).await?, server_of(other).await?);
    if ours == theirs {
        return Ok(true);
    }
    for _ in 0..ROUNDS {
        for (db, known) in [(&mut *one, ours), (&mut *other, theirs)] {
            for _ in 0..2 {
                if server_of(db).await? != known {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The process id of the server behind a connection. While all server connections of a pool are taken, there is none.
async fn server_of(db: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let late = |_| sqlx::Error::PoolTimedOut;
    let answer = timeout(CONNECT, db.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()"))).await.map_err(late)??;
    answer.try_get(0)
}

#[cfg(test)]
#[path = "postgres_pooler_tests.rs"]
mod tests;
