//! How far the source's standbys have fallen behind. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Positions that are remembered. A lag beyond them cannot be measured.
const REMEMBERED: usize = 900;

/// A standby, as the source's server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standby {
    /// Its `application_name`, or its address.
    pub(super) name: String,
    /// Its replay position, in bytes of WAL.
    pub(super) replayed: i64,
    /// Its lag, as the server reports it.
    pub(super) reported_lag: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) name: String,
    /// How far it is behind, beyond what it was at first.
    pub(super) lag: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Standbys {
    /// The source's write positions, and when each was seen.
    written: VecDeque<(Instant, i64)>,
    /// The lag of each when it was first seen.
    at_first: BTreeMap<String, Duration>,
}

impl Standbys {
    /// Takes a look into account: the source has written up to `position`. Returns the standby that has
    /// fallen behind the most.
    pub(super) fn observe(&mut self, now: Instant, position: i64, standbys: &[Standby]) -> Option<Behind> {
        self.written.push_back((now, position));
        if self.written.len() > REMEMBERED {
            self.written.pop_front();
        }
        let lag = |standby: &Standby| {
            let missing = self.written.partition_point(|(_, position)| *position <= standby.replayed);
            self.written.get(missing).map_or(Duration::ZERO, |(since, _)| now.duration_since(*since))
        };
        let lags: Vec<_> = standbys.iter().map(|standby| (standby, lag(standby))).collect();
        lags.into_iter()
            .map(|(standby, lag)| {
                let at_first = self.at_first.entry(standby.name.clone()).or_insert(standby.reported_lag);
                Behind { name: standby.name.clone(), lag: lag.saturating_sub(*at_first) }
            })
            .max_by_key(|behind| behind.lag)
    }
}

#[cfg(test)]
mod tests {
    use pgportage_link::Clock;

    use super::*;

    fn standby(name: &str, replayed: i64, reported: u64) -> Standby {
        Standby { name: name.to_owned(), replayed, reported_lag: Duration::from_secs(reported) }
    }

    /// A source that writes 100 bytes a second, for a minute.
    fn minute(standbys: impl Fn(i64) -> Vec<Standby>) -> Vec<(String, u64)> {
        let (begun, mut seen) = (Clock.now(), Standbys::default());
        (0..60)
            .filter_map(|second| {
                let now = begun + Duration::from_secs(second);
                let second = i64::try_from(second).unwrap();
                seen.observe(now, second * 100, &standbys(second))
            })
            .map(|behind| (behind.name, behind.lag.as_secs()))
            .collect()
    }

    #[test]
    fn one_that_follows_is_not_behind() {
        assert!(minute(|_| Vec::new()).is_empty());
        assert!(minute(|second| vec![standby("a", second * 100, 0)]).iter().all(|(_, lag)| *lag == 0));
        // A standby that reports each second the position of a second ago.
        assert!(minute(|second| vec![standby("a", (second - 1) * 100, 0)]).iter().all(|(_, lag)| *lag <= 1));
    }

    #[test]
    fn one_that_stands_still_is_behind_by_the_time_since() {
        // It replays nothing after second 10; the server's figure stands still too.
        let seen = minute(|second| vec![standby("still", second.min(10) * 100, 0), standby("good", second * 100, 0)]);
        assert_eq!(seen[59], ("still".to_owned(), 48), "what was written in second 11 is missing");
        assert_eq!(seen[20].1, 9);
    }

    #[test]
    fn one_that_was_behind_already_is_held_against_nobody() {
        // Delayed on purpose by an hour: it has not reached what was written since.
        assert!(minute(|_| vec![standby("delayed", -360_000, 3_600)]).iter().all(|(_, lag)| *lag == 0));
        // Delayed by ten seconds; then it stands still.
        let seen = minute(|_| vec![standby("slow", -1_000, 10)]);
        assert_eq!((seen[10].1, seen[59].1), (0, 49));
    }

    #[test]
    fn nothing_is_remembered_for_ever() {
        let (begun, mut seen) = (Clock.now(), Standbys::default());
        for second in 0..10_000 {
            seen.observe(begun + Duration::from_secs(second), i64::try_from(second).unwrap(), &[standby("a", -1, 0)]);
        }
        assert_eq!(seen.written.len(), REMEMBERED);
    }
}
