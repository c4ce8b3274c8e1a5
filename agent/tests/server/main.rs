//! The agent beside real servers: what it reads of them, what it does to them, and
//! two of them with the link between them in one process.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;
mod world;

mod acts;
mod catalog;
mod cutover;
mod door;
mod inspect;
mod peer;
mod pooler;
mod watch;
