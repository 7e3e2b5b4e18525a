//! A store that is another one, but for a few methods: for tests that kill, lie or forget.
use std::time::Duration;

use async_trait::async_trait;
use clock::Timestamp;
use futures::future::BoxFuture;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Commit, CommitError, CommitId, Position, ReadError, Recorded, Snapshot, Store, StreamId, Version, Versions,
};

/// What is different from the store within. What is not said is as there.
#[async_trait]
#[expect(missing_docs, reason = "they are those of the store")]
pub trait Wrapping: Send + Sync + 'static {
    /// The store within.
    fn inner(&self) -> &dyn Store;

    /// Asked before and after everything that is read: it may take its time, fail, or never come back.
    async fn reading(&self) -> Result<(), ReadError> {
        Ok(())
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        self.inner().commit(commit)
    }

    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner().load(stream, after, limit).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner().read_all(after, limit).await
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.inner().mark(name).await
    }
}

/// The store that a [`Wrapping`] makes.
#[derive(Debug)]
pub struct Wrapped<W>(pub W);

#[async_trait]
impl<W: Wrapping> Store for Wrapped<W> {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.0.reading().await?;
        let read = self.0.load(stream, after, limit).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().version(stream).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().streams(prefix, after, limit).await?;
        self.0.reading().await?;
        Ok(read)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        self.0.commit(commit)
    }

    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().reply(id).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.0.reading().await?;
        let read = self.0.read_all(after, limit).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn end(&self) -> Result<Position, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().end().await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().claim_due(lease, limit).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().lease(name, holder, length).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn armed(&self) -> Result<u64, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().armed().await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().timers(after, limit).await?;
        self.0.reading().await?;
        Ok(read)
    }

    fn growth(&self) -> watch::Receiver<()> {
        self.0.inner().growth()
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.0.reading().await?;
        let read = self.0.mark(name).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().snapshot(stream).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().keep_snapshot(stream, snapshot).await?;
        self.0.reading().await?;
        Ok(read)
    }

    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.0.reading().await?;
        let read = self.0.inner().drop_snapshots().await?;
        self.0.reading().await?;
        Ok(read)
    }
}
