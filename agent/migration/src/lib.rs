//! A migration as one agent sees it: the agent's part in it, what survives a crash, and what is ours on a
//! server.
//!
//! **Invariant:** what is durable is written and read here, in the journal and in the ledger. Both know
//! nothing of the acts that write to them.

pub mod journal;
pub mod ledger;
pub mod names;
mod participation;
pub mod stream;
pub mod switchover;

pub use participation::Participation;
