//! Databases for tests, on the server that `JANGTEO_TEST_POSTGRES` names.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clock::Clock;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::contract::Subject;
use crate::postgres::Postgres;

const SERVER: &str = "JANGTEO_TEST_POSTGRES";
static MADE: AtomicU64 = AtomicU64::new(0);

/// Says that a test is left out for this reason. In CI none is.
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a test has no other configuration, and no log")]
#[track_caller]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing is left out, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// An empty database that is dropped with this.
pub(crate) struct Database {
    server: String,
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Database {
    /// Absent, and said so, where there is no server.
    #[expect(clippy::disallowed_methods, reason = "a test has no other configuration")]
    pub(crate) async fn make() -> Option<Database> {
        let Ok(server) = std::env::var(SERVER) else {
            skip(&format!("{SERVER} names no server, as in postgres://postgres@127.0.0.1:5432/postgres"));
            return None;
        };
        let name = format!("store_test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let (address, _) = server.rsplit_once('/').expect("the address ends with a database");
        let url = format!("{address}/{name}");
        run(&server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        Some(Database { server, name, url })
    }

    /// A store in it, as one of the processes that share it.
    pub(crate) async fn open(&self, clock: Arc<dyn Clock>) -> Postgres {
        Postgres::open(&self.url, Some(clock)).await.unwrap()
    }

    /// A connection as an operator has it.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.url.parse::<PgConnectOptions>().unwrap()).await.unwrap()
    }

    /// Carries out `sql` on it.
    pub(crate) async fn run(&self, sql: &str) {
        run(&self.url, sql).await;
    }
}

impl Subject {
    /// The database that it was made with.
    pub(crate) fn database(&self) -> &Database {
        self._keep.downcast_ref().unwrap()
    }
}

async fn run(url: &str, sql: &str) {
    let mut db = PgConnection::connect(url).await.unwrap();
    db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    db.close().await.unwrap();
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // The test's own runtime may be at its end.
        let dropping = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(&server, &sql));
        });
        let _ = dropping.join();
    }
}
