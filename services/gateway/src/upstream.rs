//! The call to a service. Messages pass through as the bytes they are: reading and writing them is `transcode`'s work.
use std::future::Future;
use std::pin::pin;

use bytes::{Buf, BufMut, Bytes};
use futures::future::{Either, select};
use host::client_io::Peer;
use host::transport::Transport;
use http::Uri;
use http::uri::PathAndQuery;
use resilience::deadline::Deadline;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status, Streaming};

/// Calls a service and waits for its answer until the deadline. A call that was lost on its way is made once more: it reads, or
/// it has a command id, so that it happens once all the same.
///
/// # Errors
/// The status that the service, or the way to it, answered.
pub(crate) async fn call(
    transport: &Transport,
    rpc: &PathAndQuery,
    request: impl Fn() -> Request<Bytes>,
    deadline: Deadline,
) -> Result<Bytes, Status> {
    // The transport ends a call that gets no answer. This ends one whose answer began and does not end.
    let answered = tokio::time::timeout_at(deadline.0, async {
        match once(transport, rpc, request()).await {
            Err(status) if was_lost(&status) => once(transport, rpc, request()).await,
            answer => answer,
        }
    });
    answered.await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded("the answer did not end in time; whether the call took effect is unknown"))
    })
}

async fn once(transport: &Transport, rpc: &PathAndQuery, request: Request<Bytes>) -> Result<Bytes, Status> {
    // Transports route by service, not by authority; tonic wants one nevertheless.
    let mut client = tonic::client::Grpc::with_origin(transport.clone(), Uri::from_static("http://shop"));
    client.ready().await?;
    client.unary(request, rpc.clone(), Raw).await.map(tonic::Response::into_inner)
}

/// Whether a status was made on the way: a service's own have details.
pub(crate) fn was_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.details().is_empty()
}

/// What comes of a call that is only worth its while as long as the client is there; `None` if it left.
pub(crate) async fn unless_closed<T>(peer: &Peer, call: impl Future<Output = T>) -> Option<T> {
    match select(pin!(call), pin!(peer.closed())).await {
        Either::Left((reply, _)) => Some(reply),
        Either::Right(_) => None,
    }
}

/// Calls a service that answers with a stream.
///
/// # Errors
/// The status that the service, or the way to it, answered instead.
pub(crate) async fn stream(
    transport: Transport,
    rpc: PathAndQuery,
    request: Request<Bytes>,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::with_origin(transport, Uri::from_static("http://shop"));
    client.ready().await?;
    client.server_streaming(request, rpc, Raw).await.map(tonic::Response::into_inner)
}

#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}
