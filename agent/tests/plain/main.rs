//! The agent without a server: its files, its journal, and the agent against a
//! coordinator that says what the test tells it to.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod script;

mod examples;
mod journal;
mod layers;
mod policy;
mod session;
mod upgrade;
