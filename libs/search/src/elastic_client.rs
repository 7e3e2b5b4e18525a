//! What is said to Elasticsearch: requests and what comes back, and the index behind an alias.
//!
//! An alias stands for one index with a name of its own behind that of the alias, so that a new one can be made beside it and put in
//! its place in one step. The mapping says what is in it, field by field, and in `_meta` whose it is and of which form.
use std::time::Duration;

use elasticsearch::Elasticsearch;
use elasticsearch::auth::Credentials;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::request::{JsonBody, NdBody};
use elasticsearch::http::response::Response;
use elasticsearch::http::transport::{SingleNodeConnectionPool, TransportBuilder};
use elasticsearch::http::{Method, StatusCode, Url};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::SearchError;

/// The form of the documents. Indices of an earlier one are made anew.
pub(crate) const FORM: u64 = 3;
/// Whose an index is.
const OWNER: &str = "jangteo";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a new index may take to start; less than [`PATIENCE`].
const STARTING: Duration = Duration::from_secs(5);
/// How long what was written may stay unseen.
const REFRESH: &str = "1s";

/// A server, and how it is spoken of.
#[derive(Clone)]
pub(crate) struct Client {
    client: Elasticsearch,
    address: String,
}

/// An answer that came.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// Whether the index or alias that was asked for does not exist.
    pub(crate) fn lacks_index(&self) -> bool {
        self.status == 404 && self.body.get("error").is_some()
    }

    /// Why it is no, in the server's words.
    pub(crate) fn reason(&self) -> String {
        let error = &self.body["error"];
        let reason = error["root_cause"][0]["reason"].as_str().or(error["reason"].as_str()).or(error.as_str());
        format!("{} ({})", reason.unwrap_or("it gives no reason"), self.status)
    }
}

