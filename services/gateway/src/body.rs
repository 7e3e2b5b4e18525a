//! Reads a request's body within a size and a time.
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use host::error::Refusal;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tonic::Code;

use crate::problem::Problem;

/// How much of a body that is too large is read and thrown away, in bytes. A client that is still sending when its
/// connection closes sees a reset instead of the answer that says why.
const DISCARDED_BYTES: usize = 1 << 20;

/// Reads a whole body.
///
/// # Errors
/// 413 over `max_bytes`, 408 after `patience`, 400 if the client broke off.
pub(crate) async fn read<B: Body<Data = Bytes>>(
    body: B,
    max_bytes: usize,
    patience: Duration,
) -> Result<Bytes, Problem> {
    match tokio::time::timeout(patience, collect(body, max_bytes)).await {
        Ok(read) => read,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", patience.as_secs());
            let refusal = Refusal::new(Code::DeadlineExceeded, "body_too_slow", message);
            Err(Problem::at(StatusCode::REQUEST_TIMEOUT, refusal))
        }
    }
}

async fn collect<B: Body<Data = Bytes>>(body: B, max_bytes: usize) -> Result<Bytes, Problem> {
    let mut body = pin!(body);
    let (mut read, mut seen) = (BytesMut::new(), 0_usize);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    while announced <= DISCARDED_BYTES && seen <= DISCARDED_BYTES {
        let Some(frame) = body.as_mut().frame().await else {
            break;
        };
        let Ok(frame) = frame else {
            return Err(Refusal::new(Code::InvalidArgument, "body_incomplete", "the body broke off").into());
        };
        let data = frame.into_data().unwrap_or_default(); // trailers say nothing here
        seen = seen.saturating_add(data.len());
        if seen <= max_bytes {
            read.extend_from_slice(&data);
        }
    }
    if seen.max(announced) > max_bytes {
        let refusal = Refusal::new(Code::OutOfRange, "body_too_large", format!("a body has at most {max_bytes} bytes"));
        return Err(Problem::at(StatusCode::PAYLOAD_TOO_LARGE, refusal.fact("max_bytes", max_bytes)));
    }
    Ok(read.freeze())
}
