//! The coordinator: decides, journals, commands.
//!
//! Read [`workflow`] first: one table says what a migration is. The engine
//! carries plans out; the store keeps every fact; the services are the front.
//!
//! **Invariant:** the coordinator sees names, numbers and hashes. Never a row,
//! never a definition, never a password, never a connection string.

pub mod store;
pub mod workflow;
