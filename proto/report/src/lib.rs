//! What agents tell of servers and of their work: once, for the agent that says it, the
//! coordinator that decides and stores by it, and the CLI that shows it.
//!
//! Each type stands beside its codec. **Invariant:** a serde form here is stored by the
//! coordinator or printed by the CLI's `--json`, as its type says, and never changes.

pub mod comparison;
pub mod digest;
pub mod drift;
pub mod finding;
pub mod forecast;
pub mod inventory;
pub mod progress;
pub mod quantity;
pub mod role;
pub mod situation;

pub use digest::Digest;
