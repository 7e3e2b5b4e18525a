//! The contract on a real server, and what is this index's own: aliases, strangers, a server that is away.
use std::collections::BTreeMap;

use clock::SystemClock;
use serde_json::{Value, json};

use super::*;
use crate::contract::{Subject, at, document, found, hold_the_contract, naive, put_there, query, write};
use crate::elastic_client::writer;
use crate::{Document, search};

/// The server, if there is one: on CI there must be.
#[expect(clippy::disallowed_methods, reason = "tests are told in the environment where servers are")]
#[expect(clippy::print_stderr, reason = "what is skipped is said aloud")]
pub(crate) fn server() -> Option<String> {
    let server = std::env::var("JANGTEO_TEST_ELASTICSEARCH").ok();
    if server.is_none() {
        assert!(std::env::var("CI").is_err(), "JANGTEO_TEST_ELASTICSEARCH says where Elasticsearch is; CI needs it");
        eprintln!("!!! SKIPPED: JANGTEO_TEST_ELASTICSEARCH does not say where Elasticsearch is");
    }
    server
}

fn ids() -> Arc<Ids> {
    Arc::new(Ids::random(Arc::new(SystemClock)))
}

/// Takes away what a test left.
pub(crate) struct Left(String, String);

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

/// An alias that no other run has, and nothing behind it.
pub(crate) fn nothing_yet(server: String) -> (Arc<Elastic>, Left) {
    let elastic = Elastic::new(&server, &format!("test-{}", ids().next().simple()), ids()).unwrap();
    let left = Left(server, elastic.alias.clone());
    (Arc::new(elastic), left)
}

/// With an empty index behind it.
async fn subject(server: String) -> (Arc<Elastic>, Left) {
    let (elastic, left) = nothing_yet(server);
    put_there(elastic.as_ref()).await;
    (elastic, left)
}

/// The same index, as another process has it.
pub(crate) fn other(elastic: &Elastic, server: &str) -> Elastic {
    Elastic::new(server, &elastic.alias, ids()).unwrap()
}

/// All indices that are named after the alias.
pub(crate) async fn indices(elastic: &Elastic) -> Vec<String> {
    let listed = elastic.client.get(&format!("/{}*", elastic.alias)).await.unwrap().body;
    listed.as_object().unwrap().keys().cloned().collect()
}

async fn make() -> Option<Subject> {
    let (elastic, left) = subject(server()?).await;
    Some(Subject::new(elastic, left))
}
hold_the_contract!(make);

fn change(after: u64, documents: &[(u64, Document)], position: u64) -> Change {
    Change { after, documents: documents.to_vec(), checkpoint: at(position) }
}

/// ES-14: duplicated and reordered writes by two keep the newest.
#[tokio::test]
async fn late_and_repeated_writes_of_another_replica_change_nothing() {
    let Some(server) = server() else { return };
    let (one, _left) = subject(server.clone()).await;
    let other = other(&one, &server);
    for version in [2, 1, 3, 2, 3, 1] {
        let by = if version % 2 == 0 { &other } else { one.as_ref() };
        let document = Document { version, ..document("a", "", "on", &format!("version{version}")) };
        by.write(change(0, &[(version, document)], version)).await.unwrap();
    }
    assert_eq!((found(one.as_ref(), "version3").await, one.version("a").await), (vec!["a".to_owned()], Ok(3)));
    assert_eq!(one.checkpoint().await, Ok(at(3)), "nor does the checkpoint go back");
}

/// Both may be new, or one made the other's anew: one stays, and whoever lost leaves nothing.
#[tokio::test]
async fn of_two_that_put_an_index_there_at_one_moment_one_does() {
    let Some(server) = server() else { return };
    let (one, _left) = nothing_yet(server.clone());
    let two = other(&one, &server);
    for round in ["nothing is there", "an index is there"] {
        let ((mine, _), (theirs, _)) = (one.beside().await.unwrap(), two.beside().await.unwrap());
        let (first, second) = tokio::join!(one.put_in_place(&mine), two.put_in_place(&theirs));
        assert!(first.is_ok() || second.is_ok(), "{round}: {first:?} {second:?}");
        one.tidy().await.unwrap();
        let (behind, _) = one.client.behind(&one.alias).await.unwrap().unwrap();
        assert_eq!(indices(&one).await, [behind], "{round}");
    }
    // What a killed process asked for last is carried out after it was looked what it left.
    let (behind, _) = one.client.behind(&one.alias).await.unwrap().unwrap();
    let (late, _) = two.beside().await.unwrap();
    two.put_in_place(&late).await.unwrap();
    assert_eq!(one.client.remove_beside(&one.alias, Some(&behind), std::slice::from_ref(&late)).await, Ok(false));
    assert_eq!(indices(&one).await, [late]);
    // What is not ours is not removed, nor what belongs to another alias.
    let theirs = format!("{}-theirs", one.alias);
    one.client.put(&format!("/{theirs}"), json!({})).await.unwrap();
    let longer = Elastic::new(&server, &format!("{}-more", one.alias), ids()).unwrap();
    let (other, _) = longer.beside().await.unwrap();
    one.tidy().await.unwrap();
    assert_eq!(indices(&one).await.iter().filter(|it| **it == theirs || **it == other).count(), 2);
    longer.tidy().await.unwrap();
    assert!(!indices(&one).await.contains(&other));
}

