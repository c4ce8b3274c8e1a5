//! The agent beside each PostgreSQL server.
//!
//! **Invariant:** the agent never decides what comes next; it carries out typed
//! commands that its local policy allows, and looks before every act.

pub mod arguments;
pub mod command;
pub mod daemon;
pub mod hook;
pub mod link_service;
pub mod local;
mod message;
pub mod metrics;
pub mod policy;
pub mod pooler;
mod program;
pub mod protection;
mod reports;
pub mod runner;
pub mod session;
pub mod settings;
pub mod situation;
pub mod step;
pub mod watch;
pub mod wire;
