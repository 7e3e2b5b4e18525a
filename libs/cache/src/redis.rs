//! A cache on Redis, shared by all replicas.
//!
//! # Problem
//! A server in the middle of every reading is one more that can be slow or away.
//!
//! # Pattern
//! It is asked with little patience, and left alone for a while after it did not answer: what it costs then is known.
//!
//! # Here
//! A value is a hash of version, moment and bytes, which ends by itself. [`PUT`] is [`Kept::or_newer`] where the value is. The clock is
//! Redis's own; it is read in one go with the value, before it. One connection carries everything; it is made when it is first needed.
//!
//! # Limits
//! One server, or one address that leads to it: no cluster. If its clock goes back, values count as old until it has caught up.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, RedisError, Script, pipe};
use tokio::time::{Instant, timeout};

use crate::{Away, Cache, Found, Kept, Moment};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_millis(50);
/// How long it is left alone after it did not answer.
pub const REST: Duration = Duration::from_secs(1);
/// How long a connection may take to be made, in the background.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection whose other end says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// Key; version, moment, value, milliseconds to keep it.
const PUT: &str = r"
local kept = redis.call('HMGET', KEYS[1], 'version', 'complete')
if kept[1] and tonumber(kept[1]) > tonumber(ARGV[1]) then return 0 end
local complete = ARGV[2]
if kept[2] and tonumber(kept[2]) > tonumber(complete) then complete = kept[2] end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'complete', complete, 'value', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
";

/// A cache on a Redis server.
pub struct Redis {
    connection: ConnectionManager,
    /// Without what may stand in front of it: a name and a password.
    address: String,
    prefix: String,
    keep: Duration,
    patience: Duration,
    put: Script,
    /// Until when it is left alone, from the first time that it did not answer on.
    away: Mutex<Option<Instant>>,
}

impl Redis {
    /// The cache under a prefix of keys, at a URL such as `redis://HOST:PORT`. Values are kept for `keep` after they were last put.
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// A sentence, if it is no URL.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(url: &str, prefix: &str, keep: Duration) -> Result<Redis, Away> {
        // The error of a URL may repeat it, with its password.
        let broken = |_: RedisError| Away("Redis's address is no URL such as redis://HOST:PORT".to_owned());
        let info = url.into_connection_info().map_err(broken)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true).set_user_timeout(SILENCE));
        let address = info.addr().to_string();
        let config = ConnectionManagerConfig::new().set_connection_timeout(Some(CONNECT)).set_number_of_retries(0);
        let client = Client::open(info).map_err(broken)?;
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(broken)?;
        let (prefix, put, away) = (prefix.to_owned(), Script::new(PUT), Mutex::default());
        Ok(Redis { connection, address, prefix, keep, patience: PATIENCE, put, away })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What Redis answers, if it may be asked and answers in time.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, Away> {
        if self.away().is_some_and(|until| Instant::now() < until) {
            return Err(Away(format!("Redis at {} did not answer a moment ago", self.address)));
        }
        let why = match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => {
                if self.away().take().is_some() {
                    tracing::info!(redis = self.address, "the cache is back");
                }
                return Ok(answer);
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no answer within {} ms", self.patience.as_millis()),
        };
        if self.away().replace(Instant::now() + REST).is_none() {
            tracing::warn!(redis = self.address, why, "the cache is away; everything is read from the store");
        }
        Err(Away(format!("Redis at {}: {why}", self.address)))
    }

    fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Cache for Redis {
    async fn get(&self, key: &str) -> Result<Found, Away> {
        type Fields = (Option<u64>, Option<u64>, Option<Vec<u8>>);
        let mut connection = self.connection.clone();
        let mut ask = pipe();
        ask.cmd("TIME").cmd("HMGET").arg(self.key(key)).arg(&["version", "complete", "value"]);
        let (time, fields): ((u64, u64), Fields) = self.answer(ask.query_async(&mut connection)).await?;
        let kept = match fields {
            (Some(version), Some(complete), Some(value)) => {
                Some(Kept { version, complete: Moment(complete), value: value.into() })
            }
            _ => None,
        };
        Ok(Found { asked: Moment(time.0 * 1_000 + time.1 / 1_000), kept })
    }

    async fn put(&self, key: &str, new: Kept) -> Result<(), Away> {
        let mut connection = self.connection.clone();
        let mut put = self.put.key(self.key(key));
        put.arg(new.version).arg(new.complete.0).arg(&new.value[..]).arg(self.keep.as_millis() as u64);
        self.answer(put.invoke_async::<()>(&mut connection)).await
    }
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
