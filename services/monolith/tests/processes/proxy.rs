//! A way to a server that can be missing, opened and closed.
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::service::free_port;

/// Nothing listens there until it is opened.
pub struct Proxy {
    pub port: u16,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A closed way to HOST:PORT.
    pub fn to(server: &str) -> Proxy {
        Proxy { port: free_port(), to: server.parse().unwrap(), open: None }
    }

    pub async fn open(&mut self) {
        let (listener, to) = (TcpListener::bind(("127.0.0.1", self.port)).await.unwrap(), self.to);
        self.open = Some(tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                ways.spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(to).await {
                        let _ = copy_bidirectional(&mut from, &mut there).await;
                    }
                });
            }
        }));
    }

    /// Cuts off whoever is on the way, and lets nobody on.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}
