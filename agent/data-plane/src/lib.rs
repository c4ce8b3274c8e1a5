//! What moves rows and says how far they are: the slot and its snapshot, the link's caller, the tunnel,
//! comparisons, the heartbeat.
//!
//! **Invariant:** the data plane does not need the coordinator, and cannot name it: no command, no session
//! and no policy is known here. The layers above give it addresses, roles and limits.

pub mod comparison;
pub mod drift;
pub mod figures;
pub mod heartbeat;
pub mod peer;
pub mod role;
pub mod slot;
pub mod snapshot;
pub mod statistics;
pub mod tunnel;
