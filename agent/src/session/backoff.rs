//! The pauses before the agent dials again.

use std::time::Duration;

use rand::Rng;

/// Short: the agent finds a restarted coordinator again almost at once.
const FIRST: Duration = Duration::from_millis(200);
/// Long enough for ten thousand agents, short enough for one.
const LONGEST: Duration = Duration::from_secs(15);

/// Doubles from 0.2 s to 15 s. Each pause is shortened at random by up to a half, so that agents which lost
/// the same coordinator do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// Number of pauses since the last stable session.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn next(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(LONGEST);
        self.attempt = (self.attempt + 1).min(30);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_stays_there() {
        let mut backoff = Backoff::default();
        let first = backoff.next();
        assert!((FIRST / 2..=FIRST).contains(&first), "{first:?}");
        let waits: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[20..].iter().all(|wait| *wait >= LONGEST / 2), "{waits:?}");
    }
}
