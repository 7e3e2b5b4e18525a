//! The refusal of a process that cannot answer at all: it is starting, or full.
//!
//! Each client is told in the form in which it asked: over gRPC as a status, for which HTTP says 200; an `EventSource` by a stream
//! that ends at once and names when to come back, since it gives up for ever at any other status; everybody else by a problem document.
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use tonic::Status;

/// Metadata of a gRPC refusal: the call did nothing, so that another replica may be asked.
pub const NOTHING_DONE: &str = "nothing-done";
/// When an `EventSource` comes back, in milliseconds.
pub const COME_BACK_MS: u32 = 1_000;

/// The refusal for a request with these headers. It was not carried out, and may be sent again.
#[must_use]
pub fn unavailable(headers: &HeaderMap, reason: &str, detail: &str) -> Response<Full<Bytes>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") {
        let mut status = Status::unavailable(format!("{detail}; nothing was done"));
        status.metadata_mut().insert(NOTHING_DONE, tonic::metadata::MetadataValue::from_static("1"));
        return status.into_http();
    }
    if let Some(stream) = come_back(headers) {
        return stream;
    }
    let problem = format!(
        r#"{{"type":"about:blank","title":"Service Unavailable","status":503,"reason":"{reason}","detail":"{detail}; nothing was done; try again"}}"#
    );
    let mut response = Response::new(Full::from(problem));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A stream of events that ends at once, if the client asked for one.
#[must_use]
pub fn come_back(headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(accepts).then(|| {
        let mut response = Response::new(Full::from(format!("retry: {COME_BACK_MS}\n\n")));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn refused(name: &'static str, value: &'static str) -> (Response<()>, String) {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
        let (head, body) = unavailable(&headers, "starting", "the process is starting").into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (Response::from_parts(head, ()), text)
    }

    /// A client over HTTP that is told 200 takes it for done; an `EventSource` that is told anything else never comes back.
    #[tokio::test]
    async fn each_client_is_refused_in_the_form_in_which_it_asked() {
        let (answer, text) = refused("accept", "*/*").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
        assert!(text.contains("the process is starting; nothing was done"), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();

        let (answer, _) = refused("content-type", "application/grpc").await;
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), tonic::Code::Unavailable);
        assert!(answer.headers().contains_key(NOTHING_DONE));

        let (answer, text) = refused("accept", "text/event-stream").await;
        assert_eq!((answer.status(), text.as_str()), (StatusCode::OK, "retry: 1000\n\n"));
    }
}
