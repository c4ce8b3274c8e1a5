//! A rehearsal, out of the contract's message.

use pgportage_proto::v1::rehearsal_report::{Phase, RestSource as Source};
use pgportage_proto::{read_span, v1};

use super::time;
use crate::view::{Failure, Rehearsal, RehearsalPhase, RestSource, Spread};

impl From<v1::RehearsalReport> for Rehearsal {
    fn from(message: v1::RehearsalReport) -> Self {
        Self {
            phase: match message.phase() {
                Phase::Running => RehearsalPhase::Running,
                Phase::Done => RehearsalPhase::Done,
                Phase::GivenUp => RehearsalPhase::GivenUp,
                Phase::Unspecified => RehearsalPhase::Unrecognised,
            },
            rest_source: match Source::try_from(message.rest_source) {
                Ok(Source::Unspecified) => RestSource::None,
                Ok(Source::Switch) => RestSource::Switch,
                Ok(Source::Estimate) => RestSource::Estimate,
                Err(_) => RestSource::Unrecognised,
            },
            epoch: message.cutover_epoch,
            rollback: message.rollback,
            round_count: message.round_count,
            completed_count: message.completed_count,
            max_outage: read_span(message.max_outage),
            prepare: message.prepare.map(Spread::from),
            lock_wait: message.lock_wait.map(Spread::from),
            barrier: message.barrier.map(Spread::from),
            drain: message.drain.map(Spread::from),
            compare: message.compare.map(Spread::from),
            release: message.release.map(Spread::from),
            pause: message.pause.map(Spread::from),
            rest: read_span(message.rest),
            prediction: message.prediction.map(Spread::from),
            fits: message.fits,
            cancelled_session_count: message.cancelled_session_count,
            record_time: time(message.record_time),
            failure: message.failure.map(Failure::from),
        }
    }
}

impl From<v1::RehearsedSpan> for Spread {
    fn from(message: v1::RehearsedSpan) -> Self {
        Self { p50: read_span(message.p50), p95: read_span(message.p95), worst: read_span(message.worst) }
    }
}
