//! Where a migration stands: a fold over its facts, through one function.
//!
//! **Invariant:** no field of [`State`] is changed anywhere but in [`next`];
//! the live engine, a restart and the tests all go through it.

mod acts;
mod certificate;
mod phase;
mod produced;
mod rehearse;
mod switch;
mod transition;
mod verification;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pgportage_link::{Failure, Remedy};

use super::act::{Barrier, Digest, Fence, Input, Inventory, Outcome, RelationName, WrittenRows};
use super::depth::Depth;
use super::fact::{CommandId, Fact, TraceContext};
use super::finding::Consent;
use super::judge::Verification;
use super::rehearsal::Rehearsal;
use super::spec::{MigrationId, Rate, Spec};
use super::{ActRef, ActRow, Belongs, Side, StepName, TABLE, Undo};

pub(crate) use super::act::Trial;
pub(crate) use certificate::Certificate;
pub(crate) use phase::Phase;
pub(crate) use transition::{IllegalTransition, fold, next};

/// Where one migration stands after its facts so far.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub id: MigrationId,
    pub spec: Spec,
    pub plan_digest: Digest,
    /// What both servers were when the plan was asked for before the start.
    pub survey: Option<Survey>,
    /// What the operator has agreed to, at creation and since.
    pub consents: Vec<Consent>,
    /// How fast the copy may read, as the operator said last.
    pub max_rate: Option<Rate>,
    /// Whether it has a way back, or is to have one.
    pub way_back: bool,
    /// The side that takes the applications' writes.
    pub writable: Side,
    /// Where it stands.
    pub phase: Phase,
    /// One entry for each row of the table, in its order.
    pub steps: Vec<Step>,
    /// How closely the latest verification looks, or looked.
    pub depth: Depth,
    /// The latest try at a cutover or a rollback.
    pub cutover: Option<Cutover>,
    /// The latest rehearsal of one.
    pub rehearsal: Option<Rehearsal>,
    /// How long the latest switch took from the drain to its decision.
    pub rest_of_switch: Option<Duration>,
    /// What both agents stated about each switch, by its number. Kept for ever.
    pub certificates: BTreeMap<i64, Certificate>,
    pub verification: Option<Verified>,
    pub commands: BTreeMap<CommandId, Commanded>,
    /// The trace that new commands belong to.
    pub trace: TraceContext,
    /// The request that created it.
    pub create_request_id: String,
    /// The request of the operator's latest word.
    pub request_id: String,
    pub sequence: i64,
    pub create_time: SystemTime,
    pub update_time: SystemTime,
}

/// What both agents read for the plan before the migration was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    pub time: SystemTime,
    pub source: Arc<Inventory>,
    pub destination: Arc<Inventory>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Its acts, as in the table.
    pub acts: Vec<Act>,
    /// When the first attempt began since the step was last asked for.
    pub start_time: Option<SystemTime>,
    /// When it last ended, one way or another.
    pub end_time: Option<SystemTime>,
    /// Whether it ended well, and was neither begun again nor taken back since.
    pub succeeded: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Act {
    /// Where it stands.
    pub state: ActState,
    /// Attempts so far, both ways.
    pub attempts: u32,
    /// How many of these were made before the step was last asked for: switches,
    /// rehearsals and verifications can be, as often as one likes.
    pub earlier_attempts: u32,
    /// Failed attempts since the last success or the operator's last word.
    pub streak: u32,
    /// Whether a finished attempt may have left something on the server.
    pub touched: bool,
    /// Whether the agent has accepted an attempt to perform it since it was last
    /// taken back.
    pub accepted: bool,
    /// What the latest attempt to perform it was given.
    pub input: Option<Arc<Input>>,
    /// What the latest success produced.
    pub outcome: Option<Arc<Outcome>>,
}

/// Where an act stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ActState {
    /// Its turn has not come.
    #[default]
    Idle,
    /// A command to perform it was issued and has no final answer.
    Performing { command: CommandId },
    /// The latest attempt ended without success.
    Failed { failure: Failure },
    /// Done.
    Performed,
    /// A command to take it back was issued and has no final answer.
    Undoing { command: CommandId },
    /// The latest attempt to take it back ended without success.
    UndoFailed { failure: Failure },
    /// Taken back.
    Undone,
}

/// What is known about a command that was issued.
#[derive(Clone, Debug, PartialEq)]
pub struct Commanded {
    pub issued: Arc<super::fact::Issued>,
    /// The agent's number of the newest fact stored. Zero before the first.
    pub last_sequence: i64,
    /// Whether its final answer is stored.
    pub answered: bool,
}

