//! Two ways to load a server.
//!
//! # Problem
//! Clients that each wait for their answer before they ask again stop asking when the server stalls: the stall is counted
//! once for each of them, not for all that would have come meanwhile (coordinated omission).
//!
//! # Pattern
//! Closed loop for throughput: so many at a time, as fast as they are answered. Open loop for latency: requests come by a
//! schedule that the server cannot slow down, and latency counts from when a request should have been sent.
//!
//! # Here
//! [`closed`] and [`open`] carry out any [`Work`] over plain keep-alive connections.
//!
//! # Limits
//! Both run on one thread and share the machine with the server. A timer wakes up to 1 ms late; the open loop counts that
//! as latency.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Answer, Call, Connection};
use crate::tally::{Judged, Tally};

/// What is asked, and what is a good answer.
pub trait Work: Send + Sync + 'static {
    /// The next request.
    fn next(&self) -> Call;

    /// Judges an answer.
    fn judge(&self, answer: &Answer) -> Judged;
}

/// Sends `total` requests, `in_flight` at a time, each on a connection of its own.
///
/// # Errors
/// If no connection can be opened.
pub async fn closed(address: SocketAddr, work: &Arc<impl Work>, total: u64, in_flight: usize) -> Result<Tally> {
    let mut connections = Vec::with_capacity(in_flight);
    for _ in 0..in_flight {
        connections.push(Connection::open(address).await?);
    }
    let (sent, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut workers = JoinSet::new();
    for mut connection in connections {
        let (work, sent) = (work.clone(), sent.clone());
        workers.spawn(async move {
            let mut tally = Tally::default();
            while sent.fetch_add(1, Ordering::Relaxed) < total {
                let call = work.next();
                let begun = Instant::now();
                match connection.send(call).await {
                    Ok(answer) => tally.add(work.judge(&answer), begun.elapsed(), begun.elapsed()),
                    // What follows on a broken connection would say nothing new.
                    Err(why) => {
                        tally.fail(format!("{why:#}"));
                        break;
                    }
                }
            }
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(worker) = workers.join_next().await {
        tally.merge(worker?);
    }
    tally.wall = started.elapsed();
    Ok(tally)
}

/// Sends `total` requests, `rate` a second, whether or not they are answered; what would be more than `most_in_flight` at a
/// time is dropped and counted.
///
/// # Errors
/// If a task breaks.
pub async fn open(
    address: SocketAddr,
    work: &Arc<impl Work>,
    total: u32,
    rate: u32,
    most_in_flight: usize,
) -> Result<Tally> {
    let (mut tally, mut flying, mut idle) = (Tally::default(), JoinSet::new(), Vec::new());
    let started = Instant::now() + Duration::from_millis(10);
    for n in 0..total {
        let due = started + Duration::from_secs(1) * n / rate;
        sleep_until(due).await;
        while let Some(landed) = flying.try_join_next() {
            idle.extend(land(landed?, &mut tally));
        }
        if flying.len() >= most_in_flight {
            tally.dropped += 1;
            continue;
        }
        idle.retain(|connection: &Connection| !connection.is_closed());
        flying.spawn(fly(address, work.clone(), idle.pop(), due));
    }
    while let Some(landed) = flying.join_next().await {
        land(landed?, &mut tally);
    }
    tally.wall = started.elapsed();
    Ok(tally)
}

/// A request of the open loop that ended, with its latency from when it was due and from when it was sent.
type Landed = (Result<Connection>, Judged, Duration, Duration);

async fn fly(address: SocketAddr, work: Arc<impl Work>, connection: Option<Connection>, due: Instant) -> Landed {
    let sent = Instant::now();
    let flight = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        let answer = connection.send(work.next()).await?;
        anyhow::Ok((connection, work.judge(&answer)))
    };
    let outcome = flight.await;
    let (corrected, service) = (due.elapsed(), sent.elapsed());
    match outcome {
        Ok((connection, judged)) => (Ok(connection), judged, corrected, service),
        Err(why) => {
            let sentence = format!("{why:#}");
            (Err(why), Err(sentence), corrected, service)
        }
    }
}

fn land((connection, judged, corrected, service): Landed, tally: &mut Tally) -> Option<Connection> {
    tally.add(judged, corrected, service);
    connection.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::get;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    struct Knock(AtomicU64);

    impl Work for Knock {
        fn next(&self) -> Call {
            self.0.fetch_add(1, Ordering::Relaxed);
            get("/")
        }

        fn judge(&self, answer: &Answer) -> Judged {
            if answer.status == StatusCode::OK { Ok("opened") } else { Err(answer.sentence()) }
        }
    }

    fn knock() -> Arc<Knock> {
        Arc::new(Knock(AtomicU64::new(0)))
    }

    /// A server that answers every request alike, as often as it is allowed to, and then closes.
    async fn doorman(answer: &'static str, answers: usize) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, allowed, mut all) =
            (listener.local_addr().unwrap(), Arc::new(Semaphore::new(answers)), JoinSet::new());
        all.spawn(async move {
            let mut doors = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let allowed = allowed.clone();
                doors.spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                        let Ok(permit) = allowed.try_acquire() else { return };
                        permit.forget();
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (address, all)
    }

    const OPEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

    #[tokio::test]
    async fn a_closed_loop_sends_exactly_what_it_is_told_to() {
        let ((address, _server), work) = (doorman(OPEN, usize::MAX >> 4).await, knock());
        let tally = closed(address, &work, 100, 8).await.unwrap();
        assert_eq!((tally.endings().as_str(), tally.unexpected()), ("100 opened", None));
        assert_eq!(work.0.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn a_refusal_is_counted_and_the_first_is_kept() {
        let (address, _server) = doorman(BUSY, usize::MAX >> 4).await;
        let tally = closed(address, &knock(), 10, 2).await.unwrap();
        let (count, first) = tally.unexpected().unwrap();
        assert!(
            count == 10 && tally.answered() == 0 && first.contains("503") && first.contains("busy"),
            "{count} {first}"
        );
    }

    #[tokio::test]
    async fn a_server_that_leaves_ends_the_loop_and_is_reported() {
        let (address, _server) = doorman(OPEN, 5).await;
        let tally = closed(address, &knock(), 100, 2).await.unwrap();
        assert_eq!((tally.answered(), tally.unexpected().unwrap().0), (5, 2));
    }

    #[tokio::test]
    async fn an_open_loop_keeps_to_its_schedule_and_says_what_it_dropped() {
        let (address, _server) = doorman(OPEN, usize::MAX >> 4).await;
        let tally = open(address, &knock(), 100, 1_000, 100).await.unwrap();
        assert_eq!((tally.answered(), tally.dropped, tally.unexpected()), (100, 0, None));
        let none = open(address, &knock(), 10, 1_000, 0).await.unwrap();
        assert_eq!((none.answered(), none.dropped), (0, 10));
    }
}
