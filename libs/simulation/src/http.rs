//! Clients of the simulation: HTTP/1 over the simulated network, each request on a connection of its own.
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::net::Connector;

/// What a client was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; null if it is no JSON.
    pub body: Value,
}

/// Sends requests from the host that it is used on.
#[derive(Clone)]
pub struct Client(Connector);

impl Client {
    /// Through a connector.
    #[must_use]
    pub fn new(connector: Connector) -> Client {
        Client(connector)
    }

    /// Sends a request to the host `to`, and waits for its answer as long as `patience`. `None`: there was none, and what
    /// became of the request is unknown.
    ///
    /// # Panics
    /// If path or headers are none.
    pub async fn send(
        &self,
        to: &str,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: String,
        patience: Duration,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", to);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a well-formed request");
        tokio::time::timeout(patience, self.exchange(to, request)).await.ok().flatten()
    }

    async fn exchange(&self, to: &str, request: Request<Full<Bytes>>) -> Option<Answer> {
        let stream = self.0.connect(to).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let bytes = body.collect().await.ok()?.to_bytes();
            Some(Answer { status: head.status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
        };
        with(exchange, connection).await
    }
}

/// The outcome of `work`, for which `helper` has to go on.
async fn with<T>(work: impl Future<Output = Option<T>>, helper: impl Future) -> Option<T> {
    let (work, helper) = (pin!(work), pin!(helper));
    match select(work, helper).await {
        Either::Left((outcome, _)) => outcome,
        // The connection has ended; what it had read is still there.
        Either::Right((_, work)) => work.await,
    }
}
