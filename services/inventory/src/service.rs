//! Use cases: the catalogue, receipts, and what orders reserve and release.
use std::sync::Arc;

use cache::Cache;
use decider::Decider;
use host::call::Caller;
use host::error::{Refusal, quoted};
use host::use_case::unavailable;
use host::{Process, check};
use proto::inventory as message;
use search::Query;
use search::projection::Projector;
use store::folded::Folded;
use store::{Commit, Store};
use tonic::Code;

use crate::found::CATEGORY;
use crate::product::{self, Description, Product};
use crate::reservation::{self, Held};
use crate::shelves::{About, Change, PRODUCT, Seen, Shelves};
use crate::stock::{self, Stock};

/// The currency that the shop sells in.
pub const CURRENCY: &str = "KRW";
/// The most lines of an order.
pub const MAX_LINES: usize = 100;
/// The highest price of a piece, in minor units.
pub const MAX_PRICE: i64 = 1_000_000_000_000;
/// At most so many products are looked through for one page.
const SCAN: usize = 1_000;

/// Catalogue and stock. Clones share them.
#[derive(Clone)]
pub struct Inventory {
    store: Arc<dyn Store>,
    shelves: Shelves,
    found: Projector,
}

impl Inventory {
    /// Inventory over the service's store, and a cache of what is shown that its replicas share.
    #[must_use]
    pub fn new(process: &Process, store: Arc<dyn Store>, cache: Option<Arc<dyn Cache>>, found: Projector) -> Inventory {
        Inventory { shelves: Shelves::new(process, store.clone(), cache), store, found }
    }

    /// A page of products.
    ///
    /// # Errors
    /// INVALID_ARGUMENT naming the field.
    pub async fn list(&self, request: message::ListProductsRequest) -> Result<message::ListProductsResponse, Refusal> {
        let size = check::page_size(request.page_size)?;
        if !request.category.is_empty() {
            category("category", &request.category)?;
        }
        if !request.query.is_empty() {
            return self.find(request, size).await;
        }
        if !request.page_token.is_empty() {
            check::sku("page_token", &request.page_token)?;
        }
        let after = format!("{PRODUCT}{}", request.page_token);
        // Of one category, many may have to be looked at.
        let scan = if request.category.is_empty() { size + 1 } else { SCAN };
        let names = self.store.streams(PRODUCT, &after, scan).await.map_err(unavailable)?;
        let mut page = message::ListProductsResponse::default();
        for (n, name) in names.iter().enumerate() {
            let sku = name.0.strip_prefix(PRODUCT).unwrap_or_default();
            let (product, stock) = self.shelves.look(sku).await.map_err(unavailable)?;
            if product.state.unit_price.is_some()
                && (request.category.is_empty() || product.state.description.category == request.category)
            {
                page.products.push(shown(sku, &product, &stock.state));
            }
            let more = n + 1 < names.len() || names.len() == scan;
            if page.products.len() == size || n + 1 == names.len() {
                page.next_page_token = if more { sku.to_owned() } else { String::new() };
                break;
            }
        }
        Ok(page)
    }

    /// A page of products that have all the words. They are shown as they are now.
    async fn find(
        &self,
        request: message::ListProductsRequest,
        size: usize,
    ) -> Result<message::ListProductsResponse, Refusal> {
        let message::ListProductsRequest { query: text, category, page_token, seen, .. } = request;
        let only = (!category.is_empty()).then_some((CATEGORY, category));
        let query = Query { text, owner: String::new(), facets: only.into_iter().collect(), size, page_token, seen };
        let found = self.found.search(&query).await?;
        let mut page = message::ListProductsResponse { next_page_token: found.next_page_token, ..Default::default() };
        for sku in found.ids {
            let (product, stock) = self.shelves.look(&sku).await.map_err(unavailable)?;
            page.products.push(shown(&sku, &product, &stock.state));
        }
        Ok(page)
    }

