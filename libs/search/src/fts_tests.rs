//! What is found, whose it is, page by page, and files that are none.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::words::terms;
use crate::{Page, search};

fn document(id: &str, owner: &str, status: &'static str, text: &str) -> Document {
    let (facets, text) = ([("status", status.to_owned())].into(), vec![text.to_owned()]);
    Document { id: id.into(), version: 1, owner: owner.into(), facets, text }
}

async fn write(index: &Fts, documents: impl IntoIterator<Item = Document>) {
    index.write(documents.into_iter().collect(), Checkpoint { position: 1, event: Uuid::nil() }).await.unwrap();
}

fn query(text: &str, owner: &str) -> Query {
    Query { text: text.into(), owner: owner.into(), size: 10, ..Query::default() }
}

async fn found(index: &Fts, text: &str) -> Vec<String> {
    search(index, &query(text, "")).await.unwrap().ids
}

#[tokio::test]
async fn korean_and_english_are_found_by_words_and_their_beginnings() {
    let index = Fts::in_memory();
    let texts =
        [("a", "보성 녹차 100g Boseong green tea"), ("b", "제주 말차 80g Jeju matcha"), ("c", "돌솥 20cm Stone pot")];
    write(&index, texts.map(|(id, text)| document(id, "", "on", text))).await;
    for (text, ids) in [
        ("녹차", vec!["a"]),
        ("차", vec!["b", "a"]),
        ("보성", vec!["a"]),
        ("bose", vec!["a"]),
        ("GREEN TEA", vec!["a"]),
        ("tea 녹차", vec!["a"]),
        ("8", vec!["b"]),
        ("말차 tea", vec![]),
        ("성녹", vec![]),
        ("s", vec!["c"]),
    ] {
        assert_eq!(found(&index, text).await, ids, "{text}");
    }
}

#[tokio::test]
async fn whatever_is_searched_for_is_answered_or_refused_and_nothing_else() {
    let index = Fts::in_memory();
    write(&index, [document("a", "", "on", "tea AND coffee"), document("b", "kim", "on", "tea secret")]).await;
    for text in [
        "\"tea\" OR \"secret\"",
        "tea) OR (marks",
        "marks : o",
        "words:tea*",
        "NEAR(tea, secret)",
        "tea\0secret",
        "o6b696d",
        "שלום tea",
        "-tea",
        "^tea",
        "* OR tea",
    ] {
        let page = search(&index, &query(text, "")).await;
        assert!(page.as_ref().is_ok_and(|page| !page.ids.contains(&"b".to_owned())), "{text}: {page:?}");
    }
    assert_eq!(found(&index, "and").await, ["a"], "a word like any other");
    assert_eq!(found(&index, "tea -coffee").await, ["a"]);
    let long = search(&index, &query(&"x ".repeat(5_000), "")).await;
    assert!(matches!(long, Err(SearchError::Refused { field: "query", .. })), "{long:?}");
}

#[tokio::test]
async fn nobody_finds_what_is_another_ones() {
    let index = Fts::in_memory();
    write(
        &index,
        [document("a", "kim", "on", "tea"), document("b", "lee", "off", "tea"), document("c", "ki", "on", "tea")],
    )
    .await;
    assert_eq!(search(&index, &query("tea", "kim")).await.unwrap().ids, ["a"]);
    assert_eq!(found(&index, "tea").await, Vec::<String>::new());
    let off = Query { facets: [("status", "off".to_owned())].into(), ..query("tea", "kim") };
    assert_eq!(search(&index, &off).await.unwrap().ids, Vec::<String>::new());
}

#[tokio::test]
async fn only_a_newer_version_replaces_and_the_place_stays() {
    let index = Fts::in_memory();
    write(&index, [document("a", "", "on", "tea"), document("b", "", "on", "tea")]).await;
    let newer = Document { version: 3, ..document("a", "", "off", "coffee") };
    write(&index, [newer, Document { version: 2, ..document("a", "", "on", "tea") }]).await;
    assert_eq!((found(&index, "tea").await, found(&index, "coffee").await), (vec!["b".into()], vec!["a".into()]));
    assert_eq!((index.version("a").await, index.version("x").await), (Ok(3), Ok(0)));
    assert_eq!(index.all().unwrap(), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
}

async fn pages(index: &Fts, query: Query, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut ids, mut token) = (vec![], String::new());
    loop {
        let page = search(index, &Query { page_token: token, ..query.clone() }).await.unwrap();
        ids.extend(page.ids);
        if page.next_page_token.is_empty() {
            return ids;
        }
        token = page.next_page_token;
        between(ids.len()).await;
    }
}

#[tokio::test]
async fn pages_are_whole_while_documents_are_written() {
    let index = Fts::in_memory();
    write(&index, (0..50).map(|n| document(&format!("d{n}"), "", "on", "tea"))).await;
    let ids = pages(&index, Query { size: 7, ..query("tea", "") }, async |seen| {
        write(
            &index,
            [
                document(&format!("new{seen}"), "", "on", "tea"),
                Document { version: 2 + seen as u64, ..document("d3", "", "on", "green tea") },
            ],
        )
        .await;
    });
    assert_eq!(ids.await, (0..50).rev().map(|n| format!("d{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_token_of_another_query_or_of_nobody_is_refused() {
    let index = Fts::in_memory();
    write(&index, (0..30).map(|n| document(&format!("d{n}"), "kim", "on", "tea"))).await;
    let token = search(&index, &query("tea", "kim")).await.unwrap().next_page_token;
    let with = |query: Query, token: &str| Query { page_token: token.into(), ..query };
    assert!(search(&index, &with(query("tea", "kim"), &token)).await.is_ok());
    for (other, token) in [
        (query("tea", "lee"), token.as_str()),
        (query("te", "kim"), &token),
        (Query { facets: [("status", "on".to_owned())].into(), ..query("tea", "kim") }, &token),
        (query("tea", "kim"), "x"),
        (query("tea", "kim"), "AAAAAAAAAAAAAAAAAAAAAA"),
        (query("tea", "kim"), "\0"),
    ] {
        let refused = search(&index, &with(other, token)).await;
        assert!(matches!(refused, Err(SearchError::Refused { field: "page_token", .. })), "{token}: {refused:?}");
    }
}

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
    assert_eq!(Fts::open(&file).unwrap().all(), Ok(vec![]));
    assert!(Fts::open(&folder.path().join("nowhere/x.db")).is_err());
}

/// What matches, said naively.
fn naive(documents: &[Document], query: &Query) -> Vec<String> {
    let terms = terms(&query.text).unwrap();
    let fits = |document: &&Document| {
        let of_text: Vec<_> = document.text.iter().map(|text| tokens(text)).collect();
        let found = |term: &Term| match term {
            Term::Prefix(word) => of_text.iter().flatten().any(|token| token.starts_with(word)),
            Term::Phrase(words) => of_text.iter().any(|text| text.windows(words.len()).any(|window| window == words)),
        };
        document.owner == query.owner
            && query.facets.iter().all(|(name, value)| document.facets.get(name) == Some(value))
            && terms.iter().all(found)
    };
    documents.iter().rev().filter(fits).map(|document| document.id.clone()).collect()
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
