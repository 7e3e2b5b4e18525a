//! A cache that loses what it held, or stops answering in the middle of everything.
use std::process::{Child, Command, Stdio};

use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use crate::receipts::{PRODUCT, operate};
use crate::servers::Servers;
use crate::service::{PATIENCE, Service, free_port};

/// Longest read, on a machine with other work.
const IN_TIME: Duration = Duration::from_secs(2);
/// Most reads take less while the cache is frozen: a frozen one is asked once a second, and not waited for by each of them.
const MOSTLY: Duration = Duration::from_millis(200);

/// A Redis server of the test's own, which it may flush and freeze.
struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    /// Absent, and said so, where the program is not installed.
    async fn start() -> Option<Redis> {
        let port = free_port();
        let mut program = Command::new("redis-server");
        program.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
        let Ok(process) = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "there is no redis-server, and in CI there has to be"
            );
            eprintln!("!!! SKIPPED: there is no redis-server on this machine, which could be flushed and frozen");
            return None;
        };
        let redis = Redis { process, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not start");
            sleep(Duration::from_millis(20)).await;
        }
        Some(redis)
    }

    /// What it answers to a command.
    async fn ask(&self, command: &str) -> String {
        let mut way = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        way.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 100];
        let read = way.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).trim_end().to_owned()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A frozen one ends by this too.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The price that is shown, after a read that came in time.
async fn price(gateway: &Service) -> i64 {
    let begun = Instant::now();
    let (status, product) = gateway.get(PRODUCT).await;
    assert_eq!(status, StatusCode::OK, "{product}");
    assert!(begun.elapsed() < IN_TIME, "{:?}", begun.elapsed());
    product["unit_price"].as_str().and_then(|price| price.parse().ok()).or(product["unit_price"].as_i64()).unwrap()
}

/// How many reads the shared cache has answered.
async fn hits(replicas: &[&Service]) -> f64 {
    let mut hits = 0.0;
    for replica in replicas {
        let (_, metrics) = replica.page("/metrics").await.unwrap();
        let counted = metrics.lines().find_map(|line| line.strip_prefix(r#"cache_reads_total{outcome="hit"} "#));
        hits += counted.map_or(0.0, |count| count.parse().unwrap());
    }
    hits
}

/// Reads a price by turns from all replicas until the shared cache has answered again; each read shows that price.
async fn is_in_use(gateway: &Service, replicas: &[&Service], shown: i64) {
    let (before, started) = (hits(replicas).await, Instant::now());
    while hits(replicas).await < before + 3.0 {
        for _ in 0..10 {
            assert_eq!(price(gateway).await, shown);
            sleep(Duration::from_millis(10)).await;
        }
        assert!(started.elapsed() < PATIENCE, "the cache is not used");
    }
}

async fn change_price(gateway: &Service, unit_price: i64) {
    let key = format!("price-{unit_price}");
    let (status, problem) = operate(gateway, "price", &key, &json!({ "unit_price": unit_price })).await;
    assert_eq!(status, StatusCode::OK, "{problem}");
    // The other replica learns of it by asking the store.
    let started = Instant::now();
    let mut seen = 0;
    while seen < 10 {
        seen = if price(gateway).await == unit_price { seen + 1 } else { 0 };
        assert!(started.elapsed() < IN_TIME, "the former price is still shown");
    }
}

#[tokio::test]
async fn reads_stay_fast_and_right_while_the_cache_is_flushed_and_frozen_and_it_is_used_again() {
    let Some(servers) = Servers::find().await else { return };
    let Some(redis) = Redis::start().await else { return };
    let cached = ("JANGTEO_REDIS", format!("redis://127.0.0.1:{}", redis.port));
    let mut replicas = [(), ()].map(|()| Service::start("inventory", &servers.settings(std::slice::from_ref(&cached))));
    for replica in &mut replicas {
        replica.is_ready().await;
    }
    let addresses = replicas.each_ref().map(|replica| replica.address.clone()).join(",");
    let mut gateway = Service::start("gateway", &servers.settings(&[("JANGTEO_INVENTORY", addresses)]));
    gateway.is_ready().await;
    let both = replicas.each_ref();
    change_price(&gateway, 1_000).await;
    is_in_use(&gateway, &both, 1_000).await;

    assert_eq!(redis.ask("FLUSHALL").await, "+OK");
    is_in_use(&gateway, &both, 1_000).await;
    assert_ne!(redis.ask("DBSIZE").await, ":0");

    redis.signal("-STOP");
    change_price(&gateway, 2_000).await;
    let (frozen, mut reads) = (Instant::now(), vec![]);
    while frozen.elapsed() < Duration::from_secs(2) {
        let begun = Instant::now();
        assert_eq!(price(&gateway).await, 2_000);
        reads.push(begun.elapsed());
        // Long enough for what a replica shows by itself to get old.
        sleep(Duration::from_millis(50)).await;
    }
    reads.sort();
    assert!(reads[reads.len() / 2] < MOSTLY, "{reads:?}");
    for replica in both {
        replica.says("the cache is away; everything is read from the store").await;
        assert_eq!(replica.page("/readyz").await.unwrap().0, StatusCode::OK);
    }
    redis.signal("-CONT");
    // It still holds the former price.
    is_in_use(&gateway, &both, 2_000).await;
    for replica in replicas {
        replica.says("the cache is back").await;
        replica.stop().await;
    }
    gateway.stop().await;
}
