//! What is shown of products and stock: through the cache that replicas share.
//!
//! A value is the state of a stream at a version, as JSON. The cache learns of changes when they are durable, and of another
//! replica's by whoever reads the store next; nobody shows anything for longer than [`TRUSTED`] after that.
use std::sync::Arc;

use bytes::Bytes;
use cache::Cache;
use cache::read_through::ReadThrough;
use decider::Decider;
use futures::FutureExt;
use host::Process;
use host::tasks::Tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::folded::{self, Folded};
use store::hot::{self, SNAPSHOT_EVERY};
use store::{ReadError, Store, StreamId, Version};

use crate::shelves::TRUSTED;

/// Before each key, with the number of the form in which values are kept.
const FORM: &str = "1:";

/// The way to look without deciding.
#[derive(Clone)]
pub(crate) struct Window {
    store: Arc<dyn Store>,
    through: ReadThrough,
}

/// A state that a commit leads to.
pub(crate) struct Written {
    key: String,
    version: Version,
    value: Bytes,
}

impl Written {
    pub(crate) fn of<D: Serialize>(stream: &StreamId, after: &Folded<D>) -> Written {
        Written { key: key(stream), version: after.version, value: encode(after) }
    }
}

impl Window {
    pub(crate) fn new(process: &Process, store: Arc<dyn Store>, cache: Arc<dyn Cache>) -> Window {
        // Replicas that get old at one moment would all ask the store at that moment. So each finds a value old a little
        // earlier than another: the earliest asks, and the others find what it has brought.
        let earlier = u32::from(process.ids.next().as_bytes()[15]);
        let fresh = TRUSTED - TRUSTED / 2 * earlier / 256;
        Window { store, through: ReadThrough::new(&process.metrics, cache, fresh) }
    }

    /// The state of a stream, at most [`TRUSTED`] behind, or as it was while the store is away. What is `expected` to be there is
    /// kept even if it is not.
    pub(crate) async fn show<D>(&self, stream: &StreamId, expected: bool) -> Result<Folded<D>, ReadError>
    where
        D: Decider + Serialize + DeserializeOwned + Send + 'static,
        D::Event: DeserializeOwned,
    {
        let (store, of) = (self.store.clone(), stream.clone());
        let load = move |known: Option<cache::Kept>| {
            let load = async move {
                let known = known.and_then(|kept| decode(kept.version, &kept.value));
                let folded: Folded<D> = load(store.as_ref(), &of, known).await?;
                Ok((expected || folded.version > 0).then(|| (folded.version, encode(&folded))))
            };
            load.boxed()
        };
        match self.through.read(&key(stream), load).await? {
            None => Ok(Folded::default()),
            Some(kept) => match decode(kept.version, &kept.value) {
                Some(folded) => Ok(folded),
                // Somebody else's, under our key.
                None => hot::load(self.store.as_ref(), stream).await,
            },
        }
    }

    /// Tells of what is durable now; nobody waits for it.
    pub(crate) fn wrote(&self, tasks: &Tasks, written: Vec<Written>) {
        for Written { key, version, value } in written {
            tasks.spawn(self.through.wrote(key, version, value));
        }
    }
}

/// The present state, from what is known of it: mostly it has not changed, or not by much.
async fn load<D>(store: &dyn Store, stream: &StreamId, known: Option<Folded<D>>) -> Result<Folded<D>, ReadError>
where
    D: Decider + DeserializeOwned,
    D::Event: DeserializeOwned,
{
    let version = store.version(stream).await?;
    match known {
        Some(known) if known.version == version => Ok(known),
        Some(known) if known.version < version && version - known.version < SNAPSHOT_EVERY => {
            folded::load_from(store, stream, known).await
        }
        _ => hot::load(store, stream).await,
    }
}

fn key(stream: &StreamId) -> String {
    format!("{FORM}{stream}")
}

fn encode<D: Serialize>(folded: &Folded<D>) -> Bytes {
    serde_json::to_vec(&folded.state).expect("a state is plain data").into()
}

fn decode<D: DeserializeOwned>(version: Version, value: &Bytes) -> Option<Folded<D>> {
    Some(Folded { state: serde_json::from_slice(value).ok()?, version })
}
