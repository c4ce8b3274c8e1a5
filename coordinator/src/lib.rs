//! The coordinator: decides, journals, commands.
//!
//! Read [`workflow`] first: one table says what a migration is. The [`engine`]
//! carries plans out; the [`store`] keeps every fact; the [`fleet`] knows who is
//! attached; the services are the front.
//!
//! **Invariant:** the coordinator sees names, numbers and hashes. Never a row,
//! never a definition, never a password, never a connection string.

pub mod arguments;
pub mod daemon;
pub mod engine;
pub mod explain;
pub mod fail_points;
pub mod figures;
pub mod fleet;
mod message;
pub mod metrics;
pub mod relay;
pub mod service;
pub mod settings;
pub mod store;
pub mod wire;
pub mod workflow;
