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
mod explain;
pub mod fail_points;
mod figures;
mod fleet;
mod message;
mod metrics;
mod relay;
mod service;
pub mod settings;
mod store;
mod wire;
mod workflow;
