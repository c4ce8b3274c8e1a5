//! How two ends speak: identity, mutual TLS, dialling, serving, authorisation,
//! failures, telemetry and settings.
//!
//! A process that serves is put together in this order: [`settings::load`],
//! [`telemetry::init`], [`tls::Identity::load`], [`serve::bind`],
//! [`serve::serve`], [`notify::ready`].

pub mod authorise;
pub mod clock;
pub mod dial;
pub mod fail_point;
pub mod failure;
pub mod haste;
pub mod health;
pub mod http2;
pub mod identity;
pub mod issue;
pub mod metrics;
pub mod notify;
pub mod program;
pub mod relay;
pub mod serve;
pub mod settings;
pub mod status;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod transport;

pub use clock::Clock;
pub use failure::{Effect, Failure, Remedy};
pub use haste::Haste;
pub use tasks::Tasks;