impl Client {
    /// A client of the server at a URL. Nothing is asked yet.
    ///
    /// # Errors
    /// A sentence, if it is no URL.
    pub(crate) fn new(url: &str) -> Result<Client, SearchError> {
        let broken = |why: &dyn std::fmt::Display| SearchError::Unavailable(format!("Elasticsearch's address: {why}"));
        let mut parsed = Url::parse(url).map_err(|why| broken(&why))?;
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let credentials =
            parsed.password().map(|password| Credentials::Basic(plain(parsed.username()), plain(password)));
        if credentials.is_some() {
            // It fails for addresses without a host, which are no such address.
            let _ = parsed.set_username("").and_then(|()| parsed.set_password(None));
        }
        // What the setting names is asked directly, whatever proxy the environment has for others.
        let mut transport = TransportBuilder::new(SingleNodeConnectionPool::new(parsed.clone())).disable_proxy();
        if let Some(credentials) = credentials {
            transport = transport.auth(credentials);
        }
        let transport = transport.build().map_err(|why| broken(&why))?;
        let host = parsed.host_str().unwrap_or_default();
        let address = format!("{host}:{}", parsed.port_or_known_default().unwrap_or_default());
        Ok(Client { client: Elasticsearch::new(transport), address })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, SearchError> {
        self.ask::<JsonBody<Value>>(Method::Get, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Answer, SearchError> {
        self.ask(Method::Post, path, Some(JsonBody::new(body))).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<Answer, SearchError> {
        self.ask(Method::Put, path, Some(JsonBody::new(body))).await
    }

    pub(crate) async fn bulk(&self, path: &str, lines: Vec<Value>) -> Result<Answer, SearchError> {
        let lines = lines.into_iter().map(JsonBody::new).collect::<Vec<_>>();
        self.ask(Method::Post, path, Some(NdBody::new(lines))).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, SearchError> {
        self.ask::<JsonBody<Value>>(Method::Delete, path, None).await
    }

    async fn ask<B: elasticsearch::http::request::Body>(
        &self,
        method: Method,
        path: &str,
        body: Option<B>,
    ) -> Result<Answer, SearchError> {
        let sent = self.client.send(method, path, HeaderMap::new(), None::<&()>, body, Some(PATIENCE)).await;
        let read = async |response: Response| {
            let status = response.status_code();
            let text = response.text().await?;
            // A proxy in between may answer with something else.
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Ok::<_, elasticsearch::Error>((status, body))
        };
        let (status, body): (StatusCode, Value) = match sent {
            Ok(response) => read(response).await.map_err(|why| self.away(&why))?,
            Err(why) => return Err(self.away(&why)),
        };
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(SearchError::Failed(self.refusal(&Answer { status: status.as_u16(), body })));
        }
        Ok(Answer { status: status.as_u16(), body })
    }

    fn away(&self, why: &elasticsearch::Error) -> SearchError {
        // The outermost error only says that there was one.
        let mut deepest: &dyn std::error::Error = why;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        SearchError::Unavailable(format!("Elasticsearch at {} did not answer: {deepest}", self.address))
    }

    fn refusal(&self, answer: &Answer) -> String {
        format!("Elasticsearch at {} refused: {}", self.address, answer.reason())
    }

    /// An answer that must be yes.
    pub(crate) fn accepted(&self, answer: Answer) -> Result<Value, SearchError> {
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        Err(SearchError::Unavailable(self.refusal(&answer)))
    }

    /// The index behind an alias, if there is one of ours.
    ///
    /// # Errors
    /// If it is somebody else's, or of a later form.
    pub(crate) async fn behind(&self, alias: &str) -> Result<Option<(String, u64)>, SearchError> {
        let answer = self.get(&format!("/{alias}/_mapping")).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let body = self.accepted(answer)?;
        let indices: Vec<_> = body.as_object().into_iter().flatten().collect();
        let [(index, described)] = indices[..] else {
            let what = format!("alias {alias} stands for {} indices, not for one", indices.len());
            return Err(SearchError::Unavailable(what));
        };
        let meta = &described["mappings"]["_meta"];
        match (meta["owner"].as_str(), meta["form"].as_u64()) {
            (Some(OWNER), Some(form)) if form <= FORM => Ok(Some((index.clone(), form))),
            (Some(OWNER), Some(form)) => Err(SearchError::Unavailable(format!(
                "index {index} has form {form}; this program knows forms up to {FORM}: run a later program, or delete the index"
            ))),
            _ => Err(SearchError::Unavailable(format!(
                "index {index} has a mapping that is not the shop's: it was made by somebody else; rename or delete it"
            ))),
        }
    }

    /// Makes an empty index that the alias does not stand for yet.
    ///
    /// # Errors
    /// Also if the server takes it and does not start it.
    pub(crate) async fn make(&self, index: &str) -> Result<(), SearchError> {
        let path = format!("/{index}?timeout={}s", STARTING.as_secs());
        let made = self.accepted(self.put(&path, described(index)).await?)?;
        if made["shards_acknowledged"].as_bool() == Some(true) {
            return Ok(());
        }
        Err(SearchError::Unavailable(format!(
            "Elasticsearch at {} has not started index {index}: it starts none on a disk that is nearly full; \
             /_cluster/allocation/explain says why",
            self.address
        )))
    }

    /// Deletes an index, if it is there.
    pub(crate) async fn remove(&self, index: &str) -> Result<(), SearchError> {
        match self.delete(&format!("/{index}")).await? {
            answer if answer.lacks_index() => Ok(()),
            answer => self.accepted(answer).map(drop),
        }
    }

    /// The indices of ours that are named after an alias, which does not stand for them.
    pub(crate) async fn left_beside(&self, alias: &str) -> Result<Vec<String>, SearchError> {
        let listed = self.accepted(self.get(&format!("/{alias}-*")).await?)?;
        let left = listed.as_object().into_iter().flatten().filter(|(index, described)| {
            // Not those of another alias, the name of which begins with this one's.
            let own = index.strip_prefix(alias).and_then(|rest| rest.strip_prefix('-'));
            own.is_some_and(|own| own.chars().all(|letter| letter.is_ascii_alphanumeric()))
                && described["mappings"]["_meta"]["owner"] == OWNER
                && described["aliases"].get(alias).is_none()
        });
        Ok(left.map(|(index, _)| index.clone()).collect())
    }

    /// Lets an alias stand for an index, and deletes the one for which it stood, in one step: not at all if that is not there any
    /// more, or if there was none and another was faster, for an alias has one index that is written.
    pub(crate) async fn put_in_place(
        &self,
        alias: &str,
        index: &str,
        instead: Option<&str>,
    ) -> Result<(), SearchError> {
        self.accepted(self.change(alias, Some(index), instead).await?).map(drop)
    }

    /// Deletes indices beside the one for which an alias stands; whether that was still so.
    ///
    /// Danger: what a killed process asked for last may be carried out late, so that one of these takes its place before they are
    /// deleted. Then the one that stood there is gone, and nothing may be deleted: hence one step, which names it.
    pub(crate) async fn remove_beside(
        &self,
        alias: &str,
        behind: Option<&str>,
        left: &[String],
    ) -> Result<bool, SearchError> {
        match self.change(alias, behind, left.iter().map(String::as_str)).await? {
            answer if answer.lacks_index() => Ok(false),
            answer => self.accepted(answer).map(|_| true),
        }
    }

    /// Lets an alias stand for an index and deletes others, in one step; nothing of it if one of them is not there.
    async fn change<'a>(
        &self,
        alias: &str,
        index: Option<&str>,
        without: impl IntoIterator<Item = &'a str>,
    ) -> Result<Answer, SearchError> {
        let add = index.map(|index| json!({"add": {"index": index, "alias": alias, "is_write_index": true}}));
        let remove = without.into_iter().map(|index| json!({"remove_index": {"index": index}}));
        let actions: Vec<_> = add.into_iter().chain(remove).collect();
        self.post("/_aliases", json!({"actions": actions})).await
    }
}

/// The alias by which an index is written, and nothing else is. It is made with it and goes with it.
pub(crate) fn writer(index: &str) -> String {
    format!("{index}.writer")
}

/// Settings and mapping. Tokens are made here, by [`crate::words`]: the server only takes them apart at the spaces.
fn described(index: &str) -> Value {
    let unseen = json!({"type": "keyword", "index": false, "doc_values": false});
    json!({
        "aliases": {writer(index): {}},
        "settings": {
            "number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": REFRESH,
            "analysis": {
                // The usual limit of 255 characters would take longer tokens apart.
                "tokenizer": {"spaces": {"type": "whitespace", "max_token_length": 8000}},
                "analyzer": {"tokens": {"type": "custom", "tokenizer": "spaces"}}
            }
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"owner": OWNER, "form": FORM},
            "properties": {
                "owner": {"type": "keyword"},
                "facets": {"type": "keyword"},
                "place": {"type": "long"},
                "words": {
                    "type": "text", "analyzer": "tokens", "norms": false, "index_options": "positions",
                    "index_prefixes": {"min_chars": 1, "max_chars": 8}
                },
                "position": unseen,
                "event": unseen
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    /// A shell or a container may have a proxy for the web; the servers of the shop are not behind it.
    #[test]
    fn what_the_setting_names_is_asked_directly() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "elastic_client::tests::a_server_here_answers", "--ignored", "--nocapture"]);
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env(variable, "http://127.0.0.1:1");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[tokio::test]
    #[ignore = "run by another in a process of its own"]
    async fn a_server_here_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = peer.read(&mut request).unwrap();
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            peer.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = Client::new(&format!("http://lee:p%40ss@{address}")).unwrap();
        assert_eq!(client.get("/").await.map(|answer| answer.status).ok(), Some(200));
        assert!(asked.join().unwrap().to_lowercase().contains("authorization: basic bgvlonbac3m="));
        assert_eq!(client.address, address.to_string());
    }
}
