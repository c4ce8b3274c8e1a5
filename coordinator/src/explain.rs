//! Why a migration does not move: pure. Facts of both sides go in, explanations
//! come out, the most likely cause first.
//!
//! Nothing here acts, and nothing is decided by it: it is for people.
//! **Invariant:** what could not be looked at is told as such; silence is no sign
//! that all is well.

mod blocked;
mod phrase;
mod stream;
#[cfg(test)]
mod tests;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;
use pgportage_report::situation::{Link, Situation, Unchecked};

use crate::workflow::spec::MigrationId;
use crate::workflow::state::{Phase, State};
use crate::workflow::{Side, StepName};

/// One thing that has to do with why a migration does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// How sure it is.
    pub weight: Weight,
    /// Which page explains it. None when nothing is wrong.
    pub code: Option<Reason>,
    /// Where it is. None when on neither server.
    pub side: Option<Side>,
    /// What is in the way, as one clause.
    pub message: String,
    /// Further facts, as sentences.
    pub detail: String,
    /// What the operator can do, as sentences.
    pub hint: String,
    /// Statements that do it, on the server of the side.
    pub statements: Vec<String>,
}

/// How sure an explanation is, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It keeps the migration from moving.
    Cause,
    /// It may have to do with it, or will soon.
    Suspicion,
    /// It could not be checked.
    Unchecked,
}

/// What one agent said.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// What it found. Boxed: large, and seldom there.
    Answered(Box<Situation>),
    /// Why it said nothing.
    Silent(Failure),
}

/// Everything that is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub migration: MigrationId,
    /// Where it stands.
    pub standing: Standing,
    /// What the agents said.
    pub source: Report,
    /// The same of the destination.
    pub destination: Report,
    /// What the schemas of both sides differ in, if that holds the migration.
    pub drift: Option<(Side, Failure)>,
}

/// Where a migration stands, as far as it explains anything.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    /// The step that is under way, or would be next.
    pub step: Option<StepName>,
    /// What the workflow itself waits for.
    pub waits: Waits,
    /// The side that applications write on: the other one follows it.
    pub publisher: Side,
    /// Whether there is a way back, on which the source follows after the cutover.
    pub way_back: bool,
}

/// What the workflow itself waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Waits {
    /// For its agents, if for anybody.
    Nobody,
    /// For the operator's word, as it should.
    Request,
    /// For the operator, because of a failure.
    Operator(Failure),
    /// For the next attempt, which comes by itself.
    Attempt(Failure),
}

impl Standing {
    /// Where a state stands.
    pub(crate) fn of(state: &State) -> Self {
        let retried = || {
            let failed = state.acts().filter_map(|(_, act)| act.failure());
            failed.into_iter().find(|failure| failure.remedy == Remedy::Wait).cloned()
        };
        let by_itself = || retried().map_or(Waits::Nobody, Waits::Attempt);
        let (step, waits) = match &state.phase {
            Phase::Pending => (None, Waits::Request),
            Phase::Running { step } => (Some(*step), by_itself()),
            Phase::Held { step } => (Some(*step), Waits::Request),
            Phase::Stopped { step, failure } => (Some(*step), Waits::Operator(failure.clone())),
            Phase::TakingBack { step, stop, .. } => (Some(*step), stop.clone().map_or_else(by_itself, Waits::Operator)),
            Phase::Aborting { stop } => (None, stop.clone().map_or_else(by_itself, Waits::Operator)),
            Phase::Aborted | Phase::Succeeded => (None, Waits::Nobody),
        };
        Self { step, waits, publisher: state.writable, way_back: state.way_back }
    }

    /// Whether the subscription has to apply at this point.
    fn applies(&self) -> bool {
        match self.step {
            Some(StepName::CatchUp | StepName::Reverse | StepName::Verify) => true,
            // Behind the decision the stream the other way has yet to begin.
            Some(StepName::CutoverRehearsal | StepName::Cutover) => self.publisher == Side::Source,
            Some(StepName::VerifyBack | StepName::RollbackRehearsal | StepName::Rollback) => {
                self.publisher == Side::Destination
            }
            Some(StepName::Finish) if self.publisher == Side::Destination && self.waits == Waits::Request => {
                self.way_back
            }
            Some(
                StepName::Inspect
                | StepName::Connect
                | StepName::Identity
                | StepName::Publication
                | StepName::Close
                | StepName::Schema
                | StepName::Copy
                | StepName::Subscribe
                | StepName::Finish,
            )
            | None => false,
        }
    }

    /// The switch that may be near.
    fn next_switch(&self) -> Option<StepName> {
        match (self.step, self.publisher) {
            (Some(StepName::Cutover), Side::Source) => Some(StepName::Cutover),
            (Some(StepName::Rollback), Side::Destination) => Some(StepName::Rollback),
            (Some(StepName::Finish), Side::Destination) if self.way_back => Some(StepName::Rollback),
            (Some(_) | None, Side::Source | Side::Destination) => None,
        }
    }
}

