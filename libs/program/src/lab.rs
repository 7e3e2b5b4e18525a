//! Settings of a laboratory: what a process is to lack or to break. They exist in builds with the feature `lab` only.
use std::sync::Arc;

use clap::{Args, ValueEnum};
use futures::future::BoxFuture;
use messaging::Without;
use store::wrapped::{Wrapped, Wrapping};
use store::{Commit, CommitError, CommitId, Store, Versions};

/// A guarantee that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guarantee {
    /// What was taken in before is not recognized.
    Inbox,
    /// What was committed before is not recognized.
    CommitIdCheck,
}

/// What is broken on purpose.
#[derive(Args, Clone, Debug, Default)]
pub struct Lab {
    /// Crash at a place in the code, such as `published`, or the n-th time the process comes by, such as `published:10`
    #[arg(long, env = "JANGTEO_FAULT", value_name = "POINT")]
    fault: Option<String>,

    /// Do without a guarantee
    #[arg(long, env = "JANGTEO_WITHOUT", value_name = "GUARANTEE")]
    without: Option<Guarantee>,
}

impl Lab {
    /// Arms what is to crash; what consumers lack.
    pub(crate) fn armed(&self) -> anyhow::Result<Option<Without>> {
        if let Some(fault) = self.fault.as_deref().filter(|fault| !fault.is_empty()) {
            lab::armed::arm(fault)?;
        }
        Ok((self.without == Some(Guarantee::Inbox)).then_some(Without::Inbox))
    }

    /// The store, or one that recognizes no commit.
    pub(crate) fn store(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if self.without != Some(Guarantee::CommitIdCheck) {
            return store;
        }
        Arc::new(Wrapped(Forgetful(store)))
    }
}

/// Gives every commit an id that was never there.
struct Forgetful(Arc<dyn Store>);

impl Wrapping for Forgetful {
    fn inner(&self) -> &dyn Store {
        self.0.as_ref()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        let fresh = clock::Ids::random(Arc::new(clock::SystemClock)).next();
        let id = CommitId::from(format!("{}#{fresh}", commit.id));
        self.0.commit(Commit { id, after: vec![], ..commit })
    }
}
