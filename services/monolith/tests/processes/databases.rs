//! Databases that are missing, wrong, or somebody else's.
use std::cell::Cell;

use http::StatusCode;
use tokio::time::{Duration, Instant, sleep};

use crate::proxy::Proxy;
use crate::receipts::{self, PRODUCT, on_record, receive, receive_until_accepted};
use crate::servers::Servers;
use crate::service::{PATIENCE, SECRET, Service};

/// The part that every test here is about.
const STORE: &str = "payment store";

/// A payment service, with its database as told and the bank's in a proper one.
fn payment(servers: &Servers, bank: &Servers, postgres: String) -> Service {
    let otherwise = [("JANGTEO_POSTGRES", postgres), ("JANGTEO_BANK_POSTGRES", bank.postgres())];
    Service::start("payment", &servers.settings(&otherwise))
}

async fn two() -> Option<(Servers, Servers)> {
    Some((Servers::find().await?, Servers::find().await?))
}

#[tokio::test]
async fn a_wrong_password_is_said_once_and_mended_without_a_restart() {
    let Some((servers, bank)) = two().await else { return };
    servers.administer(&format!("ALTER ROLE {} PASSWORD 'another'", servers.name)).await;
    let mut payment = payment(&servers, &bank, servers.postgres());
    let sentence = format!("does not let the role {} in: it is missing or has another password", servers.name);
    payment.misses(STORE, &sentence).await;
    payment.says_once(&sentence).await;
    servers.administer(&format!("ALTER ROLE {} PASSWORD '{SECRET}'", servers.name)).await;
    payment.is_ready().await;
    payment.stop().await;
}

#[tokio::test]
async fn a_missing_database_is_waited_for_and_so_is_the_end() {
    let Some((servers, bank)) = two().await else { return };
    servers.drop_database().await;
    let sentence = "does not exist on that server; deploy/postgres/roles.sql makes what is missing";
    let mut first = payment(&servers, &bank, servers.postgres());
    first.misses(STORE, sentence).await;
    first.says_once(sentence).await;
    let mut second = payment(&servers, &bank, servers.postgres());
    second.misses(STORE, sentence).await;
    second.stop().await;
    servers.make_database().await;
    first.is_ready().await;
    first.stop().await;
}

#[tokio::test]
async fn a_later_layout_and_the_tables_of_others_are_left_alone() {
    let Some((servers, bank)) = two().await else { return };
    servers.run("CREATE TABLE theirs (a integer); INSERT INTO theirs VALUES (7)").await;
    let mut payment = payment(&servers, &bank, servers.postgres());
    let foreign = "holds the table theirs of another application: a store needs a database of its own";
    payment.misses(STORE, foreign).await;
    payment.says_once(foreign).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!((servers.number(tables).await, servers.number("SELECT sum(a) FROM theirs").await), (1, 7));

    // The same process meets the other case then: what it was refused with is only said anew if it changes.
    servers.run("DROP TABLE theirs; CREATE TABLE jangteo_layout AS SELECT 9 AS layout").await;
    let newer = "was written by a newer version (its layout is 9, this program knows 1)";
    payment.misses(STORE, newer).await;
    payment.says_once(newer).await;
    assert_eq!(
        (servers.number(tables).await, servers.number("SELECT layout::bigint FROM jangteo_layout").await),
        (1, 9)
    );
    servers.run("DROP TABLE jangteo_layout").await;
    payment.is_ready().await;
    payment.stop().await;
}