/// What keeps a migration from moving, the most likely cause first. Empty when
/// nothing was found and everything could be checked.
pub(crate) fn explain(facts: &Facts) -> Vec<Explanation> {
    let mut found = Vec::new();
    found.extend(workflow(&facts.standing));
    found.extend(
        facts
            .drift
            .as_ref()
            .map(|(side, failure)| Explanation::of(failure, Some(*side), format!("schema drift: {failure}"))),
    );
    let sides = [(Side::Source, &facts.source), (Side::Destination, &facts.destination)];
    for (side, report) in sides {
        match report {
            Report::Silent(failure) => found.push(silent(side, failure)),
            Report::Answered(situation) => {
                found.extend(situation.unchecked.iter().map(|unchecked| self::unchecked(side, unchecked)));
                found.extend(situation.link.as_ref().and_then(|link| broken_link(side, link)));
                found.extend(blocked::explain(side, situation));
                found.extend(stream::explain(facts, side, situation));
            }
        }
    }
    found.extend(stream::between(facts));
    // Stable: within a weight, the order in which they were found.
    found.sort_by_key(|explanation| (explanation.weight, rank(explanation.code)));
    found
}

/// What comes first among equals: who is not there explains what others miss.
fn rank(code: Option<Reason>) -> u8 {
    match code {
        Some(Reason::AgentNotAttached) => 0,
        Some(Reason::ServerUnreachable | Reason::LoginRefused | Reason::DatabaseMissing) => 1,
        Some(Reason::SlotLost) => 2,
        Some(Reason::PeerUnreachable | Reason::PeerRefused) => 3,
        Some(Reason::SessionBlocked | Reason::PreparedTransactions) => 4,
        Some(_) => 5,
        // It waits for a word and nothing is wrong: the rest is not its reason.
        None => 0,
    }
}

/// What the workflow says by itself.
fn workflow(standing: &Standing) -> Option<Explanation> {
    let step = standing.step.map_or("it", StepName::as_str);
    match &standing.waits {
        Waits::Nobody => None,
        Waits::Request => Some(Explanation::cause(
            None,
            None,
            match standing.step {
                None => "it was not started".to_owned(),
                Some(step) => format!("it waits for your word before step {step}"),
            },
        )),
        Waits::Operator(failure) => {
            Some(Explanation::of(failure, None, format!("{step} stopped and waits for you: {failure}")))
        }
        Waits::Attempt(failure) => {
            Some(Explanation::of(failure, None, format!("{step} failed and is tried again: {failure}")))
        }
    }
}

fn silent(side: Side, failure: &Failure) -> Explanation {
    let weight = if failure.reason == Reason::AgentNotAttached { Weight::Cause } else { Weight::Unchecked };
    Explanation { weight, ..Explanation::of(failure, Some(side), failure.message.clone()) }
}

/// A look that failed is a cause when the server does not let anybody look.
fn unchecked(side: Side, Unchecked { subject, failure }: &Unchecked) -> Explanation {
    let (weight, message) = match failure.reason {
        Reason::ServerUnreachable | Reason::LoginRefused | Reason::DatabaseMissing => {
            (Weight::Cause, format!("the agent cannot work on its server: {failure}"))
        }
        _ => (Weight::Unchecked, format!("{subject} could not be checked: {failure}")),
    };
    Explanation { weight, ..Explanation::of(failure, Some(side), message) }
}

fn broken_link(side: Side, link: &Link) -> Option<Explanation> {
    let Link::Broken(failure) = link else { return None };
    let message = format!("the {side}'s agent does not reach the {}'s: {failure}", side.other());
    Some(Explanation::of(failure, Some(side), message))
}

impl Explanation {
    fn cause(code: Option<Reason>, side: Option<Side>, message: String) -> Self {
        Self {
            weight: Weight::Cause,
            code,
            side,
            message,
            detail: String::new(),
            hint: String::new(),
            statements: Vec::new(),
        }
    }

    /// What a failure says is a cause.
    fn of(failure: &Failure, side: Option<Side>, message: String) -> Self {
        Self::cause(Some(failure.reason), side, message).detail(&failure.detail).hint(&failure.hint)
    }

    fn suspicion(code: Reason, side: Side, message: String) -> Self {
        Self { weight: Weight::Suspicion, ..Self::cause(Some(code), Some(side), message) }
    }

    fn detail(mut self, detail: &str) -> Self {
        detail.clone_into(&mut self.detail);
        self
    }

    fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }

    fn statement(mut self, statement: String) -> Self {
        self.statements.push(statement);
        self
    }
}
