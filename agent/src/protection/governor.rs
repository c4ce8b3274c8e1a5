//! Decides how many readers may read, from one look to the next. Pure.
//!
//! It works like a sender on a busy line: half of the readers when the source is under strain, one more
//! after every while in which it is well. A state between well and strained changes nothing, so that the
//! number does not swing.

use std::time::Duration;

use tokio::time::Instant;

use super::standby::Behind;

/// Looks under strain in a row before the number changes: one slow commit may be a checkpoint.
const STRAINED_LOOKS: u32 = 3;
/// How long to wait for the effect of a change before the next one.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the source has to be well before one more may read.
const RECOVERY: Duration = Duration::from_secs(10);

/// Above these limits the source is under strain; at half of them and below it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// How long a tiny commit may take.
    pub(super) commit_latency: Duration,
    /// How far a standby may fall behind while rows are read.
    pub(super) standby_lag: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// How long a tiny commit took. None if that is not known: then the source does not count as well.
    pub(super) commit_latency: Option<Duration>,
    /// The standby that has fallen behind the most.
    pub(super) standby: Option<Behind>,
}

#[derive(Debug)]
pub(super) struct Governor {
    limits: Limits,
    allowed: Option<usize>,
    cause: String,
    strained_looks: u32,
    well_since: Option<Instant>,
    changed_at: Option<Instant>,
}

impl Governor {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, allowed: None, cause: String::new(), strained_looks: 0, well_since: None, changed_at: None }
    }

    /// Number of readers that may read. None: all of them.
    pub(super) fn allowed(&self) -> Option<usize> {
        self.allowed
    }

    /// Why not all may read, as a clause for people. Empty while all may.
    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// Takes a look into account. `reading` is the number of readers at work, those that wait included.
    pub(super) fn observe(&mut self, now: Instant, sample: &Sample, reading: usize) {
        let settled = self.changed_at.is_none_or(|changed_at| now.duration_since(changed_at) >= SETTLE);
        if let Some(cause) = self.strain(sample) {
            self.well_since = None;
            self.strained_looks += 1;
            if self.strained_looks < STRAINED_LOOKS {
                return;
            }
            self.cause = cause;
            let allowed = (self.allowed.map_or(reading, |allowed| allowed.min(reading)) / 2).max(1);
            if settled && self.allowed.is_none_or(|before| allowed < before) {
                self.change(now, Some(allowed));
            }
            return;
        }
        self.strained_looks = 0;
        let Some(allowed) = self.allowed else { return };
        if !self.is_well(sample) {
            self.well_since = None;
            return;
        }
        let well_since = *self.well_since.get_or_insert(now);
        if now.duration_since(well_since) >= RECOVERY {
            // The while begins anew for the next reader.
            self.well_since = Some(now);
            self.change(now, Some(allowed + 1).filter(|allowed| *allowed < reading));
        }
    }

    fn change(&mut self, now: Instant, allowed: Option<usize>) {
        self.allowed = allowed;
        self.changed_at = Some(now);
        if allowed.is_none() {
            self.cause.clear();
        }
    }

    /// What strains the source, if it is under strain.
    fn strain(&self, sample: &Sample) -> Option<String> {
        let Limits { commit_latency, standby_lag } = self.limits;
        let commit = sample.commit_latency.filter(|latency| *latency > commit_latency).map(|latency| {
            format!("a commit on the source takes {}, the limit is {}", span(latency), span(commit_latency))
        });
        let standby = sample.standby.as_ref().filter(|behind| behind.lag > standby_lag).map(|behind| {
            let lag = span(Duration::from_secs(behind.lag.as_secs()));
            format!("standby {} has fallen behind by {lag}, the limit is {}", behind.name, span(standby_lag))
        });
        commit.or(standby)
    }

    fn is_well(&self, sample: &Sample) -> bool {
        sample.commit_latency.is_some_and(|latency| latency <= self.limits.commit_latency / 2)
            && sample.standby.as_ref().is_none_or(|behind| behind.lag <= self.limits.standby_lag / 2)
    }
}