/// The dangerous moment: the documents are in the old index, and the new one has its place before the checkpoint is written.
#[tokio::test]
async fn a_write_that_is_interrupted_by_a_swap_tells_the_new_index_nothing() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    write(elastic.as_ref(), [document("a", "", "on", "tea")]).await;
    let old = elastic.behind().await.unwrap();
    let page = [(2, document("b", "", "on", "tea"))];
    old.write_documents(&page, &BTreeMap::new()).await.unwrap();
    put_there(elastic.as_ref()).await;
    assert!(matches!(old.write_checkpoint(at(2)).await, Err(SearchError::Failed(_))));
    assert_eq!(elastic.checkpoint().await, Ok(Checkpoint::default()));
    let unseen = search(elastic.as_ref(), &query("tea", "")).await;
    assert!(matches!(&unseen, Err(SearchError::NotYet(why)) if why.contains("version 1 of a")), "{unseen:?}");
    // The next step of the same writer, which still believes that everything up to 2 is there.
    *elastic.seen() = Some(old);
    let refused = elastic.write(change(2, &[(3, document("c", "", "on", "tea"))], 3)).await;
    assert!(matches!(&refused, Err(SearchError::Unavailable(why)) if why.contains("position 0")), "{refused:?}");
    // One that begins where the new index is goes there without a word.
    elastic.write(change(0, &[(1, document("a", "", "on", "tea")), page[0].clone()], 2)).await.unwrap();
    assert_eq!(
        (found(elastic.as_ref(), "tea").await, elastic.checkpoint().await),
        (vec!["b".into(), "a".into()], Ok(at(2)))
    );
}

/// As where its disk is nearly full.
#[tokio::test]
async fn an_index_that_the_server_does_not_start_is_said_to_be_so() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    let (template, index) = (format!("/_index_template/{}", elastic.alias), format!("{}-nowhere", elastic.alias));
    let nowhere = json!({"settings": {"index.routing.allocation.require._name": "nowhere"}});
    let body = json!({"index_patterns": [index], "template": nowhere, "priority": 1});
    elastic.client.accepted(elastic.client.put(&template, body).await.unwrap()).unwrap();
    let made = elastic.client.make(&index).await;
    elastic.client.remove(&index).await.unwrap();
    elastic.client.accepted(elastic.client.delete(&template).await.unwrap()).unwrap();
    assert!(matches!(&made, Err(SearchError::Unavailable(why)) if why.contains("has not started")), "{made:?}");
}

/// An operator blocks writes, and so does a server whose disk is nearly full: searches go on, and no checkpoint gets ahead.
#[tokio::test]
async fn an_index_with_a_write_block_is_searched_and_takes_everything_once_the_block_is_lifted() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    elastic.write(change(0, &[(1, document("a", "", "on", "tea"))], 1)).await.unwrap();
    let settings = format!("/{}/_settings", elastic.behind().await.unwrap().name);
    let block = async |name: &str, blocked: Value| {
        let body = json!({ format!("index.blocks.{name}"): blocked });
        elastic.client.accepted(elastic.client.put(&settings, body).await.unwrap()).unwrap();
    };
    for (name, position) in [("write", 2), ("read_only_allow_delete", 3)] {
        let page = [(position, document(name, "", "on", "tea"))];
        block(name, json!(true)).await;
        for documents in [&page[..], &[]] {
            let refused = elastic.write(change(position - 1, documents, position)).await;
            assert!(
                matches!(refused, Err(SearchError::Unavailable(_) | SearchError::Failed(_))),
                "{name}: {refused:?}"
            );
        }
        assert_eq!(elastic.checkpoint().await, Ok(at(position - 1)), "{name}");
        assert!(found(elastic.as_ref(), "tea").await.contains(&"a".to_owned()), "{name}");
        block(name, Value::Null).await;
        elastic.write(change(position - 1, &page, position)).await.unwrap();
    }
    assert_eq!(elastic.checkpoint().await, Ok(at(3)));
    assert_eq!(found(elastic.as_ref(), "tea").await, ["read_only_allow_delete", "write", "a"]);
}

/// Where the server makes an index of whatever is written, a late write must make none.
#[tokio::test]
async fn what_is_written_too_late_makes_no_index() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    let template = format!("/_index_template/{}", elastic.alias);
    let pattern = format!("{}*", elastic.alias);
    let willing = json!({"index_patterns": [pattern], "allow_auto_create": true, "priority": 1});
    elastic.client.accepted(elastic.client.put(&template, willing).await.unwrap()).unwrap();
    let by_name = format!("/{}-by-name/_doc/1", elastic.alias);
    elastic.client.accepted(elastic.client.put(&by_name, json!({})).await.unwrap()).unwrap();

    let index = elastic.behind().await.unwrap();
    let page = [(1, document("a", "", "on", "tea"))];
    index.write(change(0, &page, 1)).await.unwrap();
    elastic.clear().await.unwrap();
    let late = [
        index.write(change(0, &page, 1)).await,
        index.write_documents(&page, &BTreeMap::new()).await,
        index.write_checkpoint(at(2)).await,
    ];
    elastic.client.remove(&format!("{}-by-name", elastic.alias)).await.unwrap();
    let there = indices(&elastic).await;
    elastic.client.accepted(elastic.client.delete(&template).await.unwrap()).unwrap();
    assert!(late.iter().all(|it| matches!(it, Err(SearchError::Failed(_)))), "{late:?}");
    assert_eq!((there, writer(&index.name).contains(&index.name)), (vec![], true));
}

