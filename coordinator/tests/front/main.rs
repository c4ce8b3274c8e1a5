//! The coordinator from outside: operators and scripted agents over real mutual
//! TLS, against the real engine and the real store.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something unexpected happens")]

mod drift;
mod examples;
mod explain;
mod house;
mod kill;
mod lag;
mod migration;
mod preflight;
mod rehearsal;
mod relay;
mod restart;
mod scripted;
mod session;
mod simulated;
