//! A rehearsal, as operators see it.

use std::time::Duration;

use pgportage_proto::v1;

use super::{to_duration, to_time};
use crate::workflow::StepName;
use crate::workflow::rehearsal::{Findings, Rehearsal, RehearsalEnd, RestSource, Spread};

/// `rest`: how long the acts that cannot be rehearsed took in the latest switch.
pub(super) fn to_rehearsal(rehearsal: &Rehearsal, rest: Option<Duration>) -> v1::RehearsalReport {
    use v1::rehearsal_report::{Phase, RestSource as Source};
    let found = rehearsal.findings(rest);
    let spread = |of: fn(&Findings) -> Spread| found.as_ref().map(of).map(to_rehearsed);
    let (phase, failure) = match &rehearsal.end {
        None => (Phase::Running, None),
        Some(RehearsalEnd::Done) => (Phase::Done, None),
        Some(RehearsalEnd::GivenUp { cause }) => (Phase::GivenUp, Some(cause.clone().into())),
    };
    let rest_source = match found.map(|found| found.rest_source) {
        None => Source::Unspecified,
        Some(RestSource::Switch) => Source::Switch,
        Some(RestSource::Estimate) => Source::Estimate,
    };
    let cancelled = rehearsal.rounds.iter().chain([&rehearsal.round]).map(|round| round.cancelled_session_count);
    v1::RehearsalReport {
        cutover_epoch: rehearsal.epoch,
        phase: phase.into(),
        rollback: rehearsal.step.rehearsed() == Some(StepName::Rollback),
        round_count: i32::try_from(rehearsal.round_count).unwrap_or(i32::MAX),
        completed_count: i32::try_from(rehearsal.rounds.len()).unwrap_or(i32::MAX),
        max_outage: to_duration(rehearsal.max_outage),
        prepare: spread(|found| found.prepare),
        lock_wait: spread(|found| found.lock_wait),
        barrier: spread(|found| found.barrier),
        drain: spread(|found| found.drain),
        release: spread(|found| found.release),
        pause: spread(|found| found.pause),
        rest: found.and_then(|found| to_duration(found.rest)),
        rest_source: rest_source.into(),
        prediction: spread(|found| found.prediction),
        fits: rehearsal.fits(rest),
        cancelled_session_count: cancelled.sum(),
        record_time: to_time(rehearsal.time),
        failure,
        compare: found.and_then(|found| found.compare).map(to_rehearsed),
    }
}

fn to_rehearsed(Spread { p50, p95, worst }: Spread) -> v1::RehearsedSpan {
    v1::RehearsedSpan { p50: to_duration(p50), p95: to_duration(p95), worst: to_duration(worst) }
}
