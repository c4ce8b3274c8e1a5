//! What a rehearsal showed.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::{Failure, milliseconds, rfc3339};

/// The latest rehearsal of a cutover or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rehearsal {
    /// Number of its latest round.
    pub epoch: i64,
    /// Where it stands.
    pub phase: RehearsalPhase,
    /// Whether the rollback was rehearsed.
    pub rollback: bool,
    /// Rounds asked for.
    pub round_count: i32,
    /// Rounds done.
    pub completed_count: i32,
    /// The budget.
    #[serde(rename = "max_outage_milliseconds", serialize_with = "milliseconds")]
    pub max_outage: Option<Duration>,
    /// Preconditions and connections. No application waits for it.
    pub prepare: Option<Spread>,
    /// How long the table locks took. Part of `barrier`.
    pub lock_wait: Option<Spread>,
    /// Until the marker was written.
    pub barrier: Option<Spread>,
    /// From then until it had arrived.
    pub drain: Option<Spread>,
    /// How long comparing what was written took. Part of `drain`. None: it was not.
    pub compare: Option<Spread>,
    /// From then until writers wrote again.
    pub release: Option<Spread>,
    /// What writers waited in each round, at most.
    pub pause: Option<Spread>,
    /// What cannot be rehearsed: fence and opening.
    #[serde(rename = "rest_milliseconds", serialize_with = "milliseconds")]
    pub rest: Option<Duration>,
    /// Where `rest` is from.
    pub rest_source: RestSource,
    /// The outage that a cutover would have.
    pub prediction: Option<Spread>,
    /// Whether that is within the budget, nineteen times of twenty.
    pub fits: bool,
    /// Sessions whose statement was cancelled for the barrier, in all rounds.
    pub cancelled_session_count: i32,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub record_time: Option<OffsetDateTime>,
    /// Why it ended before its last round.
    pub failure: Option<Failure>,
}

/// Where a rehearsal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RehearsalPhase {
    /// Rounds go on.
    Running,
    /// Every round is done.
    Done,
    /// A round did not succeed and was taken back; no other followed.
    GivenUp,
    /// Sent by a newer coordinator.
    Unrecognised,
}

/// Where the time of what cannot be rehearsed is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RestSource {
    /// Nothing is known of it.
    None,
    /// This migration's latest cutover or rollback.
    Switch,
    /// Estimated from the rehearsal's round trips and commits.
    Estimate,
    /// Sent by a newer coordinator.
    Unrecognised,
}

/// How a span was spread over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half of the rounds took at most this.
    #[serde(rename = "p50_milliseconds", serialize_with = "milliseconds")]
    pub p50: Option<Duration>,
    /// Nineteen of twenty rounds took at most this.
    #[serde(rename = "p95_milliseconds", serialize_with = "milliseconds")]
    pub p95: Option<Duration>,
    /// The longest.
    #[serde(rename = "worst_milliseconds", serialize_with = "milliseconds")]
    pub worst: Option<Duration>,
}

impl Rehearsal {
    /// Whether it says that a cutover would not be over in time: by what it expects,
    /// or because a round was not.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        // The marker is awaited for as long as the budget lasts.
        let over = |failure: &Failure| ["OUTAGE_BUDGET_EXCEEDED", "DRAIN_TIMEOUT"].contains(&failure.reason.as_str());
        match self.phase {
            RehearsalPhase::Done => !self.fits,
            RehearsalPhase::GivenUp => self.failure.as_ref().is_some_and(over),
            RehearsalPhase::Running | RehearsalPhase::Unrecognised => false,
        }
    }
}
