//! Two real ends of a connection: who gets in, who does not, and what is told of
//! it.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod handshake;
mod telemetry;
