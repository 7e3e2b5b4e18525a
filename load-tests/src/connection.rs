//! One keep-alive HTTP/1.1 connection: one request at a time, no pool, nothing that costs the cores it shares.
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Nobody waits longer: the server waits for 30 s at most to settle an order, and bounds what comes on top.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, ready to be sent.
pub type Call = Request<Full<Bytes>>;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// Status and body, as a sentence for who did not expect them.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A connection to the server.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Moves its bytes; ends with the connection.
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nobody answers at {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What breaks a connection shows in the answer that is missing.
            let _ = connection.await;
        });
        Ok(Connection { sender, _driver: driver })
    }

    /// Whether the server closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// If there is none, or none in time.
    pub async fn send(&mut self, call: Call) -> Result<Answer> {
        let answer = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(call).await?.into_parts();
            Ok(Answer { status: head.status, body: body.collect().await?.to_bytes() })
        };
        timeout(PATIENCE, answer).await.context("no answer in a minute")?
    }

    /// What a GET of `target` answers.
    ///
    /// # Errors
    /// As [`Connection::send`], or if the status is not 200.
    pub async fn get(&mut self, target: &str) -> Result<Bytes> {
        let answer = self.send(get(target)).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "GET {target} answered {}", answer.sentence());
        Ok(answer.body)
    }
}

/// A GET of a path and query.
#[must_use]
pub fn get(target: &str) -> Call {
    request(Method::GET, target, String::new(), &[])
}

/// A POST of JSON with further headers.
#[must_use]
pub fn post(target: &str, json: String, headers: &[(&'static str, &str)]) -> Call {
    request(Method::POST, target, json, headers)
}

fn request(method: Method, target: &str, json: String, headers: &[(&'static str, &str)]) -> Call {
    let mut builder = Request::builder().method(method).uri(target).header(header::HOST, "localhost");
    if !json.is_empty() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::from(json)).expect("targets and headers are made of plain text")
}
