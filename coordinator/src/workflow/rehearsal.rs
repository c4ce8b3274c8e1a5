//! What a rehearsal showed, and what it says about the switch that was rehearsed.
//!
//! Every round is a try of its own up to the drain, and is then taken back. What
//! cannot be rehearsed, the fence and the decision, is taken from the latest switch
//! of the migration, or estimated.

use std::time::{Duration, SystemTime};

use pgportage_link::Failure;

use super::StepName;
use super::act::{DrainToMarker, Outcome, RaiseBarrier};

/// Rounds when the operator names no number.
pub(crate) const DEFAULT_ROUNDS: u32 = 5;
/// Most rounds of one rehearsal: each makes writers wait.
pub(crate) const MOST_ROUNDS: u32 = 50;

/// One rehearsal of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// Its step, which says what is rehearsed.
    pub step: StepName,
    /// Number of its latest round: one row with those of the switches.
    pub epoch: i64,
    /// The budget of every round, which the switch would have.
    pub max_outage: Duration,
    /// How long comparing what was written may take of it. None: it is not compared.
    pub compare_limit: Option<Duration>,
    pub round_count: u32,
    pub rounds: Vec<Round>,
    /// The round under way, or the one that was given up.
    pub round: Round,
    pub end: Option<RehearsalEnd>,
    /// When its latest round began or ended.
    pub time: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RehearsalEnd {
    /// Every round is done.
    Done,
    /// A round did not succeed. It is taken back, and no other followed.
    GivenUp { cause: Failure },
}

/// One round. Spans are the coordinator's unless said otherwise; those from the
/// barrier on are counted from when it was asked for, and are unknown when the
/// coordinator was restarted meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// When the preconditions were asked for.
    pub prepare_time: Option<SystemTime>,
    /// How long they took. Nobody waits for that.
    pub prepared_in: Duration,
    /// Until the news that the marker was written.
    pub marked_after: Option<Duration>,
    /// Until the news that it was applied and flushed.
    pub drained_after: Option<Duration>,
    /// Until the news that writers write again.
    pub released_after: Option<Duration>,
    /// How long the table locks took, as the agent saw it.
    pub lock_wait: Duration,
    /// How long the marker took to arrive, as the agent saw it.
    pub drain_time: Duration,
    /// How long comparing what was written took, as the agent saw it. None: it was not
    /// compared.
    pub compare_time: Option<Duration>,
    /// Sessions whose statement was cancelled for the barrier.
    pub cancelled_session_count: i32,
}

/// The spans of a round that was measured to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    prepare: Duration,
    lock_wait: Duration,
    barrier: Duration,
    drain: Duration,
    compare: Option<Duration>,
    release: Duration,
    /// What the fence and the decision take at least.
    estimate: Duration,
}

/// How a span was spread over the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half of the rounds took at most this.
    pub p50: Duration,
    /// Nineteen of twenty rounds took at most this.
    pub p95: Duration,
    pub worst: Duration,
}

/// What the rounds of a rehearsal showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Findings {
    /// P0. Nobody waits for it.
    pub prepare: Spread,
    /// The locks alone, a part of the barrier.
    pub lock_wait: Spread,
    /// P1 and P2.
    pub barrier: Spread,
    /// P3.
    pub drain: Spread,
    /// The comparison alone, a part of the drain. None: nothing was compared.
    pub compare: Option<Spread>,
    /// From the end of P3 until writers wrote again.
    pub release: Spread,
    /// What writers waited.
    pub pause: Spread,
    /// P4 to P6. Of an estimate, the one in the middle.
    pub rest: Duration,
    /// Where that is from.
    pub rest_source: RestSource,
    /// The outage that a switch would have.
    pub prediction: Spread,
}

/// Where the time of the acts that cannot be rehearsed is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestSource {
    /// The latest switch of this migration.
    Switch,
    /// Round trips and commits of the rehearsal. The ending of sessions is not in
    /// it.
    Estimate,
}

impl Round {
    /// Keeps what the report needs.
    pub(super) fn learn(&mut self, outcome: &Outcome, outage: Option<Duration>) {
        if let Some(barrier) = outcome.read::<RaiseBarrier>() {
            self.marked_after = outage;
            self.lock_wait = barrier.lock_wait;
            self.cancelled_session_count = barrier.cancelled_session_count;
        } else if let Some(drained) = outcome.read::<DrainToMarker>() {
            self.drained_after = outage;
            self.drain_time = drained.drain_time;
            self.compare_time = drained.compared.as_ref().map(|compared| compared.elapsed);
        }
    }

    fn measured(&self) -> Option<Measured> {
        let (marked, drained, released) = (self.marked_after?, self.drained_after?, self.released_after?);
        let drain = drained.saturating_sub(marked);
        // A fence commits and reads on the side that is left what the marker and the
        // sequences need there; a decision, on the other side, what setting and
        // flushing them needs. Neither waits for locks or for the stream, or compares.
        let waited = self.drain_time + self.compare_time.unwrap_or_default();
        let estimate = marked.saturating_sub(self.lock_wait) + drain.saturating_sub(waited);
        Some(Measured {
            prepare: self.prepared_in,
            lock_wait: self.lock_wait,
            barrier: marked,
            drain,
            compare: self.compare_time,
            release: released.saturating_sub(drained),
            estimate,
        })
    }

    /// Whether every span of it is known.
    pub(super) fn is_measured(&self) -> bool {
        self.measured().is_some()
    }
}

