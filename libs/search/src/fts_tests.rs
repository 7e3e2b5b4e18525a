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
