//! The agent beside each PostgreSQL server.
//!
//! **Invariant:** the agent never decides what comes next; it carries out typed commands that its local
//! policy allows, and looks before every act.
//!
//! Below this crate: `pgportage_postgres` (what knows PostgreSQL), `pgportage_migration` (the journal, the
//! ledger), `pgportage_data_plane` (what moves rows). Here, from the bottom: what the owner decides
//! ([`settings`], [`policy`]); poolers and hooks; the two guards of a source; the acts ([`act`]); and what
//! answers the coordinator and the other agents. [`daemon`] puts it together. `tests/plain/layers.rs` holds
//! which module may use which.

pub mod act;
pub mod arguments;
mod command;
pub mod daemon;
mod hook;
mod link_service;
pub mod local;
mod message;
pub mod metrics;
pub mod policy;
pub mod pooler;
mod program;
mod protection;
mod reports;
pub mod runner;
mod session;
pub mod settings;
pub mod situation;
mod switchover;
mod watch;
pub mod wire;