    /// One product. While the store is away it is shown as it was, if the replicas share a cache.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn get(&self, sku: &str) -> Result<message::Product, Refusal> {
        check::sku("sku", sku)?;
        let (product, stock) = self.shelves.show(sku).await.map_err(unavailable)?;
        if product.state.unit_price.is_none() {
            return Err(unknown(sku));
        }
        Ok(shown(sku, &product, &stock.state))
    }

    /// Puts a product into the catalogue.
    ///
    /// # Errors
    /// ALREADY_EXISTS, or INVALID_ARGUMENT naming the field.
    pub async fn add(
        &self,
        caller: &Caller,
        request: &message::AddProductRequest,
    ) -> Result<message::AddProductResponse, Refusal> {
        check::sku("sku", &request.sku)?;
        check::text("name_ko", &request.name_ko, 1..=100)?;
        check::text("name_en", &request.name_en, 1..=100)?;
        category("category", &request.category)?;
        check::number("unit_price", request.unit_price, 1..=MAX_PRICE)?;
        if request.currency != CURRENCY {
            return Err(Refusal::invalid(
                "currency",
                format!("this shop sells in {CURRENCY}, not {}", quoted(&request.currency)),
            ));
        }
        let message::AddProductRequest { sku, name_ko, name_en, category, unit_price, currency } = request.clone();
        let command =
            product::Command::Add { description: Description { name_ko, name_en, category, currency }, unit_price };
        self.change_product(caller, "AddProduct", request, &sku, &command, |product| message::AddProductResponse {
            product: Some(product),
        })
        .await
    }

    /// Changes a price.
    ///
    /// # Errors
    /// NOT_FOUND, or INVALID_ARGUMENT naming the field.
    pub async fn price(
        &self,
        caller: &Caller,
        request: &message::ChangePriceRequest,
    ) -> Result<message::ChangePriceResponse, Refusal> {
        check::sku("sku", &request.sku)?;
        check::number("unit_price", request.unit_price, 1..=MAX_PRICE)?;
        let command = product::Command::ChangePrice { unit_price: request.unit_price };
        let reply = |product| message::ChangePriceResponse { product: Some(product) };
        self.change_product(caller, "ChangePrice", request, &request.sku, &command, reply).await
    }

    async fn change_product<Q: prost::Message, R: prost::Message + Default>(
        &self,
        caller: &Caller,
        method: &'static str,
        request: &Q,
        sku: &String,
        command: &product::Command,
        reply: impl Fn(message::Product) -> R + Send + Sync,
    ) -> Result<R, Refusal> {
        let about = About { method, request, skus: Some(std::slice::from_ref(sku)), order_id: None };
        let decide = |seen: &Seen<'_>| {
            let events = seen.products[0].state.decide(command).map_err(|why| refused(sku, &why))?;
            let after = seen.products[0].clone().then(&events);
            let shown = shown(sku, &after, &seen.stock[0].state);
            Ok((Change { products: vec![events], ..Change::default() }, reply(shown)))
        };
        self.shelves.change(caller, &about, decide).await.map(|changed| changed.reply)
    }

    /// Books goods that arrived.
    ///
    /// # Errors
    /// NOT_FOUND, or INVALID_ARGUMENT naming the field.
    pub async fn receive(
        &self,
        caller: &Caller,
        request: &message::ReceiveStockRequest,
    ) -> Result<message::ReceiveStockResponse, Refusal> {
        let sku = &request.sku;
        check::sku("sku", sku)?;
        check::number("quantity", request.quantity, 1..=1_000_000_000)?;
        let about = About { method: "ReceiveStock", request, skus: Some(std::slice::from_ref(sku)), order_id: None };
        let decide = |seen: &Seen<'_>| {
            if seen.products[0].state.unit_price.is_none() {
                return Err(unknown(sku));
            }
            let most = || format!("no more than {} pieces of {sku} can ever be received", stock::MAX_RECEIVED);
            let received = seen.stock[0].state.decide(&stock::Command::Receive(request.quantity));
            let events = received.map_err(|_| Refusal::precondition("too_much", most()).field("quantity"))?;
            let after = seen.stock[0].clone().then(&events);
            let product = Some(shown(sku, seen.products[0], &after.state));
            Ok((Change { stock: vec![events], ..Change::default() }, message::ReceiveStockResponse { product }))
        };
        self.shelves.change(caller, &about, decide).await.map(|changed| changed.reply)
    }

    /// Tells whether lines name known products at their present prices.
    ///
    /// # Errors
    /// The first line that does not.
    pub async fn check(&self, request: &message::CheckLinesRequest) -> Result<message::CheckLinesResponse, Refusal> {
        check_lines(&request.lines)?;
        for (n, line) in request.lines.iter().enumerate() {
            let (mut product, _) = self.shelves.look(&line.sku).await.map_err(unavailable)?;
            if product.state.check_price(line.unit_price).is_err() {
                // A refusal must not rest on what another replica has changed since.
                product = self.shelves.look_anew(&line.sku).await.map_err(unavailable)?.0;
            }
            match product.state.check_price(line.unit_price) {
                Ok(()) => {}
                Err(product::Rejection::Unknown | product::Rejection::Taken) => {
                    let message = format!("there is no product {}", line.sku);
                    return Err(Refusal::invalid(format!("lines[{n}].sku"), message));
                }
                Err(why) => return Err(refused(&line.sku, &why).field(format!("lines[{n}].unit_price"))),
            }
        }
        Ok(message::CheckLinesResponse {})
    }

    /// Sets goods aside for an order: every line or none.
    ///
    /// # Errors
    /// `unknown_sku`, `price_changed`, `out_of_stock` or `already_released`.
    pub async fn reserve(
        &self,
        caller: &Caller,
        request: &message::ReserveInventoryRequest,
    ) -> Result<message::ReserveInventoryResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        check_lines(&request.lines)?;
        let skus: Vec<String> = request.lines.iter().map(|line| line.sku.clone()).collect();
        let about = About { method: "ReserveInventory", request, skus: Some(&skus), order_id: Some(&request.order_id) };
        let held: Vec<_> =
            request.lines.iter().map(|line| Held { sku: line.sku.clone(), quantity: line.quantity }).collect();
        let decide = |seen: &Seen<'_>| {
            let reservation =
                seen.reservation.state.decide(&reservation::Command::Reserve(held.clone())).map_err(refused_order)?;
            let mut sold = Vec::with_capacity(request.lines.len());
            for (n, line) in request.lines.iter().enumerate() {
                seen.products[n].state.check_price(line.unit_price).map_err(|why| refused(&line.sku, &why))?;
                let reserved = seen.stock[n].state.decide(&stock::Command::Reserve(line.quantity));
                sold.push(reserved.map_err(|why| short(&line.sku, why))?);
            }
            Ok((Change { stock: sold, reservation, products: vec![] }, message::ReserveInventoryResponse {}))
        };
        let reserved = self.shelves.change(caller, &about, decide).await?;
        if reserved.stock {
            tracing::info!(order_id = request.order_id, "goods reserved");
        }
        Ok(reserved.reply)
    }

    /// Gives the goods of an order back, and sees that none are reserved later.
    ///
    /// # Errors
    /// UNAVAILABLE if it is unknown whether it happened.
    pub async fn release(
        &self,
        caller: &Caller,
        request: &message::ReleaseInventoryRequest,
    ) -> Result<message::ReleaseInventoryResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let about = About { method: "ReleaseInventory", request, skus: None, order_id: Some(&request.order_id) };
        let decide = |seen: &Seen<'_>| {
            let released =
                let_go(seen, &reservation::Command::Release, |quantity| stock::Event::StockReleased { quantity })?;
            Ok((released, message::ReleaseInventoryResponse {}))
        };
        let released = self.shelves.change(caller, &about, decide).await?;
        if released.stock {
            tracing::info!(order_id = request.order_id, "goods released");
        }
        Ok(released.reply)
    }

    /// Takes the goods of an order off the books, for they have left with its parcel: in the commit that takes that in.
    ///
    /// # Errors
    /// `nothing_held`, or UNAVAILABLE.
    pub async fn ship(&self, blank: &Commit, order_id: &str) -> Result<(), Refusal> {
        let decide = |seen: &Seen<'_>| {
            let_go(seen, &reservation::Command::Ship, |quantity| stock::Event::StockShipped { quantity })
        };
        if self.shelves.take_in(blank, order_id, decide).await? {
            tracing::info!(order_id, "goods left with their parcel");
        }
        Ok(())
    }
}

