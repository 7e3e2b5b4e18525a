//! A shop of canned answers behind a gateway: it records what reaches it, and refuses, hangs or panics when told to.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway::{Gateway, Limits};
use host::Process;
use host::transport::{Transport, in_process};
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt, Full};
use proto::inventory::inventory_service_server::{InventoryService, InventoryServiceServer};
use proto::order::order_service_server::{OrderService, OrderServiceServer};
use proto::{inventory, order};
use serde_json::Value;
use telemetry::metrics::Red;
use tonic::metadata::KeyAndValueRef;
use tonic::{Request, Status};

pub(crate) const ORDER: &str = r#"{"lines":[{"sku":"TEA-1","quantity":2,"unit_price":9000}],"payment_method":"pm_card_ok","shipping_address":{"recipient":"Kim","street":"Jong-ro 1","city":"Seoul","postal_code":"03000","country":"KR"}}"#;

/// What the next call is answered with.
pub(crate) enum Next {
    Refuse(Status),
    Hang,
    Panic,
    Nothing,
}

/// A call that reached a service.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) rpc: &'static str,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) message: String,
}

#[derive(Clone, Default)]
pub(crate) struct Shop {
    seen: Arc<Mutex<Vec<Seen>>>,
    next: Arc<Mutex<Option<Next>>>,
    hangs: Arc<AtomicBool>,
}

impl Shop {
    pub(crate) fn next(&self, next: Next) {
        *self.next.lock().unwrap() = Some(next);
    }

    /// From now on nobody who waits is answered.
    pub(crate) fn settles_nothing(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.calls().pop().expect("a call reached the shop")
    }

    /// Records the call; false if the answer shall be empty.
    async fn saw<T: std::fmt::Debug>(&self, rpc: &'static str, request: &Request<T>) -> Result<bool, Status> {
        let text = |entry| match entry {
            KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().unwrap().to_owned())),
            KeyAndValueRef::Binary(..) => None,
        };
        let metadata: BTreeMap<_, _> = request.metadata().iter().filter_map(text).collect();
        let waits = metadata.contains_key("prefer-wait");
        let message = format!("{:?}", request.get_ref());
        self.seen.lock().unwrap().push(Seen { rpc, metadata, message });
        if waits && self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let next = self.next.lock().unwrap().take();
        match next {
            None => Ok(true),
            Some(Next::Nothing) => Ok(false),
            Some(Next::Refuse(status)) => Err(status),
            Some(Next::Hang) => std::future::pending().await,
            Some(Next::Panic) => panic!("a bug at 10.0.0.7"),
        }
    }
}

type Answered<T> = Result<tonic::Response<T>, Status>;

fn an_order(order_id: &str) -> order::Order {
    order::Order {
        order_id: order_id.to_owned(),
        customer_id: "demo".to_owned(),
        status: order::OrderStatus::Placed.into(),
        total: 9_007_199_254_740_991,
        currency: "KRW".to_owned(),
        placed_at: Some(prost_types::Timestamp { seconds: 1_767_323_045, nanos: 6_000 }),
        ..order::Order::default()
    }
}

#[tonic::async_trait]
impl OrderService for Shop {
    async fn place_order(&self, request: Request<order::PlaceOrderRequest>) -> Answered<order::PlaceOrderResponse> {
        let full = self.saw("PlaceOrder", &request).await?;
        Ok(tonic::Response::new(order::PlaceOrderResponse { order: full.then(|| an_order("o/1 장")) }))
    }

    async fn get_order(&self, request: Request<order::GetOrderRequest>) -> Answered<order::GetOrderResponse> {
        self.saw("GetOrder", &request).await?;
        Ok(tonic::Response::new(order::GetOrderResponse { order: Some(an_order(&request.get_ref().order_id)) }))
    }

    type WatchOrderStream = futures::stream::BoxStream<'static, Result<order::WatchOrderResponse, Status>>;

    async fn watch_order(&self, request: Request<order::WatchOrderRequest>) -> Answered<Self::WatchOrderStream> {
        self.saw("WatchOrder", &request).await?;
        if request.get_ref().after_version() == 3 {
            return Err(Status::out_of_range("nothing follows"));
        }
        let event = |version| order::OrderEvent { version, r#type: "OrderPlaced".to_owned(), ..Default::default() };
        let told = (request.get_ref().after_version() + 1..=3).map(event);
        let told: Vec<_> = told.map(|event| Ok(order::WatchOrderResponse { event: Some(event) })).collect();
        Ok(tonic::Response::new(Box::pin(futures::stream::iter(told))))
    }

    async fn list_order_events(
        &self,
        request: Request<order::ListOrderEventsRequest>,
    ) -> Answered<order::ListOrderEventsResponse> {
        self.saw("ListOrderEvents", &request).await?;
        Ok(tonic::Response::new(order::ListOrderEventsResponse::default()))
    }

    async fn list_orders(&self, request: Request<order::ListOrdersRequest>) -> Answered<order::ListOrdersResponse> {
        self.saw("ListOrders", &request).await?;
        Ok(tonic::Response::new(order::ListOrdersResponse { orders: vec![an_order("o-1")], ..Default::default() }))
    }

    async fn cancel_order(&self, request: Request<order::CancelOrderRequest>) -> Answered<order::CancelOrderResponse> {
        self.saw("CancelOrder", &request).await?;
        Ok(tonic::Response::new(order::CancelOrderResponse { order: Some(an_order(&request.get_ref().order_id)) }))
    }
}

fn a_product() -> Option<inventory::Product> {
    Some(inventory::Product { sku: "TEA-1".to_owned(), unit_price: 9_000, ..Default::default() })
}

#[tonic::async_trait]
impl InventoryService for Shop {
    async fn list_products(
        &self,
        request: Request<inventory::ListProductsRequest>,
    ) -> Answered<inventory::ListProductsResponse> {
        self.saw("ListProducts", &request).await?;
        Ok(tonic::Response::new(Default::default()))
    }

