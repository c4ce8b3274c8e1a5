//! What needs no migration: the workload's own tests, and files that the programs
//! are to accept.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod claims;
mod documents;
mod examples;
mod upgrade;
mod workload;
