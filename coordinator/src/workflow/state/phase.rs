//! Where a migration stands.

use pgportage_link::Failure;

use super::super::StepName;

/// Where a migration stands. Every variant is durable: it is what the facts say.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Created. Left by the operator's start or abort.
    Pending,
    /// The acts of a step are carried out, and tried again by themselves while
    /// waiting helps. Left when the step is over.
    Running { step: StepName },
    /// Waits for the operator's word before a step. Left by that word, by a
    /// verification, or by abort.
    Held {
        /// The step that would come next.
        step: StepName,
    },
    /// A step failed in a way that waiting does not mend. Left by retry or
    /// abort.
    Stopped { step: StepName, failure: Failure },
    /// A cutover or a rollback failed before its point of no return, or a round of a
    /// rehearsal is over, and is taken back. Left when everything of it is, or forward
    /// if the other side opened after all.
    TakingBack {
        /// The step that is taken back.
        step: StepName,
        /// Why it failed. None for a round that did what it was to do.
        cause: Option<Failure>,
        /// Why taking back does not go on by itself.
        stop: Option<Failure>,
    },
    /// Everything is taken back at the operator's word. Left when it is.
    Aborting {
        /// Why it does not go on by itself.
        stop: Option<Failure>,
    },
    /// Everything is taken back. Terminal.
    Aborted,
    /// The database has moved, and nothing of ours is left. Terminal.
    Succeeded,
}

impl Phase {
    /// The step that is carried out or taken back, waited for or stopped in.
    pub fn step(&self) -> Option<StepName> {
        match self {
            Self::Running { step }
            | Self::Held { step }
            | Self::Stopped { step, .. }
            | Self::TakingBack { step, .. } => Some(*step),
            Self::Pending | Self::Aborting { .. } | Self::Aborted | Self::Succeeded => None,
        }
    }

    /// The step that is carried out or taken back.
    pub fn under_way(&self) -> Option<StepName> {
        match self {
            Self::Running { step } | Self::TakingBack { step, .. } => Some(*step),
            Self::Pending
            | Self::Held { .. }
            | Self::Stopped { .. }
            | Self::Aborting { .. }
            | Self::Aborted
            | Self::Succeeded => None,
        }
    }
}