impl Rehearsal {
    /// What its rounds showed so far. `rest`: how long the acts that cannot be
    /// rehearsed took in this migration's latest switch. None before the first round
    /// is done.
    pub fn findings(&self, rest: Option<Duration>) -> Option<Findings> {
        let rounds: Vec<Measured> = self.rounds.iter().filter_map(Round::measured).collect();
        let spread = |of: &dyn Fn(&Measured) -> Duration| Spread::of(rounds.iter().map(of).collect());
        let estimate = spread(&|round| round.estimate)?;
        let rest_of = |round: &Measured| rest.unwrap_or(round.estimate);
        Some(Findings {
            prepare: spread(&|round| round.prepare)?,
            lock_wait: spread(&|round| round.lock_wait)?,
            barrier: spread(&|round| round.barrier)?,
            drain: spread(&|round| round.drain)?,
            compare: Spread::of(rounds.iter().filter_map(|round| round.compare).collect()),
            release: spread(&|round| round.release)?,
            pause: spread(&|round| round.barrier + round.drain + round.release)?,
            rest: rest.unwrap_or(estimate.p50),
            rest_source: if rest.is_some() { RestSource::Switch } else { RestSource::Estimate },
            prediction: spread(&|round| round.barrier + round.drain + rest_of(round))?,
        })
    }

    /// Whether the switch is expected within the budget, nineteen times of twenty.
    /// A rehearsal that was given up, or goes on, expects nothing.
    pub fn fits(&self, rest: Option<Duration>) -> bool {
        self.end == Some(RehearsalEnd::Done)
            && self.findings(rest).is_some_and(|found| found.prediction.p95 <= self.max_outage)
    }
}

impl Spread {
    /// By nearest rank: every figure is one that was measured. None of nothing.
    fn of(mut spans: Vec<Duration>) -> Option<Self> {
        spans.sort_unstable();
        let rank = |percent: usize| {
            let place = (spans.len() * percent).div_ceil(100).max(1);
            spans.get(place - 1).copied()
        };
        Some(Self { p50: rank(50)?, p95: rank(95)?, worst: rank(100)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn round(marked: u64, drained: u64, released: u64) -> Round {
        Round {
            prepared_in: ms(100),
            marked_after: Some(ms(marked)),
            drained_after: Some(ms(drained)),
            released_after: Some(ms(released)),
            lock_wait: ms(10),
            drain_time: ms(5),
            ..Round::default()
        }
    }

    fn rehearsal(rounds: Vec<Round>) -> Rehearsal {
        Rehearsal {
            step: StepName::CutoverRehearsal,
            epoch: 1,
            max_outage: ms(200),
            compare_limit: None,
            round_count: 5,
            rounds,
            round: Round::default(),
            end: Some(RehearsalEnd::Done),
            time: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_spread_is_of_what_was_measured() {
        let of = |spans: &[u64]| Spread::of(spans.iter().copied().map(ms).collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some(Spread { p50: ms(7), p95: ms(7), worst: ms(7) }));
        assert_eq!(of(&[4, 1, 3, 2]), Some(Spread { p50: ms(2), p95: ms(4), worst: ms(4) }));
        let many: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&many), Some(Spread { p50: ms(50), p95: ms(95), worst: ms(100) }));
    }

    #[test]
    fn the_rest_is_that_of_the_latest_switch_or_an_estimate() {
        let of = rehearsal(vec![round(40, 60, 75)]);
        let found = of.findings(None).unwrap();
        assert_eq!((found.barrier.p50, found.drain.p50, found.release.p50), (ms(40), ms(20), ms(15)));
        assert_eq!(found.pause.p50, ms(75));
        // (40 - 10) on the side that is left, (20 - 5) on the other.
        assert_eq!((found.rest, found.rest_source), (ms(45), RestSource::Estimate));
        assert_eq!(found.prediction.worst, ms(105));
        let found = of.findings(Some(ms(80))).unwrap();
        assert_eq!((found.rest, found.rest_source, found.prediction.p50), (ms(80), RestSource::Switch, ms(140)));
    }

    #[test]
    fn a_comparison_is_a_part_of_the_outage_and_of_no_estimate() {
        let found = rehearsal(vec![Round { compare_time: Some(ms(12)), ..round(40, 60, 75) }]).findings(None).unwrap();
        assert_eq!(found.compare.unwrap().p95, ms(12));
        // (40 - 10) on the side that is left, (20 - 5 - 12) on the other.
        assert_eq!((found.drain.p50, found.rest, found.prediction.p50), (ms(20), ms(33), ms(93)));
        assert_eq!(rehearsal(vec![round(40, 60, 75)]).findings(None).unwrap().compare, None);
    }

    #[test]
    fn nothing_is_expected_of_a_rehearsal_that_did_not_come_to_its_end() {
        let done = rehearsal(vec![round(40, 60, 75); 3]);
        assert!(done.fits(None) && !done.fits(Some(ms(141))), "60 + 141 ms are beyond 200 ms");
        assert!(done.fits(Some(ms(140))));
        let under_way = Rehearsal { end: None, ..done.clone() };
        let cause = Failure::new(pgportage_proto::Reason::BarrierTimeout, "no locks");
        let given_up = Rehearsal { end: Some(RehearsalEnd::GivenUp { cause }), ..done };
        assert!(!under_way.fits(None) && !given_up.fits(None));
        assert_eq!(rehearsal(Vec::new()).findings(None), None);
        assert!(!rehearsal(Vec::new()).fits(None));
    }

    #[test]
    fn a_round_whose_beginning_nobody_knows_is_not_measured() {
        assert!(round(1, 2, 3).is_measured());
        let restarted = Round { released_after: None, ..round(1, 2, 3) };
        assert!(!restarted.is_measured());
        assert_eq!(rehearsal(vec![restarted]).findings(None), None);
    }
}
