//! The link's two ends: two agents in this process, each beside a real server,
//! talking over real mutual TLS.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod access;
mod schema;
mod tunnel;
mod world;
