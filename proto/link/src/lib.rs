//! How two ends speak: identity, mutual TLS, dialling, serving, authorisation,
//! failures, telemetry and settings.

pub mod clock;
pub mod fail_point;
pub mod failure;

pub use clock::Clock;
pub use failure::{Effect, Failure, Remedy};