fn span(span: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use pgportage_link::Clock;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { commit_latency: Duration::from_millis(500), standby_lag: Duration::from_secs(30) };

    fn commit(milliseconds: u64) -> Sample {
        Sample { commit_latency: Some(Duration::from_millis(milliseconds)), standby: None }
    }

    fn behind(seconds: u64) -> Sample {
        let standby = Behind { name: "replica".to_owned(), lag: Duration::from_secs(seconds) };
        Sample { standby: Some(standby), ..commit(5) }
    }

    /// A source with so many readers, looked at each second.
    struct Watched {
        governor: Governor,
        now: Instant,
        reading: usize,
    }

    impl Watched {
        fn new(reading: usize) -> Self {
            Self { governor: Governor::new(LIMITS), now: Clock.now(), reading }
        }

        fn see(&mut self, looks: u32, sample: &Sample) -> Option<usize> {
            for _ in 0..looks {
                self.now += Duration::from_secs(1);
                self.governor.observe(self.now, sample, self.reading);
            }
            self.governor.allowed()
        }
    }

    #[test]
    fn a_slow_commit_or_two_change_nothing() {
        let mut source = Watched::new(8);
        for _ in 0..20 {
            assert_eq!(source.see(2, &commit(3_000)), None);
            assert_eq!(source.see(1, &commit(10)), None);
        }
    }

    #[test]
    fn readers_are_halved_until_one_is_left_and_come_back_one_by_one() {
        let mut source = Watched::new(8);
        assert_eq!(source.see(3, &behind(31)), Some(4));
        assert_eq!(source.governor.cause(), "standby replica has fallen behind by 31s, the limit is 30s");
        assert_eq!(source.see(4, &behind(35)), Some(4), "it has to take effect first");
        assert_eq!(source.see(1, &behind(36)), Some(2));
        assert_eq!(source.see(5, &behind(40)), Some(1));
        assert_eq!(source.see(1_000, &behind(1_000)), Some(1), "one always goes on");
        assert_eq!(source.governor.cause(), "standby replica has fallen behind by 16m 40s, the limit is 30s");
        assert_eq!(source.see(100, &behind(20)), Some(1), "not strained, and not well yet");
        let seen: Vec<_> = (0..7).map(|_| source.see(if seen_first(&source) { 11 } else { 10 }, &behind(15))).collect();
        assert_eq!(seen, [Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), None]);
        assert_eq!(source.governor.cause(), "");
    }

    /// The first while begins with the first good look, later ones with the last change.
    fn seen_first(source: &Watched) -> bool {
        source.governor.well_since.is_none()
    }

    #[test]
    fn a_relapse_halves_again() {
        let mut source = Watched::new(4);
        assert_eq!(source.see(8, &commit(900)), Some(1));
        assert_eq!(source.governor.cause(), "a commit on the source takes 900ms, the limit is 500ms");
        assert_eq!(source.see(21, &commit(100)), Some(3));
        assert_eq!(source.see(5, &commit(900)), Some(1));
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_well() {
        let mut source = Watched::new(4);
        assert_eq!(source.see(100, &Sample::default()), None);
        assert_eq!(source.see(3, &commit(900)), Some(2));
        assert_eq!(source.see(100, &Sample::default()), Some(2));
    }

    #[test]
    fn a_single_reader_is_never_held_back() {
        let mut source = Watched::new(1);
        assert_eq!(source.see(100, &commit(5_000)), Some(1));
        assert_eq!(source.see(11, &commit(5)), None);
    }

    proptest! {
        /// Whatever the looks show, one reader reads; and when the source has been well for long enough,
        /// all of them do.
        #[test]
        fn it_never_stops_and_always_ends(
            seen in proptest::collection::vec((0_u64..2_000, 0_u64..120), 0..200), reading in 1_usize..9,
        ) {
            let mut source = Watched::new(reading);
            for (milliseconds, seconds) in seen {
                let sample = Sample { commit_latency: commit(milliseconds).commit_latency, ..behind(seconds) };
                prop_assert_ne!(source.see(1, &sample), Some(0));
            }
            prop_assert_eq!(source.see(11 + 10 * 8, &behind(0)), None);
        }
    }
}
