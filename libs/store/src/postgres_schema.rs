//! Makes, migrates and opens the database of a store on PostgreSQL.
//!
//! # Problem
//! A program that meets another database than it was written for harms it, or fails at the first customer; and what goes
//! wrong at the start is either a server that is not up yet, where waiting helps, or a mistake, where it does not.
//!
//! # Pattern
//! Fail at the door, and say which of the two it is: [`OpenError::passes`]. Migrations are steps that are counted in the
//! database, each taken once, under a lock, in a transaction.
//!
//! # Here
//! An empty database is made a store; one with other tables, or of a newer program, is refused untouched. Every connection
//! has [`SETTINGS`], for what the answers rest on is not left to the server's configuration.
//!
//! # Limits
//! A step must leave a database that programs of the step before can go on with, for some still run.
use std::time::Duration;

use futures::FutureExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool};
use tokio::time::timeout;

use crate::postgres_environment::{direct, foreign};
use crate::{postgres_pooler, postgres_views};

/// Longest wait for a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// What every connection insists on, whatever server, database, role and address say.
///
/// A process that is stopped (SIGSTOP) within a transaction loses it, and with it what it had locked, after five seconds;
/// one whose machine is gone, after twenty.
// Danger: sent after connecting, not as start-up parameters: a pooler refuses those, or drops them silently if it is set to
// ignore them. So they are the first statements of every connection, and a connection on which they fail is not used.
const SETTINGS: &str = concat!(
    // An answer means that the commit is on the disk.
    "SET synchronous_commit = on;",
    // Danger: what is checked after waiting for a lock is only right if each statement sees what was committed before it.
    "SET default_transaction_isolation = 'read committed';",
    "SET idle_in_transaction_session_timeout = '5s';",
    // More than a wait for somebody who is stopped.
    "SET statement_timeout = '10s';",
    "SET tcp_keepalives_idle = 10;",
    "SET tcp_keepalives_interval = 3;",
    "SET tcp_keepalives_count = 3;",
    "SET tcp_user_timeout = '20s';",
    // Every statement has its index, in the order that it asks for, and each thing in a list is looked up in it. A plan that was
    // made for an empty table would be kept when it is full.
    "SET enable_seqscan = off;",
    "SET enable_bitmapscan = off;",
    "SET enable_hashjoin = off;",
    "SET enable_mergejoin = off;",
    // Planned once: by itself the server plans what has lists or a limit each time, which takes longer than carrying it out.
    "SET plan_cache_mode = force_generic_plan;",
    // A plan that knows no limit would start processes for a page of the log.
    "SET max_parallel_workers_per_gather = 0;",
    "SET jit = off;",
    "SET client_min_messages = warning;",
);

/// Guards the migration, in the database that it is for.
const MIGRATION_LOCK: i64 = 0x4a41_4e47_0001;
/// Longest migration, and longest wait for another process's.
const MIGRATION: Duration = Duration::from_secs(600);

