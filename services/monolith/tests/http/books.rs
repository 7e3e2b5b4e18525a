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
    // Others go on ordering, so it may always be a little behind.
    let mut caught_up = false;
    for _ in 0..600 {
        let books = client.look("/v1/books").await.body;
        assert!(all(&books, "invariants", |invariant| invariant["holds"] == true), "{books:#}");
        caught_up |= all(&books, "topics", |topic| topic["behind"] == 0);
        if caught_up {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(caught_up, "the auditor never caught up");
}
