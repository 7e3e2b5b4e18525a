//! Measures how old the oldest event is that is not published.
//!
//! # Problem
//! A relay that only reports on what it publishes itself says that all is well while it publishes nothing: when it waits for another
//! replica that hangs, or fails before it reads the log.
//!
//! # Pattern
//! Measure the backlog where it is, not where it is worked on.
//!
//! # Here
//! Every replica compares the log with the mark of the topic, whether it holds the lease or not. The holder's cursor is ahead of the
//! mark and is taken into account by its own replica, until somebody sets the mark back to have the log published again: from there
//! on it counts only once it has moved.
//!
//! # Limits
//! The figure is up to [`EVERY`] old, and up to [`AT_REST`] where a mark was set back and the log does not grow. A replica without the lease may count what was published in the last [`KEEP_EVERY`].
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host::Process;
use prometheus::Gauge;
use store::{Position, ReadError, Store};
use tokio::time::{sleep, timeout};

#[cfg(doc)]
use crate::relay::KEEP_EVERY;
use crate::relay::{EVERY, Public, Publicity};

/// How long nothing is measured where nothing is unpublished and the log does not grow.
const AT_REST: Duration = Duration::from_secs(60);
/// So many events are read at once.
const PAGE: usize = 100;

pub(crate) struct Unsent {
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) publicity: Publicity,
    /// The name of the mark up to which everything is published.
    pub(crate) mark: String,
    pub(crate) age: Gauge,
    /// How far the relay of this replica has published.
    pub(crate) published: Arc<AtomicU64>,
    pub(crate) looked: Looked,
}

/// What the last look found.
#[derive(Default)]
pub(crate) struct Looked {
    /// Where the mark was.
    marked: Position,
    /// Where the relay was when the mark was set back: it does not know that yet.
    outdated: Option<Position>,
    /// Up to here it was published, by mark or relay.
    published: Position,
    /// Up to here everything is published or private.
    passed: Position,
}

impl Looked {
    /// Takes in where mark and relay are now.
    fn at(&mut self, marked: Position, relay: Position) {
        if marked < self.marked {
            self.outdated = Some(relay);
        }
        self.outdated = self.outdated.filter(|outdated| *outdated == relay);
        let published = if self.outdated.is_some() { marked } else { marked.max(relay) };
        let from = if published < self.published { 0 } else { self.passed };
        *self = Looked { marked, published, passed: from.max(published), ..*self };
    }
}

impl Unsent {
    /// Measures until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut growth = self.store.growth();
        loop {
            growth.borrow_and_update();
            let age = self.oldest().await;
            // An age that cannot be told is not zero.
            self.age.set(age.as_ref().map_or(f64::NAN, Duration::as_secs_f64));
            if age.is_ok_and(|age| age.is_zero()) {
                // Either ends the wait.
                let _ = timeout(AT_REST, growth.changed()).await;
            }
            sleep(EVERY).await;
        }
    }

    /// The age of the oldest event that others may know and that is not published; zero if there is none.
    async fn oldest(&mut self) -> Result<Duration, ReadError> {
        let marked = self.store.mark(&self.mark).await?;
        self.looked.at(marked, self.published.load(Ordering::Relaxed));
        let passed = &mut self.looked.passed;
        loop {
            let page = self.store.read_all(*passed, PAGE).await?;
            for event in &page {
                // One that cannot be read is not published either.
                if !matches!((self.publicity)(event), Ok(Public::Nothing)) {
                    return Ok(self.process.clock.now().since(event.timestamp));
                }
                *passed = event.position.unwrap_or(*passed);
            }
            if page.len() < PAGE {
                return Ok(Duration::ZERO);
            }
        }
    }
}
