//! What a process says of itself, on the port of its services.
use bytes::Bytes;
use host::Process;
use http::{Method, Request, Response, StatusCode, header};
use tonic::body::Body;

/// The page at a path, if there is one: `/healthz`, `/readyz` or `/metrics`.
#[must_use]
pub fn at<B>(process: &Process, request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::GET {
        return None;
    }
    let (status, kind, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", process.metrics.text()),
        "/readyz" => {
            let missing = process.health.unready();
            let lines = missing.iter().map(|(part, why)| format!("{part}: {why}\n")).collect::<String>();
            match missing.is_empty() {
                true => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
                false => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", lines),
            }
        }
        _ => return None,
    };
    let mut page = Response::new(Body::new(http_body_util::Full::new(Bytes::from(text))));
    *page.status_mut() = status;
    page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Some(page)
}
