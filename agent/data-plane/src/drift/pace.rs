//! How often the schemas are compared.

use std::time::Duration;

/// Time between two looks, while a look costs next to nothing.
pub(super) const INTERVAL: Duration = Duration::from_secs(3);
/// The longest time between two looks, whatever they cost.
const LONGEST: Duration = Duration::from_secs(60);
/// A look may take this share of the time at most: one part in so many.
const SHARE: u32 = 50;

/// Makes the pauses longer where looks are expensive.
#[derive(Debug, Default)]
pub(super) struct Pace {
    longest_look: Duration,
}

impl Pace {
    /// The pause after a look that took so long. The effect of one long look fades slowly.
    pub(super) fn after(&mut self, took: Duration) -> Duration {
        self.longest_look = took.max(self.longest_look / 2);
        self.longest_look.saturating_mul(SHARE).clamp(INTERVAL, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dear_look_is_rare_and_one_long_one_is_forgotten() {
        let mut pace = Pace::default();
        assert_eq!(pace.after(Duration::from_millis(10)), INTERVAL);
        assert_eq!(pace.after(Duration::from_secs(30)), LONGEST);
        let pauses: Vec<_> = (0..12).map(|_| pace.after(Duration::from_millis(10))).collect();
        assert!(pauses.is_sorted_by(|earlier, later| earlier >= later), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&INTERVAL));
        assert_eq!(Pace::default().after(Duration::from_millis(200)), Duration::from_secs(10));
    }
}
