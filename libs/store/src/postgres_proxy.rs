//! A way to the server that a test cuts where it wants.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::server::Database;

/// What happens to the next connection that comes to it; once, but for [`Cut::Always`].
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    Never,
    /// The server never sees the writer's `COMMIT`.
    BeforeCommit,
    /// Its answer is lost.
    AfterCommit,
    /// The client is cut off at once, and the server sees the `COMMIT` so much later.
    LateCommit(Duration),
    /// After so many bytes of answers.
    Answer(usize),
    /// Nobody gets through.
    Always,
}

type Next = Arc<Mutex<Cut>>;

/// Ends with all its connections when it is dropped.
pub(crate) struct Proxy {
    /// Of the database, this way.
    pub(crate) url: String,
    next: Next,
    open: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(database: &Database) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, name) = database.url.rsplit_once('/').unwrap();
        let (before, server) = before.rsplit_once('@').unwrap();
        let (url, server) = (format!("{before}@127.0.0.1:{port}/{name}"), server.to_owned());
        let (next, open) = (Next::new(Mutex::new(Cut::Never)), Arc::new(Mutex::new(JoinSet::new())));
        let mut accepting = JoinSet::new();
        let (cut, all) = (next.clone(), open.clone());
        accepting.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *cut.lock().unwrap() != Cut::Always {
                    let server = TcpStream::connect(&server).await.unwrap();
                    all.lock().unwrap().spawn(carry(client, server, cut.clone()));
                }
            }
        });
        Proxy { url, next, open, _accepting: accepting }
    }

    pub(crate) fn cuts(&self, cut: Cut) {
        *self.next.lock().unwrap() = cut;
        if cut == Cut::Always {
            self.open.lock().unwrap().abort_all();
        }
    }

    /// Whether what was asked for has happened.
    pub(crate) fn has_cut(&self) -> bool {
        *self.next.lock().unwrap() == Cut::Never
    }
}

fn take(next: &Next, wanted: impl Fn(Cut) -> bool) -> Option<Cut> {
    let mut next = next.lock().unwrap();
    let cut = Some(*next).filter(|cut| wanted(*cut));
    if cut.is_some() {
        *next = Cut::Never;
    }
    cut
}

async fn carry(client: TcpStream, server: TcpStream, next: Next) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let mut answers = JoinSet::new();
    let cut = next.clone();
    answers.spawn(async move {
        let (mut bytes, mut carried) = (vec![0; 16 << 10], 0);
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            carried = if matches!(*cut.lock().unwrap(), Cut::Answer(_)) { carried + count } else { 0 };
            let long = |cut| matches!(cut, Cut::Answer(most) if carried >= most);
            if take(&cut, long).is_some() || to_client.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    let (mut bytes, mut writes) = (vec![0; 64 << 10], false);
    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
        let sent = &bytes[..count];
        let says = |text: &[u8]| sent.windows(text.len()).any(|there| there == text);
        // A sequencer commits, too: it is the writer's that is meant. Its statements are told once for each connection.
        writes |= says(b"INSERT INTO commits");
        let commits = writes && says(b"COMMIT");
        let at_commit = |cut| commits && matches!(cut, Cut::BeforeCommit | Cut::AfterCommit | Cut::LateCommit(_));
        let Some(cut) = take(&next, at_commit) else {
            if to_server.write_all(sent).await.is_err() {
                return;
            }
            continue;
        };
        // What the server answers from here on reaches nobody.
        answers.shutdown().await;
        if let Cut::LateCommit(wait) = cut {
            drop(from_client);
            tokio::time::sleep(wait).await;
        }
        if cut != Cut::BeforeCommit {
            to_server.write_all(sent).await.unwrap();
            to_server.as_ref().readable().await.unwrap();
        }
        return;
    }
}
