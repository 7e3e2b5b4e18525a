//! What every index promises, as tests over any of them.
use std::sync::Arc;

use uuid::Uuid;

use crate::words::{Term, terms, tokens};
use crate::{Change, Checkpoint, Document, Index, Query, SearchError, search};

/// An index under test, empty, and what it stands on.
pub(crate) struct Subject {
    pub(crate) index: Arc<dyn Index>,
    _rest: Box<dyn std::any::Any>,
}

impl Subject {
    pub(crate) fn new(index: Arc<dyn Index>, rest: impl std::any::Any) -> Subject {
        Subject { index, _rest: Box::new(rest) }
    }
}

/// Puts an empty index where there is none.
pub(crate) async fn put_there(index: &dyn Index) {
    if let Some(shared) = index.shared() {
        let (name, _) = shared.beside().await.unwrap();
        shared.put_in_place(&name).await.unwrap();
    }
}

pub(crate) fn document(id: &str, owner: &str, status: &'static str, text: &str) -> Document {
    let (facets, text) = ([("status", status.to_owned())].into(), vec![text.to_owned()]);
    Document { id: id.into(), version: 1, owner: owner.into(), facets, text }
}

/// What a log of one event for each document makes of an index.
pub(crate) async fn write(index: &dyn Index, documents: impl IntoIterator<Item = Document>) {
    write_at(index, 1, documents).await;
}

/// Documents that the log has from this position on.
async fn write_at(index: &dyn Index, first: u64, documents: impl IntoIterator<Item = Document>) {
    let documents: Vec<_> = (first..).zip(documents).collect();
    let checkpoint = at(documents.last().unwrap().0);
    index.write(Change { after: 0, documents, checkpoint }).await.unwrap();
}

pub(crate) fn at(position: u64) -> Checkpoint {
    Checkpoint { position, event: Uuid::from_u128(7) }
}

/// A search that sees what was written before.
pub(crate) fn query(text: &str, owner: &str) -> Query {
    Query { text: text.into(), owner: owner.into(), size: 10, seen: "a@1".into(), ..Query::default() }
}

pub(crate) async fn found(index: &dyn Index, text: &str) -> Vec<String> {
    search(index, &query(text, "")).await.unwrap().ids
}

pub(crate) async fn korean_and_english_are_found_by_words_and_their_beginnings(subject: Subject) {
    let index = subject.index.as_ref();
    let texts =
        [("a", "보성 녹차 100g Boseong green tea"), ("b", "제주 말차 80g Jeju matcha"), ("c", "돌솥 20cm Stone pot")];
    write(index, texts.map(|(id, text)| document(id, "", "on", text))).await;
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
        assert_eq!(found(index, text).await, ids, "{text}");
    }
}

pub(crate) async fn whatever_is_searched_for_is_answered_or_refused_and_nothing_else(subject: Subject) {
    let index = subject.index.as_ref();
    write(index, [document("a", "", "on", "tea AND coffee"), document("b", "kim", "on", "tea secret")]).await;
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
        let page = search(index, &query(text, "")).await;
        assert!(page.as_ref().is_ok_and(|page| !page.ids.contains(&"b".to_owned())), "{text}: {page:?}");
    }
    assert_eq!(found(index, "and").await, ["a"], "a word like any other");
    assert_eq!(found(index, "tea -coffee").await, ["a"]);
    let long = search(index, &query(&"x ".repeat(5_000), "")).await;
    assert!(matches!(long, Err(SearchError::Refused { field: "query", .. })), "{long:?}");
}

pub(crate) async fn nobody_finds_what_is_another_ones(subject: Subject) {
    let index = subject.index.as_ref();
    write(
        index,
        [document("a", "kim", "on", "tea"), document("b", "lee", "off", "tea"), document("c", "ki", "on", "tea")],
    )
    .await;
    assert_eq!(search(index, &query("tea", "kim")).await.unwrap().ids, ["a"]);
    assert_eq!(found(index, "tea").await, Vec::<String>::new());
    let off = Query { facets: [("status", "off".to_owned())].into(), ..query("tea", "kim") };
    assert_eq!(search(index, &off).await.unwrap().ids, Vec::<String>::new());
}

