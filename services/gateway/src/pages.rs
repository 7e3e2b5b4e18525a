//! What the gateway itself tells about its process and its interface.
use bytes::Bytes;
use host::error::Refusal;
use host::health::Health;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use tonic::Code;

use crate::docs::{self, Asset};
use crate::problem::Problem;
use crate::put;

/// A page of the gateway's own.
#[derive(Clone, Copy)]
pub(crate) enum Page {
    Alive,
    Ready,
    Metrics,
    Api,
    Docs(Asset),
}

impl Page {
    pub(crate) fn at(path: &str) -> Option<Page> {
        match path {
            "/healthz" => Some(Page::Alive),
            "/readyz" => Some(Page::Ready),
            "/metrics" => Some(Page::Metrics),
            "/openapi.json" => Some(Page::Api),
            _ => Asset::at(path).map(Page::Docs),
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Page::Alive => "GET /healthz",
            Page::Ready => "GET /readyz",
            Page::Metrics => "GET /metrics",
            Page::Api => "GET /openapi.json",
            Page::Docs(asset) => asset.label,
        }
    }

    /// For how long the page may be kept, in seconds; 0 is not at all. What is built into the program changes with it.
    fn max_age_s(self) -> u32 {
        match self {
            Page::Alive | Page::Ready | Page::Metrics => 0,
            Page::Api => 60,
            Page::Docs(_) => 3_600,
        }
    }

    /// The page, with this text.
    pub(crate) fn response(self, text: Bytes) -> Response<Full<Bytes>> {
        let kind = match self {
            Page::Alive | Page::Ready => "text/plain",
            Page::Metrics => "text/plain; version=0.0.4",
            Page::Api => "application/json",
            Page::Docs(asset) => asset.media_type,
        };
        let mut response = Response::new(Full::from(text));
        put(&mut response, header::CONTENT_TYPE.as_str(), kind.to_owned());
        cache_for(&mut response, self.max_age_s());
        if let Page::Docs(_) = self {
            put(&mut response, header::CONTENT_SECURITY_POLICY.as_str(), docs::POLICY.to_owned());
            put(&mut response, header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned());
        }
        response
    }
}

/// What the process lacks, if it is not ready. For operators: it names servers, and what they said.
pub(crate) fn unready(health: &Health) -> Option<Problem> {
    let missing = health.unready();
    if missing.is_empty() {
        return None;
    }
    let parts = missing.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let refusal = Refusal::new(Code::Unavailable, "not_ready", format!("not ready: {parts}"));
    let refusal = missing.iter().fold(refusal, |refusal, (part, why)| refusal.fact(part, why));
    Some(Problem::at(StatusCode::SERVICE_UNAVAILABLE, refusal))
}

/// Says that an answer is the same for everybody for so many seconds, and may be kept as long; with 0, that it is for whoever
/// asked, and may not be kept.
pub(crate) fn cache_for<B>(response: &mut Response<B>, max_age_s: u32) {
    let policy = match max_age_s {
        0 => "no-store".to_owned(),
        seconds => format!("public, max-age={seconds}"),
    };
    put(response, header::CACHE_CONTROL.as_str(), policy);
}
