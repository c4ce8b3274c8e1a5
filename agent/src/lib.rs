//! The agent beside each PostgreSQL server.
//!
//! **Invariant:** the agent never decides what comes next; it carries out typed
//! commands that its local policy allows, and looks before every act.

pub mod arguments;
pub mod command;
pub mod comparison;
pub mod daemon;
pub mod drift;
pub mod figures;
pub mod heartbeat;
pub mod hook;
pub mod journal;
pub mod ledger;
pub mod link_service;
pub mod local;
mod message;
pub mod metrics;
pub mod migration;
pub mod names;
pub mod peer;
pub mod policy;
pub mod pooler;
pub mod postgres;
mod program;
pub mod protection;
mod reports;
pub mod role;
pub mod runner;
pub mod session;
pub mod settings;
pub mod situation;
pub mod slot;
pub mod snapshot;
pub mod statistics;
pub mod step;
pub mod stream;
pub mod tunnel;
pub mod watch;
pub mod wire;
