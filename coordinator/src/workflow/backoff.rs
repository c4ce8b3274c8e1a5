//! How long to wait before the next attempt.

use std::time::Duration;

/// Pause before the first repeated attempt.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause: an operator who has mended the cause sees it go on within
/// this time.
const LONGEST: Duration = Duration::from_secs(15);

/// The pause after `failures` failed attempts in a row. Zero after none.
///
/// Doubles each time. The engine spreads it, so that a fleet does not come back
/// in step.
pub(crate) fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => FIRST.saturating_mul(1_u32.checked_shl((failures - 1).min(16)).unwrap_or(u32::MAX)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_limit() {
        let pauses: Vec<_> = (0..10).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [0, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }
}