    async fn get_product(
        &self,
        request: Request<inventory::GetProductRequest>,
    ) -> Answered<inventory::GetProductResponse> {
        self.saw("GetProduct", &request).await?;
        Ok(tonic::Response::new(inventory::GetProductResponse { product: a_product() }))
    }

    async fn add_product(
        &self,
        request: Request<inventory::AddProductRequest>,
    ) -> Answered<inventory::AddProductResponse> {
        self.saw("AddProduct", &request).await?;
        Ok(tonic::Response::new(inventory::AddProductResponse { product: a_product() }))
    }

    async fn receive_stock(
        &self,
        request: Request<inventory::ReceiveStockRequest>,
    ) -> Answered<inventory::ReceiveStockResponse> {
        self.saw("ReceiveStock", &request).await?;
        Ok(tonic::Response::new(inventory::ReceiveStockResponse { product: a_product() }))
    }

    async fn change_price(
        &self,
        request: Request<inventory::ChangePriceRequest>,
    ) -> Answered<inventory::ChangePriceResponse> {
        self.saw("ChangePrice", &request).await?;
        Ok(tonic::Response::new(inventory::ChangePriceResponse { product: a_product() }))
    }

    async fn check_lines(&self, _: Request<inventory::CheckLinesRequest>) -> Answered<inventory::CheckLinesResponse> {
        unreachable!("it has no route")
    }

    async fn reserve_inventory(
        &self,
        _: Request<inventory::ReserveInventoryRequest>,
    ) -> Answered<inventory::ReserveInventoryResponse> {
        unreachable!("it has no route")
    }

    async fn release_inventory(
        &self,
        _: Request<inventory::ReleaseInventoryRequest>,
    ) -> Answered<inventory::ReleaseInventoryResponse> {
        unreachable!("it has no route")
    }
}

type Raw = http::Request<tonic::body::Body>;

/// The upstreams of a shop.
pub(crate) fn upstreams(process: &Process, shop: &Shop) -> [(&'static str, Transport); 7] {
    let red = Red::new(&process.metrics, "grpc");
    // Each says which of them it is.
    let nobody = |name: &'static str| {
        let refuse = move |_: Raw| async move { Err::<Response<tonic::body::Body>, _>(Status::not_found(name)) };
        (name, Transport::new(tower::service_fn(refuse)))
    };
    [
        nobody("shop.order.v1.SagaService"),
        nobody("shop.messaging.v1.DeadLetterService/order"),
        nobody("shop.messaging.v1.DeadLetterService/inventory"),
        nobody("shop.messaging.v1.DeadLetterService/shipping"),
        nobody("shop.auditor.v1.BookService"),
        ("shop.order.v1.OrderService", in_process(OrderServiceServer::new(shop.clone()), red.clone())),
        ("shop.inventory.v1.InventoryService", in_process(InventoryServiceServer::new(shop.clone()), red)),
    ]
}

/// A gateway and the shop behind it.
pub(crate) struct World {
    pub(crate) process: Process,
    pub(crate) shop: Shop,
    pub(crate) gateway: Arc<Gateway>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|why| panic!("{why}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The problem's reason and field, after checking that it is a whole problem.
    pub(crate) fn problem(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{self:?}");
        assert!(self.header("traceparent").contains(json["trace_id"].as_str().unwrap()), "{self:?}");
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("type"), format!("urn:jangteo:problem:{}", text("reason")));
        assert!(!text("title").is_empty() && !text("detail").is_empty() && !text("code").is_empty(), "{self:?}");
        (text("reason"), text("field"))
    }
}

impl World {
    pub(crate) fn new() -> World {
        let (process, shop) = (Process::on_this_machine(), Shop::default());
        let gateway = Gateway::new(&process, upstreams(&process, &shop), Limits::default()).unwrap();
        World { gateway: Arc::new(gateway), process, shop }
    }

    pub(crate) async fn answer<B: http_body::Body<Data = Bytes>>(&self, request: http::Request<B>) -> Answer {
        let (head, body) = Response::into_parts(self.gateway.handle(request).await);
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, text }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[("Idempotency-Key", "k-1")], body).await
    }

    /// Refused at the edge: with this status, reason and field, and no service saw it.
    #[track_caller]
    pub(crate) fn refused_here(&self, answer: &Answer, status: u16, reason: &str, field: &str) {
        let (found_reason, found_field) = answer.problem();
        assert_eq!((answer.status, &*found_reason, &*found_field), (status, reason, field), "{answer:?}");
        assert_eq!(self.shop.calls().len(), 0, "{:?}", self.shop.calls());
    }
}
