use crate::harness::World;