/// What is held for an order is held no more: reservation and stock in one.
fn let_go(
    seen: &Seen<'_>,
    end: &reservation::Command,
    of_stock: impl Fn(i64) -> stock::Event,
) -> Result<Change, Refusal> {
    let reservation = seen.reservation.state.decide(end).map_err(refused_order)?;
    let stock = seen.reservation.state.held().iter().map(|held| vec![of_stock(held.quantity)]).collect();
    Ok(Change { stock, reservation, products: vec![] })
}

fn shown(sku: &str, product: &Folded<Product>, stock: &Stock) -> message::Product {
    let Description { name_ko, name_en, category, currency } = product.state.description.clone();
    message::Product {
        sku: sku.to_owned(),
        name_ko,
        name_en,
        category,
        unit_price: product.state.unit_price.unwrap_or_default(),
        currency,
        available: stock.available(),
        version: i64::try_from(product.version).unwrap_or(i64::MAX),
    }
}

fn category(field: &str, value: &str) -> Result<(), Refusal> {
    let fits = (2..=32).contains(&value.len()) && value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'-'));
    if fits { Ok(()) } else { Err(Refusal::invalid(field, format!("{field} is 2 to 32 of a-z and '-'"))) }
}

fn check_lines(lines: &[message::Line]) -> Result<(), Refusal> {
    if !(1..=MAX_LINES).contains(&lines.len()) {
        return Err(Refusal::invalid("lines", format!("an order has 1 to {MAX_LINES} lines, not {}", lines.len())));
    }
    for (n, line) in lines.iter().enumerate() {
        check::sku(&format!("lines[{n}].sku"), &line.sku)?;
        check::number(&format!("lines[{n}].quantity"), line.quantity, 1..=1_000)?;
        check::number(&format!("lines[{n}].unit_price"), line.unit_price, 1..=MAX_PRICE)?;
        if lines[..n].iter().any(|before| before.sku == line.sku) {
            return Err(Refusal::invalid(
                format!("lines[{n}].sku"),
                format!("{} stands in two lines; add up their quantities", line.sku),
            ));
        }
    }
    Ok(())
}

