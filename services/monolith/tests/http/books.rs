//! The books of the whole shop, while all other tests are shopping.
use serde_json::Value;

use crate::shop::Client;

#[tokio::test]
async fn the_books_hold_and_keep_up() {
    let client = Client::new("kim");
    let product = client.product("BOOKS", 3).await;
    for method in ["pm_card_ok", "pm_card_declined"] {
        client.place(&client.key(), 20, &product.order(1, method, "KR")).await;
    }
    let all = |books: &Value, list: &str, fits: fn(&Value) -> bool| {
        books[list].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(fits))
    };
    let books =
        client.until_looked("/v1/books", |answer| all(&answer.body, "topics", |topic| topic["behind"] == 0)).await;
    assert!(all(&books.body, "invariants", |invariant| invariant["holds"] == true), "{books:?}");
}
