//! Work of a service that must outlive the request that asked for it, and the drain at the end.
//!
//! A request's future is dropped when its caller leaves or its time is up. What a use case does between its commit and its
//! last effect must not be dropped with it, so use cases run here.
use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::Instrument;

use crate::error::Refusal;

/// The tasks of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `work` to its end, whether or not anybody waits for it.
    #[expect(clippy::disallowed_methods, reason = "this is what everybody else uses instead")]
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        // A use case is a state of some kilobytes, which each layer would move, and tokio again at its end.
        tokio::spawn(self.tracker.track_future(Box::pin(work).in_current_span()))
    }

    /// Runs a use case to its end and waits for its outcome; the caller may leave at any moment.
    ///
    /// # Errors
    /// What the use case answers, or INTERNAL if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        match self.spawn(work).await {
            Ok(outcome) => outcome,
            Err(broken) => {
                tracing::error!(why = %broken, "a use case broke");
                Err(Refusal::new(Code::Internal, "internal", "something is wrong in the shop; it was logged"))
            }
        }
    }

    /// Runs `work` until the process stops. For loops, which have no end of their own.
    pub fn spawn_until_stop(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// How many run: loops, connections, and work that has not come to its end.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Resolves when the process begins to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the process has begun to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends loops, waits up to `patience` for the rest, and tells whether all came to its end.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// RT-4: a caller that leaves takes nothing with it.
    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_does_not_stop_the_work() {
        let (tasks, done) = (Tasks::default(), Arc::new(AtomicBool::new(false)));
        let seen = done.clone();
        let work = tasks.run(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            seen.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), work).await.is_err(), "the caller left");
        assert!(tasks.drain(Duration::from_secs(10)).await);
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_loops_and_tells_what_it_could_not_wait_for() {
        let tasks = Tasks::default();
        tasks.spawn_until_stop(std::future::pending());
        assert_eq!(tasks.count(), 1);
        assert!(tasks.drain(Duration::from_secs(1)).await);
        tasks.spawn(std::future::pending::<()>());
        assert!(!tasks.drain(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_nothing_more() {
        let broken = Tasks::default().run::<()>(async { panic!("a bug") }).await;
        assert_eq!(broken.unwrap_err().code, Code::Internal);
    }
}