#[tokio::test]
async fn a_layout_that_is_put_back_is_opened_with_all_that_was_in_it() {
    let Some((servers, bank)) = two().await else { return };
    let mut first = payment(&servers, &bank, servers.postgres());
    first.is_ready().await;
    first.stop().await;
    servers.run("INSERT INTO marks VALUES ('kept', 7); UPDATE jangteo_layout SET layout = 9").await;
    let mut second = payment(&servers, &bank, servers.postgres());
    second.misses(STORE, "was written by a newer version").await;
    servers.run("UPDATE jangteo_layout SET layout = 1").await;
    second.is_ready().await;
    second.stop().await;
    assert_eq!(servers.number("SELECT value FROM marks WHERE name = 'kept'").await, 7);
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_not_spoken_to_in_clear() {
    let Some((servers, bank)) = two().await else { return };
    let mut payment = payment(&servers, &bank, format!("{}?sslmode=require", servers.postgres()));
    payment.misses(STORE, "cannot be reached with TLS").await;
    payment.says_once("sslmode in the address says what is expected").await;
    payment.stop().await;
    assert_eq!(servers.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_and_goes_away_later_is_said_once_each_time() {
    let Some((servers, bank)) = two().await else { return };
    let mut proxy = Proxy::to(servers.postgres_address());
    let mut payment = payment(&servers, &bank, servers.postgres_at(&format!("127.0.0.1:{}", proxy.port)));
    payment.misses(STORE, "cannot be reached").await;
    payment.says_once("until that is mended, the process waits").await;
    proxy.open().await;
    payment.is_ready().await;

    proxy.close();
    payment.misses(STORE, &servers.name).await;
    let said = payment.falls_silent().await;
    // At the start; then the health, the timers and the relay once, and whoever has a connection of its own how it came about.
    let whose = |part: &str| said.iter().filter(|line| line.contains(part)).count();
    let parts = ["timers cannot be claimed", "payment store: it does not answer", "nothing is published"];
    assert_eq!(parts.map(whose), [1, 1, 1], "{said:#?}");
    assert!(said.len() <= 8, "{said:#?}");
    proxy.open().await;
    payment.is_ready().await;
    payment.says("timers are claimed again").await;
    payment.stop().await;
}

/// The tables are there, and nothing can be written to them: the shelves cannot be stocked when inventory starts.
#[tokio::test]
async fn shelves_that_cannot_be_stocked_at_the_start_are_stocked_without_a_restart() {
    let Some(servers) = Servers::find().await else { return };
    // A service of another kind makes the same tables.
    let mut auditor = Service::start("auditor", &servers.settings(&[]));
    auditor.is_ready().await;
    auditor.stop().await;
    let holder = servers.hold("LOCK TABLE events IN EXCLUSIVE MODE").await;
    let mut proxy = Proxy::to(servers.postgres_address());
    proxy.open().await;
    let through = ("JANGTEO_POSTGRES", servers.postgres_at(&format!("127.0.0.1:{}", proxy.port)));
    let mut inventory = Service::start("inventory", &servers.settings(&[through]));
    inventory.misses("inventory shelves", "they are being stocked").await;
    proxy.close();
    let sentence = "the shelves cannot be stocked: ";
    inventory.misses("inventory shelves", sentence).await;
    inventory.misses("inventory store", &servers.name).await;
    inventory.says("topic shipping-events does not exist").await;
    let said = inventory.falls_silent().await;
    assert_eq!(said.iter().filter(|line| line.contains(sentence)).count(), 1, "{said:#?}");

    drop(holder);
    proxy.open().await;
    inventory.is_ready().await;
    inventory.says("the shelves are stocked").await;
    let added = "SELECT count(*) FROM events WHERE type IN ('ProductAdded', 'StockReceived')";
    assert_eq!(servers.number(added).await, 128, "64 products, each once");
    inventory.stop().await;
}

/// All sessions end, then nobody gets through for a while, as when a server is restarted: meanwhile an operator books one piece after
/// the other, each until it is accepted.
#[tokio::test]
async fn commits_and_reads_go_on_after_a_restart_of_the_server_and_nothing_committed_is_lost() {
    let Some(servers) = Servers::find().await else { return };
    let mut proxy = Proxy::to(servers.postgres_address());
    proxy.open().await;
    let through = ("JANGTEO_POSTGRES", servers.postgres_at(&format!("127.0.0.1:{}", proxy.port)));
    let cached = ("JANGTEO_REDIS", servers.redis.clone());
    let (mut inventory, gateway) = receipts::open(&servers, &[through, cached]).await;
    let available = async || gateway.get(PRODUCT).await.1["available"].to_string().replace('"', "").parse::<i64>();
    let before = available().await.unwrap();
    let (accepted, closes) = (Cell::new(0), Cell::new(false));
    let operator = async {
        while !closes.get() {
            receive_until_accepted(&gateway, &format!("piece-{}", accepted.get())).await;
            accepted.set(accepted.get() + 1);
        }
    };
    let some_more = async || {
        let (enough, started) = (accepted.get() + 5, Instant::now());
        while accepted.get() < enough {
            assert!(started.elapsed() < PATIENCE, "nothing is accepted any more: {}", accepted.get());
            sleep(Duration::from_millis(10)).await;
        }
    };
    let server = async {
        some_more().await;
        servers.end_sessions().await;
        some_more().await;
        servers.end_sessions().await;
        proxy.close();
        inventory.misses("inventory store", &servers.name).await;
        assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK, "what is known is shown");
        let stuck = accepted.get();
        proxy.open().await;
        some_more().await;
        assert!(accepted.get() > stuck);
        closes.set(true);
    };
    futures::join!(operator, server);
    inventory.is_ready().await;
    assert_eq!(on_record(&servers).await, accepted.get());
    let started = Instant::now();
    while available().await != Ok(before + accepted.get()) {
        assert!(started.elapsed() < PATIENCE, "{:?} of {}", available().await, before + accepted.get());
        sleep(Duration::from_millis(50)).await;
    }
    inventory.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_password_that_changes_leaves_open_connections_alone_and_new_ones_name_the_role() {
    let Some(servers) = Servers::find().await else { return };
    let (mut inventory, gateway) = receipts::open(&servers, &[]).await;
    let change = async |password: &str| {
        servers.administer(&format!("ALTER ROLE {} PASSWORD '{password}'", servers.name)).await;
    };
    let new = format!("{SECRET}-new");
    change(&new).await;
    for n in 0..10 {
        let (status, problem) = receive(&gateway, &format!("open-{n}")).await;
        assert_eq!(status, StatusCode::OK, "{problem}");
    }
    inventory.is_ready().await;

    servers.end_sessions().await;
    let sentence = format!("password authentication failed for user \"{}\"", servers.name);
    inventory.misses("inventory store", &sentence).await;
    let (status, problem) = receive(&gateway, "refused").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    inventory.says_of("inventory store", &sentence).await;
    change(SECRET).await;
    inventory.is_ready().await;
    receive_until_accepted(&gateway, "refused").await;
    assert_eq!(on_record(&servers).await, 11);

    // A restart with the new one does as well.
    change(&new).await;
    let (address, postgres) = (inventory.address.clone(), servers.postgres().replace(SECRET, &new));
    inventory.stop().await;
    let mut inventory = Service::start_at("inventory", address, &servers.settings(&[("JANGTEO_POSTGRES", postgres)]));
    inventory.is_ready().await;
    receive_until_accepted(&gateway, "after").await;
    inventory.stop().await;
    gateway.stop().await;
    change(SECRET).await;
    assert_eq!(on_record(&servers).await, 12);
}
