//! Waiting for a condition with a deadline, never for a length of time.

use std::time::Duration;

use anyhow::{Result, bail};
use pgportage_link::Clock;

/// What one look at a condition saw.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition holds.
    Done(T),
    /// Not yet; the text says what was seen instead.
    NotYet(String),
}

/// Pause between two looks: short beside everything that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause between two looks that start a program, which takes a good part of a core.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// Looks until the condition holds.
///
/// Safe to drop at any time.
///
/// # Errors
///
/// When `limit` has passed; the error names `what` and the last state seen.
/// An error of `look` ends the wait at once.
pub async fn until<T>(what: &str, limit: Duration, look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    look_again(what, limit, PAUSE, look).await
}

/// As [`until`], for looks that are dear: those of the operator's program.
pub async fn until_told<T>(what: &str, limit: Duration, look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    look_again(what, limit, LONG_PAUSE, look).await
}

async fn look_again<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let deadline = Clock.now() + limit;
    loop {
        match look().await? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(last) if Clock.now() >= deadline => {
                bail!("waited {limit:?} for {what}; last seen: {last}")
            }
            Seen::NotYet(_) => Clock.sleep(pause).await,
        }
    }
}
