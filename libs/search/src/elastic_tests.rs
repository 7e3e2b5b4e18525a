//! The contract on a real server, and what is this index's own: aliases, strangers, a server that is away.
use std::sync::Arc;

use super::*;
use crate::contract::{Subject, document, found, hold_the_contract, naive, query, write};
use crate::search;

/// The server, if there is one: on CI there must be.
#[expect(clippy::disallowed_methods, reason = "tests are told in the environment where servers are")]
#[expect(clippy::print_stderr, reason = "what is skipped is said aloud")]
fn server() -> Option<String> {
    let server = std::env::var("JANGTEO_TEST_ELASTICSEARCH").ok();
    if server.is_none() {
        assert!(std::env::var("CI").is_err(), "JANGTEO_TEST_ELASTICSEARCH says where Elasticsearch is; CI needs it");
        eprintln!("!!! SKIPPED: JANGTEO_TEST_ELASTICSEARCH does not say where Elasticsearch is");
    }
    server
}

#[expect(clippy::disallowed_methods, reason = "names that no other run has")]
fn elastic(server: &str) -> Elastic {
    Elastic::new(server, &format!("test-{}", Uuid::now_v7().simple())).unwrap()
}

/// Takes away what a test left.
struct Left(String, String);

impl Drop for Left {
    fn drop(&mut self) {
        let Left(server, alias) = self;
        let (server, alias) = (server.clone(), alias.clone());
        // On a thread and runtime of its own: a test is on one already.
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = Client::new(&server).unwrap();
                let listed = client.get(&format!("/_cat/indices/{alias}*?format=json")).await;
                for index in listed.iter().filter_map(|answer| answer.body.as_array()).flatten() {
                    let _ = client.delete(&format!("/{}", index["index"].as_str().unwrap_or_default())).await;
                }
            });
        };
        let _ = std::thread::spawn(work).join();
    }
}

fn subject(server: String) -> (Arc<Elastic>, Left) {
    let elastic = Arc::new(elastic(&server));
    let left = Left(server, elastic.alias.clone());
    (elastic, left)
}

async fn make() -> Option<Subject> {
    let (elastic, left) = subject(server()?);
    Some(Subject::new(elastic, left))
}
hold_the_contract!(make);

#[tokio::test]
async fn two_replicas_make_one_index() {
    let Some(server) = server() else { return };
    let (one, _left) = subject(server.clone());
    let other = Elastic::new(&server, &one.alias).unwrap();
    let (first, second) = tokio::join!(one.checkpoint(), other.checkpoint());
    // One of them may have met the other in the middle of it, and tries again.
    assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
    write(one.as_ref(), [document("a", "", "on", "tea")]).await;
    assert_eq!(found(&other, "tea").await, ["a"]);
    let listed = one.client.get(&format!("/_alias/{}", one.alias)).await.unwrap().body;
    assert_eq!(listed.as_object().unwrap().len(), 1, "{listed}");
}

/// ES-14: duplicated and reordered writes by two keep the newest.
#[tokio::test]
async fn late_and_repeated_writes_of_another_replica_change_nothing() {
    let Some(server) = server() else { return };
    let (one, _left) = subject(server.clone());
    let other = Elastic::new(&server, &one.alias).unwrap();
    let at = |version| Document { version, ..document("a", "", "on", &format!("version{version}")) };
    let checkpoint = |position| Checkpoint { position, event: Uuid::nil() };
    for version in [2, 1, 3, 2, 3, 1] {
        let by = if version % 2 == 0 { &other } else { one.as_ref() };
        by.write(vec![at(version)], checkpoint(version)).await.unwrap();
    }
    assert_eq!((found(one.as_ref(), "version3").await, one.version("a").await), (vec!["a".to_owned()], Ok(3)));
    assert_eq!(one.checkpoint().await, Ok(checkpoint(3)), "nor does the checkpoint go back");
}

#[tokio::test]
async fn an_index_that_is_deleted_is_made_again_from_its_beginning() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server);
    write(elastic.as_ref(), [document("a", "", "on", "tea")]).await;
    let (index, _) = elastic.client.behind(&elastic.alias).await.unwrap().unwrap();
    elastic.client.delete(&format!("/{index}")).await.unwrap();
    let why = search(elastic.as_ref(), &query("tea", "")).await.unwrap_err().to_string();
    assert!(why.contains("is gone"), "{why}");
    assert_eq!(elastic.checkpoint().await, Ok(Checkpoint::default()));
}

#[tokio::test]
async fn the_index_of_somebody_else_is_refused_by_name() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server);
    let index = format!("{}-000001", elastic.alias);
    elastic.client.put(&format!("/{index}"), json!({"aliases": {&elastic.alias: {}}})).await.unwrap();
    let why = elastic.checkpoint().await.unwrap_err().to_string();
    assert!(why.contains(&index) && why.contains("not the shop's"), "{why}");
    let later = json!({"_meta": {"owner": "jangteo", "form": FORM + 1}});
    elastic.client.put(&format!("/{index}/_mapping"), later).await.unwrap();
    let why = elastic.write(vec![], Checkpoint::default()).await.unwrap_err().to_string();
    assert!(why.contains("run a later program"), "{why}");
}

#[tokio::test]
async fn a_server_that_is_away_is_named_and_its_password_is_not() {
    for (url, named) in [("http://user:secret@127.0.0.1:1", "127.0.0.1:1"), ("https://127.0.0.1:1", "127.0.0.1:1")] {
        let why = Elastic::new(url, "x").unwrap().checkpoint().await.unwrap_err().to_string();
        assert!(why.contains(named) && !why.contains("secret"), "{why}");
    }
    assert!(Elastic::new("no address", "x").is_err());
}

/// What is found is what the words mean, as in the other index; by a few texts only, for each is an index.
#[tokio::test]
async fn it_finds_what_the_words_mean() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server);
    let texts = ["가나 가", "ab 가나다", "a b가 나다", "abab가나가나", "다나가 ba", "나", "가나다ab", "b", ""];
    let documents: Vec<_> =
        texts.iter().enumerate().map(|(n, text)| document(&format!("d{n}"), "", "on", text)).collect();
    write(elastic.as_ref(), documents.clone()).await;
    for text in ["가", "가나", "나다", "a", "ab", "b", "ba", "가 a", "나가", "다", "가나다"] {
        let query = query(text, "");
        let ids = search(elastic.as_ref(), &query).await.unwrap().ids;
        assert_eq!(ids, naive(&documents, &query), "{text}");
    }
}
