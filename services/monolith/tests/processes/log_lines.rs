//! The lines of one order, in the logs of all processes.
use crate::shop::Shop;

/// The trace of a line, in text or JSON.
fn trace_id(line: &str) -> Option<&str> {
    let rest = line.split_once("trace_id")?.1.trim_start_matches(['"', ':', '=', ' ']);
    rest.get(..32).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[tokio::test]
async fn all_lines_of_an_order_carry_its_id_and_its_trace() {
    for json in [false, true] {
        let Some(shop) = Shop::open(1, &[("JANGTEO_LOG_JSON", json.to_string())]).await else { return };
        let good = shop.ordered("good", "pm_card_ok", "KR", "ORDER_STATUS_DELIVERED").await;
        let undone = shop.ordered("undone", "pm_card_ok", "AQ", "ORDER_STATUS_REJECTED").await;
        for (order_id, sentences) in [
            (
                &good,
                [
                    ("order", "order placed"),
                    ("inventory", "goods reserved"),
                    ("payment", "payment settled"),
                    ("shipping", "shipment settled"),
                    ("inventory", "goods left with their parcel"),
                ],
            ),
            (
                &undone,
                [
                    ("order", "order placed"),
                    ("inventory", "goods reserved"),
                    ("payment", "payment settled"),
                    ("order", "step refused"),
                    ("inventory", "goods released"),
                ],
            ),
        ] {
            let log = |name: &str| shop.replicas(name).next().unwrap().log();
            let placed = log("order");
            let placed = placed.lines().find(|line| line.contains("order placed") && line.contains(order_id.as_str()));
            let trace = trace_id(placed.unwrap()).expect("it has a trace").to_owned();
            for (name, sentence) in sentences {
                shop.replicas(name).next().unwrap().says_of(order_id, sentence).await;
            }
            for (name, service) in &shop.services {
                for line in service.log().lines() {
                    let (by_id, by_trace) = (line.contains(order_id.as_str()), line.contains(&trace));
                    assert_eq!(by_id, by_trace, "{name}: {line}");
                }
            }
        }
    }
}