/// One try at a switch of the applications' way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutover {
    /// Which way: the step of the cutover or of the rollback.
    pub step: StepName,
    /// Its number. Grows with each try, there or back.
    pub epoch: i64,
    pub max_outage: Duration,
    /// How long comparing what was written may take of it. None: it is not compared.
    pub compare_limit: Option<Duration>,
    /// Whether both agents state and sign what they see of it.
    pub certified: bool,
    /// Whether poolers that do not answer are left out.
    pub without_poolers: bool,
    pub end: Option<CutoverEnd>,
    /// When the barrier was asked for.
    pub outage_start_time: Option<SystemTime>,
    /// What its acts told, kept for the report.
    pub barrier: Option<Barrier>,
    /// How long the marker took to arrive.
    pub drain_time: Option<Duration>,
    /// What was compared behind the marker, and did not differ.
    pub compared: Option<WrittenRows>,
    /// From asking for the barrier to the news of that.
    pub drained_after: Option<Duration>,
    pub fence: Option<Fence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutoverEnd {
    /// The side that was entered is open.
    Opened {
        /// Position after the decision. Empty when only the peer told of it.
        open_lsn: String,
        /// How long nobody could write.
        outage: Option<Duration>,
    },
    /// Everything was taken back.
    TakenBack { cause: Failure },
}

/// A verification and when it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub found: Verification,
    /// Tables that are being counted again.
    pub again: Vec<RelationName>,
    pub time: SystemTime,
}

impl Act {
    /// Whether an attempt is under way.
    pub fn command(&self) -> Option<CommandId> {
        match self.state {
            ActState::Performing { command } | ActState::Undoing { command } => Some(command),
            ActState::Idle
            | ActState::Failed { .. }
            | ActState::Performed
            | ActState::UndoFailed { .. }
            | ActState::Undone => None,
        }
    }

    /// Attempts since the step was last asked for, both ways.
    pub fn attempts_since_asked(&self) -> u32 {
        self.attempts - self.earlier_attempts
    }

    /// Whether there is, or may be, something to take back or to wait for.
    pub fn unsettled(&self, undo: Undo) -> bool {
        self.command().is_some()
            || match undo {
                Undo::Nothing | Undo::Never => false,
                Undo::TakeBack | Undo::TakeBackFirst => self.touched,
                Undo::TakeBackAndForget => self.touched || self.accepted,
            }
    }

    pub fn failure(&self) -> Option<&Failure> {
        match &self.state {
            ActState::Failed { failure } | ActState::UndoFailed { failure } => Some(failure),
            ActState::Idle
            | ActState::Performing { .. }
            | ActState::Performed
            | ActState::Undoing { .. }
            | ActState::Undone => None,
        }
    }
}

impl State {
    /// The act, which must be one of the table.
    pub fn act(&self, act: ActRef) -> &Act {
        &self.steps[act.step.index()].acts[act.index]
    }

    pub fn step(&self, step: StepName) -> &Step {
        &self.steps[step.index()]
    }

    /// Every act of the table with its place.
    pub fn acts(&self) -> impl DoubleEndedIterator<Item = (ActRef, &Act)> {
        TABLE.iter().flat_map(|row| {
            (0..row.acts.len()).map(|index| {
                let act = ActRef { step: row.name, index };
                (act, self.act(act))
            })
        })
    }

    /// Whether nothing will ever happen to it again.
    pub fn terminal(&self) -> bool {
        matches!(self.phase, Phase::Aborted | Phase::Succeeded)
    }

    /// The switch that was tried last: the cutover, before there was one.
    pub fn switch(&self) -> StepName {
        self.cutover.as_ref().map_or(StepName::Cutover, |cutover| cutover.step)
    }

    /// How the switch that was tried last ended.
    pub fn switch_end(&self) -> Option<&CutoverEnd> {
        self.cutover.as_ref()?.end.as_ref()
    }

    /// The number of the next try at a switch or a rehearsal.
    pub fn next_cutover_epoch(&self) -> i64 {
        let switched = self.cutover.as_ref().map_or(0, |last| last.epoch);
        let rehearsed = self.rehearsal.as_ref().map_or(0, |last| last.epoch);
        switched.max(rehearsed) + 1
    }

