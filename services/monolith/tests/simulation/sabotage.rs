//! Guarantees taken away, one at a time, at the port that they stand behind.
use std::sync::Arc;

use host::Process;
use host::transport::Transport;
use messaging::Bus;
use payment::payment::Charge;
use store::Store;

use crate::world::World;

/// A guarantee that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {}

impl Sabotage {
    pub fn store(self, store: Arc<dyn Store>, _name: &str, _world: &World, _host: &str) -> Arc<dyn Store> {
        store
    }

    pub fn bus(self, bus: Arc<dyn Bus>, _process: &Process) -> Arc<dyn Bus> {
        bus
    }

    pub fn way(self, way: Transport) -> Transport {
        way
    }

    pub fn charge(self, charge: &Charge, _process: &Process) -> Charge {
        charge.clone()
    }
}
