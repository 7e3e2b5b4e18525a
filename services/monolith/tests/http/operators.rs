//! What operators see, and nobody else.
use http::StatusCode;

use crate::shop::Client;

#[tokio::test]
async fn sagas_dead_letters_and_books_are_for_operators() {
    let client = Client::new("kim");
    for path in
        ["/v1/sagas", "/v1/order/dead-letters", "/v1/inventory/dead-letters", "/v1/shipping/dead-letters", "/v1/books"]
    {
        // The auditor reads what was published before it has books to show.
        client.until_looked(path, |answer| answer.status == StatusCode::OK).await;
        assert_eq!(client.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_process_says_how_it_is() {
    let client = Client::new("kim");
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    }
    let unknown = client.get("/v1/nothing").await;
    assert_eq!(
        (unknown.status, &unknown.headers["content-type"]),
        (StatusCode::NOT_FOUND, &"application/problem+json".parse().unwrap())
    );
}