    /// The latest try at a switch, or the latest round of a rehearsal: whichever the
    /// step is.
    pub fn trial(&self, step: StepName) -> Option<Trial> {
        if step.is_rehearsal() {
            let rehearsal = self.rehearsal.as_ref().filter(|rehearsal| rehearsal.step == step)?;
            let Rehearsal { epoch, max_outage, compare_limit, .. } = *rehearsal;
            Some(Trial { epoch, max_outage, compare_limit, without_poolers: false })
        } else {
            let cutover = self.cutover.as_ref()?;
            let Cutover { epoch, max_outage, compare_limit, without_poolers, .. } = *cutover;
            Some(Trial { epoch, max_outage, compare_limit, without_poolers })
        }
    }

    /// Whether the destination is open: the migration cannot be taken back.
    pub fn opened(&self) -> bool {
        self.writable == Side::Destination
    }

    /// Whether the switch that was tried last is decided: it cannot be taken back.
    pub fn decided(&self) -> bool {
        matches!(self.act(ActRef::open(self.switch())).state, ActState::Performed)
    }

    /// Whether the side that is entered was asked to open and has not answered. It
    /// must be asked again until it does: **no time limit decides this.**
    pub fn in_doubt(&self) -> bool {
        matches!(self.act(ActRef::open(self.switch())).state, ActState::Performing { .. })
    }

    /// Whether it is too late to take the latest switch back.
    pub fn past_decision(&self) -> bool {
        self.decided() || self.in_doubt()
    }

    /// Whether it is too late to take the migration back.
    pub fn past_return(&self) -> bool {
        self.opened() || self.in_doubt()
    }

    /// Whether the latest switch is decided and its barrier is gone: what is left of
    /// it is the way back.
    pub fn released(&self) -> bool {
        self.decided() && matches!(self.act(ActRef::release(self.switch())).state, ActState::Performed)
    }

    /// Whether the source has opened in a rollback whose barrier may still stand.
    pub fn rolling_back(&self) -> bool {
        self.switch() == StepName::Rollback && self.decided() && !self.released()
    }

    /// Whether the migration may be ended: applications are on the destination, and
    /// nothing but the way back could be missing.
    pub fn may_finish(&self) -> bool {
        let behind_the_cutover = matches!(self.phase, Phase::Stopped { step: StepName::Cutover, .. });
        self.awaits_last_word() || behind_the_cutover && self.released()
    }

    /// Where an act begins: one that this migration leaves out counts as done.
    pub fn beginning(&self, row: &ActRow) -> ActState {
        match row.belongs {
            Belongs::ToTheWayBack if !self.way_back => ActState::Performed,
            Belongs::ToTheCertificate if !self.cutover.as_ref().is_some_and(|cutover| cutover.certified) => {
                ActState::Performed
            }
            Belongs::Always
            | Belongs::ToTheWayBack
            | Belongs::ToTheCertificate
            | Belongs::ToCounts
            | Belongs::ToRows => ActState::Idle,
        }
    }

    /// The step after this one, those left out that have nothing to do here.
    pub fn following(&self, step: StepName) -> Option<StepName> {
        let left_out =
            |step: &StepName| !self.way_back && step.row().acts.iter().all(|act| act.belongs == Belongs::ToTheWayBack);
        std::iter::successors(step.following(), |step| step.following()).find(|step| !left_out(step))
    }

    /// Whether no retry can mend this. Past the point of no return nothing is
    /// taken back, so there a retry is always allowed, whatever the agent thinks
    /// of its chances.
    pub fn only_abort_helps(&self, failure: &Failure) -> bool {
        failure.remedy == Remedy::Abort && !self.past_return()
    }

    /// The side of a command's agent.
    pub fn side_of(&self, command: CommandId) -> Option<Side> {
        self.commands.get(&command).and_then(|known| known.issued.act.row()).map(|row| row.side)
    }

    /// Commands that were issued and have no final answer, oldest first.
    pub fn unanswered(&self) -> impl Iterator<Item = &Commanded> {
        self.commands.values().filter(|known| !known.answered)
    }

    /// Whether an act of a step that is carried out is carried out with it: a
    /// verification either counts rows or compares them.
    pub fn due(&self, act: ActRef) -> bool {
        act.row().is_none_or(|row| match row.belongs {
            Belongs::ToCounts => !self.depth.is_of_rows(),
            Belongs::ToRows => self.depth.is_of_rows(),
            Belongs::Always | Belongs::ToTheWayBack | Belongs::ToTheCertificate => true,
        })
    }

    /// Applies a fact that is known to be legal in a copy.
    pub fn with(&self, fact: &Fact) -> Result<Self, IllegalTransition> {
        next(Some(self.clone()), fact)
    }
}
