//! The only module that reads a clock.
//!
//! Everything else is handed a [`Clock`], so that a reader can see what depends
//! on time, and a test can stop it (`tokio::time::pause`).

use std::future::Future;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Reads the machine's clocks and waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

/// The wait was longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
impl Clock {
    /// The monotonic clock. Every limit and deadline is measured on it.
    pub fn now(self) -> Instant {
        Instant::now()
    }

    /// The wall clock: for records that people read, never for decisions.
    pub fn wall(self) -> SystemTime {
        SystemTime::now()
    }

    /// Waits. Dropping the future ends the wait.
    pub async fn sleep(self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until a moment of the monotonic clock.
    pub async fn sleep_until(self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }

    /// Drives a future for at most `limit`, then drops it.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when the limit passed first.
    pub async fn timeout<F: Future>(self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
    }
}
