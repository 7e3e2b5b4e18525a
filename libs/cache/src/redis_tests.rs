//! The contract on a real server, and what is this adapter's own: a server that is away, or hangs.
use std::sync::Arc;

use super::*;
use crate::contract::{Subject, hold_the_contract, kept};
use tokio::net::TcpListener;

/// The server, if there is one: on CI there must be.
#[expect(clippy::disallowed_methods, reason = "tests are told in the environment where servers are")]
#[expect(clippy::print_stderr, reason = "what is skipped is said aloud")]
fn server() -> Option<String> {
    let server = std::env::var("JANGTEO_TEST_REDIS").ok();
    if server.is_none() {
        assert!(std::env::var("CI").is_err(), "JANGTEO_TEST_REDIS says where Redis is; CI needs it");
        eprintln!("!!! SKIPPED: JANGTEO_TEST_REDIS does not say where Redis is");
    }
    server
}

/// Under a prefix that no other run has; what is left there ends by itself.
#[expect(clippy::disallowed_methods, reason = "names that no other run has")]
async fn make(keep: Duration) -> Option<Subject> {
    let prefix = format!("test-{}:", uuid::Uuid::now_v7().simple());
    let redis = Redis::new(&server()?, &prefix, keep).unwrap();
    // On a machine that is busy with other tests.
    let redis = Redis { patience: Duration::from_secs(10), ..redis };
    Some(Subject::new(Arc::new(redis), ()))
}
hold_the_contract!(make);

#[tokio::test]
async fn what_is_no_address_is_refused_without_repeating_it() {
    for url in ["", "tea", "redis://:secret@", "http://user:secret@localhost"] {
        let why = Redis::new(url, "", PATIENCE).err().map(|why| why.to_string());
        assert!(why.as_ref().is_some_and(|why| !why.contains("secret")), "{url}: {why:?}");
    }
}

/// Nobody listens there, or somebody who never answers: either costs little, says why, and no password.
#[tokio::test]
async fn a_redis_that_is_away_is_an_error_soon_and_then_left_alone() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let reader = async {
        let mut streams = vec![];
        while let Ok((stream, _)) = silent.accept().await {
            streams.push(stream);
        }
    };
    let test = async {
        for port in [closed, port] {
            let redis = Redis::new(&format!("redis://:secret@127.0.0.1:{port}"), "", PATIENCE).unwrap();
            let begun = Instant::now();
            let why = redis.get("tea").await.unwrap_err().to_string();
            assert!(why.contains("127.0.0.1") && !why.contains("secret"), "{why}");
            for _ in 0..1_000 {
                redis.put("tea", kept(1, 1, "green")).await.unwrap_err();
            }
            assert!(begun.elapsed() < REST, "{:?}", begun.elapsed());
        }
    };
    futures::future::select(Box::pin(test), Box::pin(reader)).await;
}

/// A door that leads to the server while it is open.
#[tokio::test]
async fn a_redis_that_comes_back_is_asked_again() {
    let Some(server) = server() else { return };
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = door.local_addr().unwrap();
    let target = server.rsplit('/').next().unwrap().to_owned();
    drop(door);
    let redis = Redis::new(&format!("redis://{address}"), "test-door:", REST).unwrap();
    redis.get("tea").await.unwrap_err();
    let door = TcpListener::bind(address).await.unwrap();
    let through = async {
        let mut work = futures::stream::FuturesUnordered::new();
        loop {
            let (mut here, _) = door.accept().await.unwrap();
            let target = target.clone();
            work.push(async move {
                let mut there = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            });
            let next = futures::StreamExt::next(&mut work);
            next.await;
        }
    };
    let back = async {
        let begun = Instant::now();
        while redis.get("tea").await.is_err() {
            assert!(begun.elapsed() < 10 * REST, "it is never asked again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    futures::future::select(Box::pin(back), Box::pin(through)).await;
}
