//! The connections over which a process reads from a store on PostgreSQL.
//!
//! # Problem
//! A connection costs a process on the server. One that was given up in the middle of an answer has the rest of it for whoever
//! comes next.
//!
//! # Pattern
//! Connection pool.
//!
//! # Here
//! [`Readers::read`] takes a connection that is idle, or makes one, and puts it back once the answer is whole. A read that is
//! dropped, late or fails on the way takes its connection with it; if the way failed, those that are idle go too, for they have
//! likely failed with it. sqlx's own pool asks each connection that comes back whether it is well, which costs as much again as
//! most reads here.
//!
//! # Limits
//! Whoever waits longer than [`ACQUIRE`] for one is refused. Of connections that a server lost while all were idle, the first is
//! noticed by a read, which fails.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::ReadError;
use crate::postgres_schema::{Address, is_farewell};

/// Most reads at a time.
pub(crate) const READERS: usize = 4;
/// Longest wait for a connection to read with.
const ACQUIRE: Duration = Duration::from_secs(2);
/// Longest read; longer than its statement may take.
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Readers {
    address: Address,
    places: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Readers {
    pub(crate) fn new(address: Address) -> Readers {
        Readers { address, places: Semaphore::new(READERS), idle: Mutex::default() }
    }

    /// Reads over one of the connections.
    ///
    /// # Errors
    /// What the server says, or that it is not reached in time.
    pub(crate) async fn read<T>(
        &self,
        query: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let late = |_| sqlx::Error::PoolTimedOut;
        let _place = timeout(ACQUIRE, self.places.acquire()).await.map_err(late)?;
        let idle = self.idle().pop();
        let mut db = match idle {
            Some(db) => db,
            None => self.address.connect().await?,
        };
        // Danger: from here on, whatever ends early drops the connection, which may be in the middle of anything.
        let read = timeout(LIMIT, query(&mut db)).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        match &read {
            Ok(_) => self.idle().push(db),
            Err(sqlx::Error::Database(said)) if !is_farewell(&said.code().unwrap_or_default()) => self.idle().push(db),
            Err(_) => self.idle().clear(),
        }
        read
    }

    /// What is told of a read that failed.
    pub(crate) fn sentence(&self, why: &sqlx::Error) -> ReadError {
        let sentence = format!("{}: {why}", self.name());
        match why {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => ReadError::Corrupt(sentence),
            sqlx::Error::Database(said) if said.code().is_some_and(|code| code.starts_with("XX00")) => {
                ReadError::Corrupt(sentence)
            }
            sqlx::Error::Database(_) => ReadError::Unavailable(sentence),
            // A way that was cut, one that nobody answers and a pool that waits for one are the same to whoever asked, who says it
            // once; how it came about is the writer's and the sequencer's to say.
            _ => ReadError::Unavailable(format!("{} cannot be reached", self.name())),
        }
    }

    /// Of the database, as it stands in messages.
    pub(crate) fn name(&self) -> &str {
        &self.address.name
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