pub(crate) async fn only_a_newer_version_replaces_and_the_place_stays(subject: Subject) {
    let index = subject.index.as_ref();
    write(index, [document("a", "", "on", "tea"), document("b", "", "on", "tea")]).await;
    let newer = Document { version: 3, ..document("a", "", "off", "coffee") };
    write_at(index, 3, [newer, Document { version: 2, ..document("a", "", "on", "tea") }]).await;
    assert_eq!((found(index, "tea").await, found(index, "coffee").await), (vec!["b".into()], vec!["a".into()]));
    assert_eq!((index.version("a").await, index.version("x").await), (Ok(3), Ok(0)));
    assert_eq!(index.all().await.unwrap(), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
}

async fn pages(index: &dyn Index, query: Query, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
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

pub(crate) async fn pages_are_whole_while_documents_are_written(subject: Subject) {
    let index = subject.index.as_ref();
    write(index, (0..50).map(|n| document(&format!("d{n}"), "", "on", "tea"))).await;
    let ids = pages(index, Query { size: 7, seen: "d0@1".into(), ..query("tea", "") }, async |seen| {
        write_at(
            index,
            100 + seen as u64,
            [
                document(&format!("new{seen}"), "", "on", "tea"),
                Document { version: 2 + seen as u64, ..document("d3", "", "on", "green tea") },
            ],
        )
        .await;
    });
    assert_eq!(ids.await, (0..50).rev().map(|n| format!("d{n}")).collect::<Vec<_>>());
}

pub(crate) async fn a_token_of_another_query_or_of_nobody_is_refused(subject: Subject) {
    let index = subject.index.as_ref();
    write(index, (0..30).map(|n| document(&format!("d{n}"), "kim", "on", "tea"))).await;
    let query = |text, owner| Query { seen: "d0@1".into(), ..query(text, owner) };
    let token = search(index, &query("tea", "kim")).await.unwrap().next_page_token;
    let with = |query: Query, token: &str| Query { page_token: token.into(), ..query };
    assert!(search(index, &with(query("tea", "kim"), &token)).await.is_ok());
    for (other, token) in [
        (query("tea", "lee"), token.as_str()),
        (query("te", "kim"), &token),
        (Query { facets: [("status", "on".to_owned())].into(), ..query("tea", "kim") }, &token),
        (query("tea", "kim"), "x"),
        (query("tea", "kim"), "AAAAAAAAAAAAAAAAAAAAAA"),
        (query("tea", "kim"), "\0"),
    ] {
        let refused = search(index, &with(other, token)).await;
        assert!(matches!(refused, Err(SearchError::Refused { field: "page_token", .. })), "{token}: {refused:?}");
    }
}

/// What an index has followed of a log, and how it forgets it.
pub(crate) async fn the_checkpoint_is_kept_with_the_documents_and_forgotten_with_them(subject: Subject) {
    let index = subject.index.as_ref();
    assert_eq!(index.checkpoint().await, Ok(Checkpoint::default()));
    write_at(index, 5, [document("a", "", "on", "tea")]).await;
    index.write(Change { after: 5, documents: vec![], checkpoint: at(9) }).await.unwrap();
    assert_eq!(index.checkpoint().await, Ok(at(9)));
    assert_eq!(found(index, "tea").await, ["a"], "the checkpoint is not found");
    index.clear().await.unwrap();
    if index.shared().is_some() {
        let refused = [search(index, &query("tea", "")).await.map(drop), index.checkpoint().await.map(drop)];
        assert!(refused.iter().all(|it| matches!(it, Err(SearchError::Unavailable(_)))), "{refused:?}");
        put_there(index).await;
    }
    assert_eq!((index.checkpoint().await, index.all().await), (Ok(Checkpoint::default()), Ok(vec![])));
    let any = Query { seen: String::new(), ..query("tea", "") };
    assert_eq!(search(index, &any).await.unwrap().ids, Vec::<String>::new());
    // It goes on from the beginning, however far it had been.
    write(index, [document("a", "", "on", "tea")]).await;
    assert_eq!((found(index, "tea").await, index.checkpoint().await.unwrap().position), (vec!["a".to_owned()], 1));
}

/// What lies between would never be written.
pub(crate) async fn nothing_is_written_from_further_on_than_it_is(subject: Subject) {
    let index = subject.index.as_ref();
    write_at(index, 5, [document("a", "", "on", "tea")]).await;
    let change = |after| Change { after, documents: vec![(9, document("b", "", "on", "tea"))], checkpoint: at(9) };
    let refused = index.write(change(6)).await;
    assert!(matches!(&refused, Err(SearchError::Unavailable(why)) if why.contains("position 5")), "{refused:?}");
    assert_eq!((index.checkpoint().await, index.version("b").await), (Ok(at(5)), Ok(0)));
    index.write(change(5)).await.unwrap();
    assert_eq!((index.checkpoint().await, index.version("b").await), (Ok(at(9)), Ok(1)));
}

/// More than is listed at once, and long words.
pub(crate) async fn everything_is_listed_in_its_order(subject: Subject) {
    let index = subject.index.as_ref();
    let long = "x".repeat(300);
    for page in 0..3_u64 {
        let ids = (0..400).map(|n| format!("d{page}-{n}"));
        write_at(index, page * 400 + 1, ids.map(|id| document(&id, "", "on", &format!("{long} tea")))).await;
    }
    let all = index.all().await.unwrap();
    let expected = (0..3).flat_map(|page| (0..400).map(move |n| (format!("d{page}-{n}"), 1)));
    assert_eq!(all, expected.collect::<Vec<_>>());
    let query = Query { seen: "d2-399@1".into(), ..query(&long[..200], "") };
    assert_eq!(search(index, &query).await.unwrap().ids.len(), 10, "by the beginning of a long word");
}

/// What matches, said naively.
pub(crate) fn naive(documents: &[Document], query: &Query) -> Vec<String> {
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

macro_rules! hold_the_contract {
    ($make:path) => {
        $crate::contract::hold_the_contract!(@ $make:
            korean_and_english_are_found_by_words_and_their_beginnings,
            whatever_is_searched_for_is_answered_or_refused_and_nothing_else,
            nobody_finds_what_is_another_ones,
            only_a_newer_version_replaces_and_the_place_stays,
            pages_are_whole_while_documents_are_written,
            a_token_of_another_query_or_of_nobody_is_refused,
            the_checkpoint_is_kept_with_the_documents_and_forgotten_with_them,
            nothing_is_written_from_further_on_than_it_is,
            everything_is_listed_in_its_order,
        );
    };
    (@ $make:path: $($name:ident,)*) => {$(
        #[tokio::test]
        async fn $name() {
            // Absent where a server is needed and there is none.
            if let Some(subject) = $make().await {
                $crate::contract::$name(subject).await;
            }
        }
    )*};
}
pub(crate) use hold_the_contract;
