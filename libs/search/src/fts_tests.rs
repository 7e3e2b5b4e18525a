//! The contract, and what is this index's own: files that are none.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::contract::{Subject, document, found, hold_the_contract, naive, query, write};
use crate::{Page, search};

async fn make() -> Option<Subject> {
    Some(Subject::new(Arc::new(Fts::in_memory()), ()))
}
hold_the_contract!(make);

#[tokio::test]
async fn a_file_that_is_no_index_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    write(&Fts::open(&file).unwrap(), [document("a", "", "on", "tea")]).await;
    assert_eq!(found(&Fts::open(&file).unwrap(), "tea").await, ["a"], "it is kept");
    std::fs::write(&file, "no".repeat(5_000)).unwrap();
    assert_eq!(Fts::open(&file).unwrap().checkpoint().await, Ok(Checkpoint::default()));
    let db = Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(db);
    assert_eq!(Fts::open(&file).unwrap().all().await, Ok(vec![]));
    assert!(Fts::open(&folder.path().join("nowhere/x.db")).is_err());
}

#[tokio::test]
async fn an_index_in_a_folder_is_one_process_s_and_is_there_again_when_it_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let index = Fts::open_alone(folder.path(), "order").unwrap();
    write(&index, [document("a", "", "on", "tea")]).await;
    let refused = Fts::open_alone(folder.path(), "order").err().unwrap().to_string();
    assert!(refused.contains("another process keeps its index there"), "{refused}");
    assert!(Fts::open_alone(folder.path(), "product").is_ok(), "another index has a place there");
    drop(index);
    assert_eq!(found(&Fts::open_alone(folder.path(), "order").unwrap(), "tea").await, ["a"]);
    assert!(Fts::open_alone(&folder.path().join("nowhere"), "order").is_err());
}

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4 / 1_024
}

#[tokio::test]
#[ignore = "measures the memory of the process: to be run alone, with --nocapture"]
#[expect(clippy::print_stdout, reason = "it is a measurement")]
async fn what_an_index_of_fifty_thousand_orders_takes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, index) in [("file", Fts::open_alone(folder.path(), "order").unwrap()), ("memory", Fts::in_memory())] {
        let (before, mut most) = (resident(), 0);
        for page in 0..500 {
            let documents = (0..100).map(|n| {
                let (id, customer) =
                    (format!("0190b8f1-2c3d-7e4f-8a9b-{:012}", page * 100 + n), format!("c-{}", n % 10));
                document(
                    &id,
                    &customer,
                    "ORDER_STATUS_DELIVERED",
                    &format!("{id} TEA-BOSEONG-100 보성 녹차 Boseong green tea 김장터 세종대로 110 서울"),
                )
            });
            write(&index, documents.collect::<Vec<_>>()).await;
            most = most.max(resident());
        }
        let bytes = std::fs::metadata(folder.path().join("order-search.db")).unwrap().len() >> 20;
        println!(
            "{name}: {} MiB of memory at most, {} at the end; the file has {bytes} MiB",
            most - before,
            resident() - before
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn it_finds_what_the_words_mean(texts in proptest::collection::vec(("[ab가나]{0,4} ?[ab가나다]{0,4}", 0..3_usize, 0..2_usize), 1..12), word in "[ab가나다]{1,3}", owner in 0..3_usize, status in 0..3_usize) {
        let owners = ["", "kim", "lee"];
        let statuses = ["on", "off"];
        let documents: Vec<_> = texts.iter().enumerate()
            .map(|(n, (text, owner, status))| document(&format!("d{n}"), owners[*owner], statuses[*status], text)).collect();
        let facets = statuses.get(status).map(|status| ("status", (*status).to_owned())).into_iter().collect();
        let query = Query { facets, size: 100, ..query(&word, owners[owner]) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Page { ids, .. } = runtime.block_on(async {
            let index = Fts::in_memory();
            write(&index, documents.clone()).await;
            search(&index, &query).await.unwrap()
        });
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        prop_assert_eq!(ids, naive(&documents, &query));
    }
}