fn unknown(sku: &str) -> Refusal {
    Refusal::not_found(format!("there is no product {sku}")).field("sku")
}

fn refused(sku: &str, why: &product::Rejection) -> Refusal {
    match why {
        product::Rejection::Taken => {
            Refusal::new(Code::AlreadyExists, "sku_taken", format!("there is a product {sku}")).field("sku")
        }
        product::Rejection::Unknown => {
            Refusal::new(Code::NotFound, "unknown_sku", format!("there is no product {sku}"))
                .field("sku")
                .fact("sku", sku)
        }
        product::Rejection::PriceChanged { unit_price } => {
            let message = format!("the price of {sku} is {unit_price} now; order at that price if you agree");
            Refusal::precondition("price_changed", message).fact("sku", sku).fact("unit_price", unit_price)
        }
    }
}

fn short(sku: &str, why: stock::Rejection) -> Refusal {
    let stock::Rejection::OutOfStock { available } = why else {
        return Refusal::new(Code::Internal, "internal", format!("stock of {sku} cannot be reserved: {why:?}"));
    };
    let message = format!("only {available} of {sku} are left");
    Refusal::precondition("out_of_stock", message).fact("sku", sku).fact("available", available)
}

fn refused_order(why: reservation::Rejection) -> Refusal {
    match why {
        reservation::Rejection::AlreadyReleased => {
            Refusal::precondition("already_released", "the order's goods were released before they were reserved")
        }
        reservation::Rejection::AlreadyReserved => {
            Refusal::precondition("already_reserved", "the order's goods are reserved")
        }
        reservation::Rejection::AlreadyShipped => {
            Refusal::precondition("already_shipped", "the order's goods have left with its parcel")
        }
        reservation::Rejection::NothingHeld => {
            Refusal::precondition("nothing_held", "no goods are set aside for the order that could leave")
        }
    }
}
