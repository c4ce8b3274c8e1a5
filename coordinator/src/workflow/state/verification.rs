//! The part of the transition function that is about verifications: when one may be
//! asked for, and what becomes of one behind a cutover.

use super::super::StepName;
use super::{ActState, Phase, State};

impl State {
    /// The verification that an operator may ask for now: before the cutover, or behind
    /// it where changes flow back.
    pub fn verification_now(&self) -> Option<StepName> {
        match &self.phase {
            Phase::Held { step: StepName::Cutover } => Some(StepName::Verify),
            Phase::Held { step: StepName::Finish } => self.way_back.then_some(StepName::VerifyBack),
            Phase::Stopped { step, failure } => {
                (step.is_verification() && !self.only_abort_helps(failure)).then_some(*step)
            }
            Phase::Pending
            | Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. }
            | Phase::Aborted
            | Phase::Succeeded => None,
        }
    }

    /// Whether the operator's word for the rollback or for the end is waited for. A
    /// verification behind the cutover takes neither away, whatever became of it.
    pub fn awaits_last_word(&self) -> bool {
        match self.phase {
            Phase::Held { step } => step == StepName::Finish,
            Phase::Running { step } | Phase::Stopped { step, .. } => step == StepName::VerifyBack,
            Phase::Pending | Phase::TakingBack { .. } | Phase::Aborting { .. } | Phase::Aborted | Phase::Succeeded => {
                false
            }
        }
    }

    /// A verification behind the cutover that the operator's word overtakes is not tried
    /// again. What is under way of it is stopped.
    pub(super) fn overtake_verification(&mut self) {
        for act in &mut self.steps[StepName::VerifyBack.index()].acts {
            if act.command().is_none() {
                act.state = ActState::Idle;
            }
        }
    }
}
