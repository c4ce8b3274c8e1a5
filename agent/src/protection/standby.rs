//! How far the source's standbys have fallen behind. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Positions that are remembered. The lag of a standby is not known to be longer
/// than they reach back.
const REMEMBERED: usize = 900;

/// A standby, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standby {
    /// Its `application_name`, or where it is.
    pub(super) name: String,
    /// Up to where it has replayed, in bytes of WAL.
    pub(super) replayed: i64,
    /// How far it is behind, as the server says.
    pub(super) reported_lag: Duration,
}

/// A standby that has fallen behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// Which.
    pub(super) name: String,
    /// By how much, beyond what it was behind at first.
    pub(super) lag: Duration,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    /// Where the source had written to, and when.
    written: VecDeque<(Instant, i64)>,
    /// How far each was behind when it was first seen.
    at_first: BTreeMap<String, Duration>,
}

impl Standbys {
    /// Takes a look into account: the source has written up to `position`. Tells
    /// which standby has fallen behind the most.
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
        // As one does that reports each second what it had a second ago.
        assert!(minute(|second| vec![standby("a", (second - 1) * 100, 0)]).iter().all(|(_, lag)| *lag <= 1));
    }

    #[test]
    fn one_that_stands_still_is_behind_by_the_time_since() {
        // It replays no more after second 10; the server's figure stands still too.
        let seen = minute(|second| vec![standby("still", second.min(10) * 100, 0), standby("good", second * 100, 0)]);
        assert_eq!(seen[59], ("still".to_owned(), 48), "what was written in second 11 is missing");
        assert_eq!(seen[20].1, 9);
    }

    #[test]
    fn one_that_was_behind_already_is_held_against_nobody() {
        // Delayed on purpose by an hour: what we wrote has not come up yet.
        assert!(minute(|_| vec![standby("delayed", -360_000, 3_600)]).iter().all(|(_, lag)| *lag == 0));
        // By ten seconds, and then it stands still.
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
