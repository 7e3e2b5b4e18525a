//! The program where few files may be open at a time, as on a Mac: clients never take what its databases need.
use std::process::Stdio;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::customers::{client, order, send, text};
use crate::program::{PROGRAM, Program};

/// The program under a limit of the shell's, such as `-n 256`.
fn under(limit: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!(r#"ulimit {limit} && exec "$0" "$@""#), PROGRAM]);
    command
}

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Whether the connection is served.
async fn is_served(client: &mut TcpStream) -> bool {
    let mut answer = [0; 12];
    client.write_all(GET).await.is_ok()
        && client.read_exact(&mut answer).await.is_ok()
        && answer == *b"HTTP/1.1 200"
        && {
            let mut rest = [0; 4_096];
            client.read(&mut rest).await.is_ok()
        }
}

#[tokio::test]
async fn clients_do_not_take_the_files_of_the_stores() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let said = std::fs::File::create(&log).unwrap();
    let program = Program::start_as(under("-n 256"), &folder.path().join("data"), &[], said.into()).await;
    let mut silent = vec![];
    for _ in 0..300 {
        silent.push(TcpStream::connect(&program.address).await.unwrap());
    }
    let http = client();
    let asked = async |method, path: &str, headers: &[(&str, &str)], body: String| {
        let answer = send(&http, &program.address, method, path, headers, body);
        tokio::time::timeout(Duration::from_secs(20), answer).await.expect("others are served").expect("an answer")
    };
    assert_eq!(asked(Method::GET, "/readyz", &[], String::new()).await.0, StatusCode::OK);
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "few-files"), ("Prefer", "wait=10")];
    let (status, placed) = asked(Method::POST, "/v1/orders", &headers, order("pm_card_ok", "KR").to_string()).await;
    assert_eq!((status, text(&placed, "status")), (StatusCode::CREATED, "ORDER_STATUS_CONFIRMED"), "{placed}");
    assert_eq!(program.stop().await, Some(0));
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.contains("few files may be open at a time"), "{lines}");
    assert!(lines.lines().count() < 5, "{lines}");
}

#[tokio::test]
async fn the_soft_limit_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start_as(under("-Sn 256"), &folder.path().join("data"), &[], Stdio::inherit()).await;
    let mut clients = vec![];
    for _ in 0..300 {
        let mut client = TcpStream::connect(&program.address).await.unwrap();
        assert!(is_served(&mut client).await);
        clients.push(client);
    }
    assert!(is_served(&mut clients[0]).await, "it has not had to make room");
}

#[tokio::test]
async fn too_few_files_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let output = under("-n 100").args(["--port", "0", "--data"]).arg(folder.path().join("data")).output();
    let output = tokio::time::timeout(Duration::from_secs(20), output).await.expect("it ends by itself").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error: only 100 files may be open at a time"), "{said}");
    assert!(!folder.path().join("data").exists(), "nothing was begun");
}
