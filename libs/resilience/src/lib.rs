//! What keeps a slow or broken neighbour from taking this process with it.
//!
//! [`deadline`] bounds every call by the time its caller still has; [`backoff`] spaces what is tried again.

pub mod backoff;
pub mod deadline;