#[tokio::test]
async fn the_index_of_somebody_else_is_refused_by_name() {
    let Some(server) = server() else { return };
    let (elastic, _left) = nothing_yet(server);
    let index = format!("{}-000001", elastic.alias);
    elastic.client.put(&format!("/{index}"), json!({"aliases": {&elastic.alias: {}}})).await.unwrap();
    let mut refusals = vec![
        ("not the shop's", elastic.checkpoint().await.map(drop)),
        ("not the shop's", elastic.standing().await.map(drop)),
        ("not the shop's", elastic.tidy().await),
        ("not the shop's", search(elastic.as_ref(), &query("tea", "")).await.map(drop)),
    ];
    let meta = |form| json!({"_meta": {"owner": "jangteo", "form": form}});
    elastic.client.put(&format!("/{index}/_mapping"), meta(FORM + 1)).await.unwrap();
    let (name, _) = elastic.beside().await.unwrap();
    refusals.extend([
        ("run a later program", elastic.write(change(0, &[], 1)).await),
        ("run a later program", elastic.standing().await.map(drop)),
        ("run a later program", search(elastic.as_ref(), &query("tea", "")).await.map(drop)),
        ("run a later program", elastic.put_in_place(&name).await),
    ]);
    for (sentence, refused) in refusals {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains(&index) && why.contains(sentence), "{why}");
    }
}

#[tokio::test]
async fn an_index_of_an_earlier_form_is_searched_if_it_can_be_and_never_written() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    write(elastic.as_ref(), [document("a", "", "on", "tea")]).await;
    let index = elastic.behind().await.unwrap().name.clone();
    let becomes = async |form: u64| {
        let meta = json!({"_meta": {"owner": "jangteo", "form": form}});
        elastic.client.put(&format!("/{index}/_mapping"), meta).await.unwrap();
        *elastic.seen() = None;
        elastic.standing().await.unwrap()
    };
    assert_eq!(becomes(FORM - 1).await, Standing::Earlier);
    assert_eq!(found(elastic.as_ref(), "tea").await, ["a"]);
    let why = elastic.write(change(1, &[], 2)).await.unwrap_err().to_string();
    assert!(why.contains("not written any more"), "{why}");
    assert_eq!(becomes(SEARCHED - 1).await, Standing::Absent);
    let why = search(elastic.as_ref(), &query("tea", "")).await.unwrap_err().to_string();
    assert!(why.contains(&index) && why.contains("form 0, which is not searched any more"), "{why}");
    let (name, successor) = elastic.beside().await.unwrap();
    write(successor.as_ref(), [document("b", "", "on", "tea")]).await;
    elastic.put_in_place(&name).await.unwrap();
    let at_once = search(elastic.as_ref(), &Query { seen: String::new(), ..query("tea", "") }).await;
    assert_eq!((elastic.standing().await, at_once.unwrap().ids), (Ok(Standing::Current), vec!["b".to_owned()]));
    assert_eq!(indices(&elastic).await, [name]);
}

#[tokio::test]
async fn a_server_that_is_away_is_named_and_its_password_is_not() {
    for (url, named) in [("http://user:secret@127.0.0.1:1", "127.0.0.1:1"), ("https://127.0.0.1:1", "127.0.0.1:1")] {
        let why = Elastic::new(url, "x", ids()).unwrap().checkpoint().await.unwrap_err().to_string();
        assert!(why.contains(named) && !why.contains("secret"), "{why}");
    }
    assert!(Elastic::new("no address", "x", ids()).is_err());
}

/// What is found is what the words mean, as in the other index; by a few texts only, for each is an index.
#[tokio::test]
async fn it_finds_what_the_words_mean() {
    let Some(server) = server() else { return };
    let (elastic, _left) = subject(server).await;
    let texts = ["가나 가", "ab 가나다", "a b가 나다", "abab가나가나", "다나가 ba", "나", "가나다ab", "b", ""];
    let documents: Vec<_> =
        texts.iter().enumerate().map(|(n, text)| document(&format!("d{n}"), "", "on", text)).collect();
    write(elastic.as_ref(), documents.clone()).await;
    for text in ["가", "가나", "나다", "a", "ab", "b", "ba", "가 a", "나가", "다", "가나다"] {
        let query = Query { seen: "d8@1".into(), ..query(text, "") };
        let ids = search(elastic.as_ref(), &query).await.unwrap().ids;
        assert_eq!(ids, naive(&documents, &query), "{text}");
    }
}
