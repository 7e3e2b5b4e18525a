//! The call to a service. Messages pass through as the bytes they are: reading and writing them is `transcode`'s work.
use bytes::{Buf, BufMut, Bytes};
use host::transport::Transport;
use http::Uri;
use http::uri::PathAndQuery;
use resilience::deadline::Deadline;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

/// Calls a service and waits for its answer until the deadline.
///
/// # Errors
/// The status that the service, or the way to it, answered.
pub(crate) async fn call(
    transport: Transport,
    rpc: PathAndQuery,
    request: Request<Bytes>,
    deadline: Deadline,
) -> Result<Bytes, Status> {
    // Transports route by service, not by authority; tonic wants one nevertheless.
    let mut client = tonic::client::Grpc::with_origin(transport, Uri::from_static("http://shop"));
    client.ready().await?;
    // The transport ends a call that gets no answer. This ends one whose answer began and does not end.
    match tokio::time::timeout_at(deadline.0, client.unary(request, rpc, Raw)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => {
            Err(Status::deadline_exceeded("the answer did not end in time; whether the call took effect is unknown"))
        }
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
