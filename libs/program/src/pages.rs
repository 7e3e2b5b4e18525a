//! What a process says of itself, on the port of its services.
use bytes::Bytes;
use host::Process;
use host::unavailable::unavailable;
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
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", process.metrics.text() + &process.health.metrics()),
        "/readyz" => {
            let status =
                if process.health.unready().is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "text/plain", process.health.page())
        }
        _ => return None,
    };
    Some(page(status, kind, text))
}

/// What is answered to a request that comes before there is somebody to answer it.
#[must_use]
pub fn starting<B>(request: &Request<B>) -> Response<Body> {
    unavailable(request.headers(), "starting", "the process is starting").map(Body::new)
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut page = Response::new(Body::new(http_body_util::Full::new(Bytes::from(text))));
    *page.status_mut() = status;
    page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn process() -> Process {
        Process::on_this_machine()
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    async fn text(answer: Response<Body>) -> String {
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_process_says_what_it_lacks() {
        let process = process();
        assert_eq!(at(&process, &get("/readyz")).unwrap().status(), StatusCode::OK);
        process.health.missing("order store", "it is not there");
        process.health.degraded("search", "it is behind");
        let unready = at(&process, &get("/readyz")).unwrap();
        assert_eq!(unready.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(unready).await, "order store: it is not there\ndegraded: search: it is behind\n");
        assert_eq!(at(&process, &get("/healthz")).unwrap().status(), StatusCode::OK);
        process.health.degraded("order store", "it is slow");
        process.health.ready("search");
        let ready = at(&process, &get("/readyz")).unwrap();
        assert_eq!(ready.status(), StatusCode::OK);
        assert_eq!(text(ready).await, "ok\ndegraded: order store: it is slow\n");
        assert!(text(at(&process, &get("/metrics")).unwrap()).await.contains("part_impaired{part=\"order store\""));
        assert!(at(&process, &get("/v1/orders")).is_none());
    }
}
