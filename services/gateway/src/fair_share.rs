//! Places that customers share: one who takes many leaves some for the others. PURE.
//!
//! # Problem
//! A limit for all lets one customer's requests use up what everybody needs; a fixed limit for each is too small when the
//! others are quiet, and adds up to too much when they are not.
//!
//! # Pattern
//! Dynamic threshold (Choudhury and Hahne, 1998, for buffers of switches): whoever asks may hold as many as are free.
//!
//! # Here
//! [`FairShare::take`] refuses whoever holds at least as many places as are free. One customer alone gets half of them, two get
//! a third each; there is always a place for a customer who has none, until about as many customers as there are places
//! have one.
//!
//! # Limits
//! Customers are told apart by the name that they give. Who already holds places keeps them when others come.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places that are shared.
#[derive(Debug)]
pub(crate) struct FairShare {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: BTreeMap<Arc<str>, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    places: Arc<FairShare>,
    by: Arc<str>,
}

impl FairShare {
    pub(crate) fn of(limit: usize) -> Arc<FairShare> {
        Arc::new(FairShare { limit, taken: Mutex::default() })
    }

    /// A place for somebody, if there is one that others do not need more.
    pub(crate) fn take(self: &Arc<Self>, by: &Arc<str>) -> Option<Share> {
        let mut taken = self.lock();
        let free = self.limit.saturating_sub(taken.all);
        if taken.by.get(by).copied().unwrap_or_default() >= free {
            return None;
        }
        taken.all += 1;
        *taken.by.entry(by.clone()).or_default() += 1;
        Some(Share { places: self.clone(), by: by.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(count) = taken.by.get_mut(&self.by) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(places: &Arc<FairShare>, by: &str) -> Vec<Share> {
        std::iter::from_fn(|| places.take(&by.into())).collect()
    }

    #[test]
    fn one_customer_gets_half_and_the_next_half_of_what_is_left() {
        let places = FairShare::of(12);
        let one = take_all(&places, "one");
        assert_eq!(one.len(), 6);
        let two = take_all(&places, "two");
        assert_eq!((two.len(), take_all(&places, "three").len()), (3, 2));
        drop(one);
        assert_eq!(take_all(&places, "two").len(), 3, "half of all, now that it is alone");
        drop(two);
        assert!(places.lock().by.is_empty() && places.lock().all == 0, "all is given back");
    }

    #[test]
    fn no_more_than_all_are_taken() {
        let places = FairShare::of(5);
        let all: Vec<_> = (0..9).filter_map(|n| places.take(&format!("customer {n}").into())).collect();
        assert_eq!(all.len(), 5);
    }
}
