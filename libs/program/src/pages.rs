//! What a process says of itself, on the port of its services.
use bytes::Bytes;
use host::Process;
use http::{Method, Request, Response, StatusCode, header};
use tonic::Status;
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
            let missing = process.health.unready();
            let lines = missing.iter().map(|(part, why)| format!("{part}: {why}\n")).collect::<String>();
            match missing.is_empty() {
                true => (StatusCode::OK, "text/plain", process.health.ready_page()),
                false => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", lines),
            }
        }
        _ => return None,
    };
    Some(page(status, kind, text))
}

/// What is answered to a request that comes before there is somebody to answer it, in the form in which it was asked: to gRPC a
/// status, for which HTTP says 200, and to everybody else a problem.
#[must_use]
pub fn starting<B>(request: &Request<B>) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") {
        return Status::unavailable("the process is starting; nothing was done").into_http();
    }
    let problem = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"reason":"starting","detail":"the process is starting; nothing was done; try again"}"#;
    let mut answer = page(StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", problem.to_owned());
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    answer
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
        let unready = at(&process, &get("/readyz")).unwrap();
        assert_eq!(unready.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(unready).await, "order store: it is not there\n");
        assert_eq!(at(&process, &get("/healthz")).unwrap().status(), StatusCode::OK);
        process.health.degraded("order store", "it is slow");
        let ready = at(&process, &get("/readyz")).unwrap();
        assert_eq!(ready.status(), StatusCode::OK);
        assert_eq!(text(ready).await, "ok\ndegraded: order store: it is slow\n");
        assert!(text(at(&process, &get("/metrics")).unwrap()).await.contains("part_impaired{part=\"order store\""));
        assert!(at(&process, &get("/v1/orders")).is_none());
    }

    /// A client over HTTP that is told 200 takes it for done.
    #[tokio::test]
    async fn whoever_comes_too_early_is_refused_in_their_own_words() {
        let answer = starting(&get("/v1/orders"));
        assert_eq!(
            (answer.status(), &answer.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert!(text(answer).await.contains("nothing was done"));
        let call = Request::post("/shop.order.v1.OrderService/GetOrder").header("content-type", "application/grpc");
        let answer = starting(&call.body(()).unwrap());
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), tonic::Code::Unavailable);
    }
}
