//! Who has which lease, where one process has the store to itself.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clock::Timestamp;
use uuid::Uuid;

/// Holders of leases, each until when. As many as there are names in the program.
#[derive(Default)]
pub(crate) struct Leases(Mutex<BTreeMap<String, (Uuid, Timestamp)>>);

impl Leases {
    pub(crate) fn take(&self, name: &str, holder: Uuid, now: Timestamp, length: Duration) -> bool {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = leases.get(name).is_some_and(|(other, until)| *other != holder && now < *until);
        if !taken {
            leases.insert(name.to_owned(), (holder, now.after(length)));
        }
        !taken
    }
}
