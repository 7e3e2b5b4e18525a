//! What the program does with a data folder besides opening the shop on it: `verify`, `rebuild` and `replay`.
use std::fmt::Debug;
use std::io::Write;

use anyhow::bail;
use decider::Decider;
use search::rebuild::{self, Rebuilt};
use serde::de::DeserializeOwned;
use store::seal::{self, Verdict};
use store::{Store, StreamId, Version, folded};

use crate::folder::{Closing, Folder};
use crate::shop::Stores;

/// Goes through the logs of all services and their seals, says of each what it found, and whether all of them are good.
///
/// # Errors
/// If a log or its seals cannot be read.
pub async fn verify(folder: &Folder, stores: &Stores, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut good = true;
    for (name, store) in stores.sealed() {
        match seal::verify(store.as_ref(), &folder.seals(name)).await? {
            Verdict::Good { sealed, unsealed } => {
                writeln!(out, "{name}: {sealed} events are as they were sealed; {unsealed} are not sealed yet")?;
            }
            Verdict::Broken { position, why } => {
                good = false;
                writeln!(out, "{name}: position {position} does not fit: {why}")?;
            }
        }
    }
    Ok(good)
}

/// Makes the search indices anew beside the old ones, says how they differ, and puts them in their place.
///
/// # Errors
/// If a log cannot be read, or an index not be written.
pub async fn rebuild(folder: &Folder, stores: Stores, out: &mut impl Write) -> anyhow::Result<()> {
    let Stores { order, inventory, order_search, product_search, .. } = stores;
    // Nobody else may have the files open.
    drop((order_search, product_search));
    let _closing = Closing(folder);
    let of_orders = rebuild::rebuild(order.as_ref(), &order::found::Found, &folder.index("order")).await?;
    let of_products = rebuild::rebuild(inventory.as_ref(), &inventory::found::Found, &folder.index("product")).await?;
    for (name, Rebuilt { documents, differences }) in [("order", of_orders), ("product", of_products)] {
        writeln!(out, "{name} search: {documents} documents; {differences} were not as they are now")?;
    }
    Ok(())
}

/// Prints each event of a stream up to a version, and the state after it.
///
/// # Errors
/// If there is no such stream, or it cannot be read.
pub async fn replay(stores: &Stores, stream: &str, to: Option<Version>, out: &mut impl Write) -> anyhow::Result<()> {
    let kind = stream.split('-').next().unwrap_or_default();
    match kind {
        "order" => print::<order::order::Order>(&stores.order, stream, to, out).await,
        "checkout" | "cancellation" => print::<saga::Saga>(&stores.order, stream, to, out).await,
        "product" => print::<inventory::product::Product>(&stores.inventory, stream, to, out).await,
        "stock" => print::<inventory::stock::Stock>(&stores.inventory, stream, to, out).await,
        "reservation" => print::<inventory::reservation::Reservation>(&stores.inventory, stream, to, out).await,
        "payment" => print::<payment::payment::Payment>(&stores.payment, stream, to, out).await,
        "shipment" => print::<shipping::shipment::Shipment>(&stores.shipping, stream, to, out).await,
        _ => bail!(
            "{stream:?} is no stream: they are named order-ID, checkout-ID, cancellation-ID, payment-ID, shipment-ID, \
             reservation-ID, product-SKU or stock-SKU"
        ),
    }
}

async fn print<D>(
    store: &std::sync::Arc<dyn Store>,
    stream: &str,
    to: Option<Version>,
    out: &mut impl Write,
) -> anyhow::Result<()>
where
    D: Decider + Debug,
    D::Event: DeserializeOwned,
{
    let events = folded::history(store.as_ref(), &StreamId::from(stream)).await?;
    let present = events.len() as Version;
    let to = to.unwrap_or(present);
    if !(1..=present).contains(&to) {
        bail!(if present == 0 {
            format!("there is no stream {stream}")
        } else {
            format!("{stream} has versions 1 to {present}, not {to}")
        });
    }
    let mut state = D::default();
    for recorded in events.iter().take_while(|recorded| recorded.version <= to) {
        state = state.evolve(&folded::decode(recorded)?);
        let store::NewEvent { kind, data, .. } = &recorded.event;
        writeln!(out, "{} {kind} by {}\n  {data}\n  -> {state:?}", recorded.version, recorded.meta.actor)?;
    }
    Ok(())
}