/// Each step's SQL makes the layout of its place in the list, counted from 1, from the one before.
const STEPS: [&str; 1] = ["
    CREATE TABLE jangteo_layout (layout integer NOT NULL);
    INSERT INTO jangteo_layout VALUES (0);
    CREATE TABLE streams (
        key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE \"C\" NOT NULL UNIQUE,
        version bigint NOT NULL, timestamp bigint NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE events (
        arrival bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, position bigint UNIQUE, id uuid NOT NULL UNIQUE,
        stream bigint NOT NULL, version bigint NOT NULL, type text NOT NULL, schema integer NOT NULL, data json NOT NULL,
        timestamp bigint NOT NULL, correlation_id text NOT NULL, causation_id text NOT NULL, actor text NOT NULL,
        traceparent text NOT NULL, UNIQUE (stream, version));
    CREATE INDEX events_without_position ON events (arrival) WHERE position IS NULL;
    CREATE TABLE commits (id text COLLATE \"C\" PRIMARY KEY, reply bytea NOT NULL);
    CREATE TABLE timers (key text COLLATE \"C\" PRIMARY KEY, due bigint NOT NULL);
    CREATE INDEX timers_due ON timers (due, key);
    CREATE TABLE marks (name text COLLATE \"C\" PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE snapshots (
        stream bigint PRIMARY KEY, version bigint NOT NULL, schema integer NOT NULL, data text NOT NULL);
    CREATE TABLE leases (name text COLLATE \"C\" PRIMARY KEY, holder uuid NOT NULL, until bigint NOT NULL);"];

/// Why a database was not opened. It was not changed either.
#[derive(Debug, thiserror::Error)]
#[error("{database} {reason}")]
pub struct OpenError {
    /// `host:port/name`, without who asked for it.
    pub database: String,
    /// What is the matter with it.
    pub reason: Refusal,
}

impl OpenError {
    /// Whether it is worth trying again in a while. Otherwise a person has to act first.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.reason, Refusal::Away(_) | Refusal::Busy)
    }
}

/// What makes roles, databases and grants that are missing.
const CURE: &str =
    "deploy/postgres/roles.sql makes what is missing: `docker compose run --rm roles`, or `cargo xtask infra up`";

/// What is the matter with a database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing answers there, or it is just starting or stopping.
    #[error("cannot be reached: {0}")]
    Away(String),
    /// The server has no connection left.
    #[error("has no connection left: max_connections of the server is reached")]
    Busy,
    /// The environment would change what the address says.
    #[error("is not connected to while {0} is set in the environment: it would change every connection; unset it")]
    Environment(&'static str),
    /// The address cannot be understood. It is not repeated, for there may be a password in it.
    #[error("is not an address like postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address,
    /// The role is missing, or has another password.
    #[error("does not let the role {user} in: it is missing or has another password; {CURE}")]
    Login {
        /// Who asked.
        user: String,
    },
    /// The server lets the role in from nowhere, or not from here.
    #[error("does not let the role {user} in ({said}); {CURE}")]
    Forbidden {
        /// Who asked.
        user: String,
        /// What the server said.
        said: String,
    },
    /// The server is there, the database is not.
    #[error("does not exist on that server; {CURE}")]
    Missing,
    /// The role lacks a grant.
    #[error("grants the role {user} too little ({said}); {CURE}")]
    Denied {
        /// Who asked.
        user: String,
        /// What the server said.
        said: String,
    },
    /// A pooler gives each transaction, or each statement, to another server connection.
    #[error(
        "is reached through a pooler that keeps no sessions: set pool_mode=session there, or give the address of the server itself"
    )]
    Pooled,
    /// One side wants TLS, and the other does not have it or is not trusted.
    #[error("cannot be reached with TLS ({0}): sslmode in the address says what is expected")]
    Tls(String),
    /// Something else keeps its data there.
    #[error("holds the table {0} of another application: a store needs a database of its own")]
    Foreign(String),
    /// A newer program has migrated it.
    #[error("was written by a newer version (its layout is {0}, this program knows {1})")]
    Newer(i32, i32),
    /// The server would not do what was asked.
    #[error("cannot be used: {0}")]
    Refused(String),
}

impl Refusal {
    fn of(error: &sqlx::Error, user: &str) -> Refusal {
        match error {
            sqlx::Error::Database(error) => {
                let (said, user) = (error.message().to_owned(), user.to_owned());
                match error.code().as_deref().unwrap_or_default() {
                    "28P01" => Refusal::Login { user },
                    "28000" => Refusal::Forbidden { user, said },
                    "3D000" => Refusal::Missing,
                    "42501" => Refusal::Denied { user, said },
                    "53300" => Refusal::Busy,
                    // A pooler has this one code for all its errors; waiting helps with the others.
                    "08P01" if said.starts_with("unsupported startup parameter") => Refusal::Refused(said),
                    code if is_farewell(code) || code == "57014" => Refusal::Away(said),
                    _ => Refusal::Refused(said),
                }
            }
            sqlx::Error::Tls(why) => Refusal::Tls(why.to_string()),
            // What a certificate is refused with.
            sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::InvalidData => Refusal::Tls(why.to_string()),
            sqlx::Error::Io(why) => Refusal::Away(why.to_string()),
            sqlx::Error::PoolTimedOut => Refusal::Away("no connection was made in time".to_owned()),
            other => Refusal::Refused(other.to_string()),
        }
    }
}

/// Whether a server that says this hangs up.
pub(crate) fn is_farewell(code: &str) -> bool {
    code.starts_with("57P") || code.starts_with("08")
}

/// How to connect, and what the database is called in messages.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) options: PgConnectOptions,
    pub(crate) name: String,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Address, OpenError> {
        let wrong = || OpenError { database: "the store's address".to_owned(), reason: Refusal::Address };
        let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options: PgConnectOptions = url.parse().ok().filter(|_| known).ok_or_else(wrong)?;
        let options = direct(options, url);
        let database = options.get_database().unwrap_or(options.get_username());
        let name = format!("{}:{}/{database}", options.get_host(), options.get_port());
        if let Some(variable) = foreign(url) {
            return Err(OpenError { database: name, reason: Refusal::Environment(variable) });
        }
        // A pooler refuses this start-up parameter. It is for floating-point numbers, which a store does not have.
        let options = options.extra_float_digits(None).disable_statement_logging();
        Ok(Address { options, name })
    }

    /// A connection that has [`SETTINGS`].
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.connect_with("").await
    }

    /// A connection that has [`SETTINGS`] and was prepared by some SQL, all in one round trip.
    pub(crate) async fn connect_with(&self, preparation: &str) -> Result<PgConnection, sqlx::Error> {
        let mut db = self.dial().await?;
        let preparing = db.execute(sqlx::raw_sql(AssertSqlSafe(format!("{SETTINGS}{preparation}"))));
        timeout(CONNECT, preparing).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        Ok(db)
    }

    /// A pool of one connection that has [`SETTINGS`], made when it is asked for.
    pub(crate) fn pool_of_one(&self) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT).idle_timeout(None);
        let pool = pool.max_lifetime(None).after_connect(|db, _| set(db).boxed());
        pool.connect_lazy_with(self.options.clone())
    }

    /// A connection with nothing done to it.
    async fn dial(&self) -> Result<PgConnection, sqlx::Error> {
        timeout(CONNECT, PgConnection::connect_with(&self.options)).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Whether a pooler that keeps no sessions stands between this program and the server.
    async fn is_pooled(&self) -> Result<bool, sqlx::Error> {
        let (mut one, mut other) = (self.dial().await?, self.dial().await?);
        postgres_pooler::shares_servers(&mut one, &mut other).await
    }

    /// Makes the database what this program needs.
    pub(crate) async fn prepare(&self) -> Result<(), OpenError> {
        let refused = |error: &sqlx::Error| Refusal::of(error, self.options.get_username());
        let attempt = async {
            if self.is_pooled().await.map_err(|error| refused(&error))? {
                return Err(Refusal::Pooled);
            }
            let mut db = self.connect().await.map_err(|error| refused(&error))?;
            warn_of_loss(&mut db, &self.name).await.map_err(|error| refused(&error))?;
            let migrated = migrate(&mut db, &STEPS, &self.name).await.map_err(|error| refused(&error))?;
            // The answer is known; whether the server hears that we leave is not ours to wait for.
            drop(db);
            migrated
        };
        let late = |_| Err(Refusal::Away(format!("it was not ready within {} s", MIGRATION.as_secs())));
        let ready = timeout(MIGRATION, attempt).await.unwrap_or_else(late);
        ready.map_err(|reason| OpenError { database: self.name.clone(), reason })
    }
}

