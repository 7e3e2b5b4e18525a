//! For how long an answer may be kept, and by whom.
use http::Method;

use crate::shop::World;

#[tokio::test]
async fn what_depends_on_who_asks_is_kept_by_nobody_and_what_is_public_says_how_long() {
    let world = World::new();
    for (path, policy) in [
        ("/v1/products", "public, max-age=1"),
        ("/v1/products/TEA-1", "public, max-age=1"),
        ("/openapi.json", "public, max-age=60"),
        ("/docs", "public, max-age=3600"),
        ("/v1/orders", "no-store"),
        ("/v1/orders/o-1", "no-store"),
        ("/v1/orders/o-1/events", "no-store"),
        ("/v1/orders/o-1:watch", "no-store, no-transform"),
        ("/v1/sagas", "no-store"),
        ("/v1/nothing", "no-store"),
        ("/healthz", "no-store"),
        ("/readyz", "no-store"),
        ("/metrics", "no-store"),
    ] {
        assert_eq!(world.get(path).await.header("cache-control"), policy, "{path}");
    }
    let refused = world.send(Method::GET, "/v1/products/TEA-1?page_size=x", &[], "").await;
    assert_eq!((refused.status, refused.header("cache-control")), (400, "no-store"));
    assert_eq!(world.post("/v1/orders", crate::shop::ORDER).await.header("cache-control"), "no-store");
}
