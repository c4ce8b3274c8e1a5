//! The agent beside each PostgreSQL server.
//!
//! **Invariant:** the agent never decides what comes next; it carries out typed
//! commands that its local policy allows, and looks before every act.

pub mod agent;
pub mod migration;
pub mod names;
pub mod postgres;
pub mod step;