async fn set(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    db.execute(sqlx::raw_sql(SETTINGS)).await.map(drop)
}

async fn warn_of_loss(db: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(db).await?;
    if fsync == "off" {
        tracing::warn!(database = name, "its server runs with fsync=off: a power cut loses answered commits");
    }
    Ok(())
}

/// Takes the steps that are missing, and makes the views that are.
async fn migrate(
    db: &mut PgConnection,
    steps: &[&'static str],
    name: &str,
) -> Result<Result<(), Refusal>, sqlx::Error> {
    let mut transaction = db.begin().await?;
    let limit = format!("{}s", MIGRATION.as_secs());
    sqlx::query("SELECT set_config('statement_timeout', $1, true)").bind(limit).execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await?;
    let made: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('jangteo_layout')::text").fetch_one(&mut *transaction).await?;
    let layout: i32 = match made {
        Some(_) => sqlx::query_scalar("SELECT layout FROM jangteo_layout").fetch_one(&mut *transaction).await?,
        None => 0,
    };
    let foreign = "SELECT tablename::text FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
        ORDER BY 1 LIMIT 1";
    if made.is_none()
        && let Some(table) = sqlx::query_scalar(foreign).fetch_optional(&mut *transaction).await?
    {
        return Ok(Err(Refusal::Foreign(table)));
    }
    let known = i32::try_from(steps.len()).unwrap_or(i32::MAX);
    if layout > known {
        return Ok(Err(Refusal::Newer(layout, known)));
    }
    for step in steps.iter().skip(usize::try_from(layout).unwrap_or(0)) {
        transaction.execute(sqlx::raw_sql(*step)).await?;
    }
    if layout < known {
        sqlx::query("UPDATE jangteo_layout SET layout = $1").bind(known).execute(&mut *transaction).await?;
    }
    postgres_views::make(&mut transaction, name).await?;
    transaction.commit().await.map(Ok)
}

#[cfg(test)]
#[path = "postgres_schema_tests.rs"]
mod tests;
