//! The network of the simulation, as the product's servers and clients see it.
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use host::http_server;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use crate::faults::{Class, Faults};

/// The port of every simulated server.
pub const PORT: u16 = 80;
/// A connection is reset at one in so many reads of something.
const RESETS: u64 = 1_200;

/// A connection.
pub struct Io {
    stream: turmoil::net::TcpStream,
    faults: Faults,
    place: String,
    broken: bool,
}

impl Io {
    fn reset() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "the connection was reset")
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(Io::reset()));
        }
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_ready() && self.faults.strikes(Class::Reset, &self.place, RESETS).is_some() {
            self.broken = true;
            return Poll::Ready(Err(Io::reset()));
        }
        outcome
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(Io::reset()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Accepts connections on the host that it was made on.
pub struct Listener {
    listener: turmoil::net::TcpListener,
    faults: Faults,
    place: String,
}

impl Listener {
    /// Listens on this host, which is named in faults as `place`.
    ///
    /// # Errors
    /// If something listens already.
    pub async fn bind(faults: &Faults, place: &str) -> io::Result<Listener> {
        let listener = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        Ok(Listener { listener, faults: faults.clone(), place: place.to_owned() })
    }
}

impl http_server::Listener for Listener {
    type Io = Io;

    async fn accept(&mut self) -> io::Result<Io> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Io { stream, faults: self.faults.clone(), place: self.place.clone(), broken: false })
    }
}

/// Connects from the host that it is used on.
#[derive(Clone)]
pub struct Connector {
    faults: Faults,
    place: String,
}

impl Connector {
    /// For a host that is named in faults as `place`.
    #[must_use]
    pub fn new(faults: &Faults, place: &str) -> Connector {
        Connector { faults: faults.clone(), place: place.to_owned() }
    }

    /// A connection to a host by its name.
    ///
    /// # Errors
    /// If it does not listen, or is cut off.
    pub async fn connect(&self, host: &str) -> io::Result<Io> {
        let stream = turmoil::net::TcpStream::connect((host, PORT)).await?;
        Ok(Io { stream, faults: self.faults.clone(), place: self.place.clone(), broken: false })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Io>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let (connector, host) = (self.clone(), target.host().unwrap_or_default().to_owned());
        Box::pin(async move { connector.connect(&host).await.map(TokioIo::new) })
    }
}
