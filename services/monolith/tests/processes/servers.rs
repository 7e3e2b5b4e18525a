//! The servers of the environment, and what a test has there for itself.
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Method;
use messaging::kafka::{self, Kafka};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::service::{SECRET, ask_json};

static MADE: AtomicU32 = AtomicU32::new(0);

/// The servers, and names there that nobody else has.
pub struct Servers {
    pub name: String,
    admin: String,
    pub kafka: String,
    pub elasticsearch: String,
    /// Redis, as redis://HOST:PORT.
    pub redis: String,
}

impl Servers {
    /// Absent, and said so, where there are no servers. It has a role and a database of its name, which are dropped with it.
    pub async fn find() -> Option<Servers> {
        let told =
            ["POSTGRES", "KAFKA", "ELASTICSEARCH", "REDIS"].map(|name| std::env::var(format!("JANGTEO_TEST_{name}")));
        let [Ok(admin), Ok(kafka), Ok(elasticsearch), Ok(redis)] = told else {
            let named = "JANGTEO_TEST_POSTGRES, JANGTEO_TEST_KAFKA, JANGTEO_TEST_ELASTICSEARCH and JANGTEO_TEST_REDIS";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{named} are not set, and in CI they have to be");
            eprintln!("!!! SKIPPED: {named} are not set");
            return None;
        };
        let name = format!("processes_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let servers = Servers { name, admin, kafka, elasticsearch, redis };
        servers.administer(&format!("CREATE ROLE {} LOGIN PASSWORD '{SECRET}'", servers.name)).await;
        servers.make_database().await;
        Some(servers)
    }

    pub async fn make_database(&self) {
        let name = &self.name;
        self.administer(&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0")).await;
    }

    pub async fn drop_database(&self) {
        self.administer(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await;
    }

    /// Copies the database, which nobody may be connected to, to one with this word in its name.
    pub async fn copy_database(&self, word: &str) {
        let name = &self.name;
        self.administer(&format!("CREATE DATABASE {name}_{word} OWNER {name} TEMPLATE {name}")).await;
    }

    /// Puts such a copy in the place of the database.
    pub async fn put_back(&self, word: &str) {
        self.drop_database().await;
        self.administer(&format!("ALTER DATABASE {0}_{word} RENAME TO {0}", self.name)).await;
    }

    /// Moves the database to a folder, until it is dropped.
    pub async fn move_to(&self, folder: &Path) {
        let (name, folder) = (&self.name, folder.display());
        self.administer(&format!("CREATE TABLESPACE {name} LOCATION '{folder}'")).await;
        self.administer(&format!("ALTER DATABASE {name} SET TABLESPACE {name}")).await;
    }

    /// Ends all sessions in the database, as a server does that stops.
    pub async fn end_sessions(&self) {
        let sessions = format!("FROM pg_stat_activity WHERE datname = '{}'", self.name);
        self.administer(&format!("SELECT pg_terminate_backend(pid) {sessions}")).await;
    }

    /// What the administrator of Postgres says.
    pub async fn administer(&self, sql: &str) {
        run(&self.admin, sql).await;
    }

    /// Carries something out in the database, as its owner.
    pub async fn run(&self, sql: &str) {
        run(&self.postgres(), sql).await;
    }

    /// Begins a transaction in the database with this, which lasts for as long as what is given.
    pub async fn hold(&self, sql: &str) -> PgConnection {
        let mut db = PgConnection::connect(&self.postgres()).await.unwrap();
        db.execute(sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {sql}")))).await.unwrap();
        db
    }

    /// One number from the database.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut db = PgConnection::connect(&self.postgres()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await.unwrap()
    }

    /// One text, as the administrator is told it.
    pub async fn text(&self, sql: &str) -> String {
        let mut db = PgConnection::connect(&self.admin).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await.unwrap()
    }

    /// HOST:PORT of Postgres.
    pub fn postgres_address(&self) -> &str {
        self.admin.rsplit_once('@').unwrap().1.split('/').next().unwrap()
    }

    /// The database, at its server.
    pub fn postgres(&self) -> String {
        self.postgres_at(self.postgres_address())
    }

    /// The database, at HOST:PORT.
    pub fn postgres_at(&self, address: &str) -> String {
        let name = &self.name;
        format!("postgres://{name}:{SECRET}@{address}/{name}")
    }

    /// What a process is told, with some of it otherwise.
    pub fn settings(&self, otherwise: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
        let nowhere = || "127.0.0.1:1".to_owned();
        let mut settings = vec![
            ("JANGTEO_POSTGRES", self.postgres()),
            ("JANGTEO_KAFKA", self.kafka.clone()),
            ("JANGTEO_PREFIX", format!("{}-", self.name)),
            ("JANGTEO_INVENTORY", nowhere()),
            ("JANGTEO_PAYMENT", nowhere()),
            ("JANGTEO_SHIPPING", nowhere()),
            ("JANGTEO_ORDER", nowhere()),
            ("JANGTEO_AUDITOR", nowhere()),
        ];
        // What is told twice is the last that was told.
        settings.extend(otherwise.iter().cloned());
        settings
    }

    /// The topics of the test.
    pub fn bus(&self) -> Kafka {
        let prefix = format!("{}-", self.name);
        Kafka::new(&kafka::Settings { servers: self.kafka.clone(), prefix, replicas: 1 }).unwrap()
    }

    /// Deletes topics by their names without the prefix.
    pub async fn delete_topics(&self, topics: &[&str]) {
        let there: Vec<_> = topics.iter().map(|topic| format!("{}-{topic}", self.name)).collect();
        let there: Vec<_> = there.iter().map(String::as_str).collect();
        self.kafka_admin().delete_topics(&there, &AdminOptions::new()).await.unwrap();
    }

    fn kafka_admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.kafka).create().unwrap()
    }

    /// Asks Elasticsearch.
    pub async fn elastic(&self, method: Method, path: &str, body: &Value) -> Value {
        ask_json(method, &format!("{}{path}", self.elasticsearch), body).await.1
    }

    async fn clear(&self) {
        self.drop_database().await;
        self.administer(&format!("DROP TABLESPACE IF EXISTS {}", self.name)).await;
        self.administer(&format!("DROP ROLE {}", self.name)).await;
        let prefix = format!("{}-", self.name);
        let looker: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.kafka).create().unwrap();
        let found = looker.fetch_metadata(None, Duration::from_secs(10)).unwrap();
        let ours: Vec<_> =
            found.topics().iter().map(|topic| topic.name()).filter(|it| it.starts_with(&prefix)).collect();
        if !ours.is_empty() {
            self.kafka_admin().delete_topics(&ours, &AdminOptions::new()).await.unwrap();
        }
        let indices = self.elastic(Method::GET, &format!("/_alias?index={prefix}*"), &Value::Null).await;
        for index in indices.as_object().into_iter().flat_map(|all| all.keys()).filter(|it| it.starts_with(&prefix)) {
            self.elastic(Method::DELETE, &format!("/{index}"), &Value::Null).await;
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            // The test's own runtime may be at its end. What cannot be cleared is left: its name is nobody else's.
            let _ = scope
                .spawn(|| {
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(self.clear())
                })
                .join();
        });
    }
}

async fn run(url: &str, sql: &str) {
    let mut db = PgConnection::connect(url).await.unwrap();
    db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    db.close().await.unwrap();
}
