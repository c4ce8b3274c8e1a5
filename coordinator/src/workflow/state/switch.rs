//! The part of the transition function that is about switches: how a try begins, how
//! it is given up, and how one whose decision is known goes forward.

use std::sync::Arc;
use std::time::Duration;

use pgportage_link::Failure;

use super::super::act::open_destination::OpenDestinationResult;
use super::super::act::{DrainToMarker, Fence, FenceSource, OpenDestination, Outcome, RaiseBarrier};
use super::super::{ActRef, StepName};
use super::transition::Applied;
use super::{ActState, Cutover, CutoverEnd, Phase, State, Trial};

impl State {
    pub(super) fn switch_requested(
        &mut self,
        step: StepName,
        Trial { epoch, max_outage, compare_limit, without_poolers }: Trial,
        certified: bool,
    ) -> Applied {
        self.must(epoch >= self.next_cutover_epoch(), "its number is not new")?;
        self.cutover = Some(Cutover {
            step,
            epoch,
            max_outage,
            compare_limit,
            certified,
            without_poolers,
            end: None,
            outage_start_time: None,
            barrier: None,
            drain_time: None,
            compared: None,
            drained_after: None,
            fence: None,
        });
        self.count_anew(step);
        self.begin(step);
        Ok(())
    }

    /// Attempts and time of the step are from here on those of a new try at it.
    pub(super) fn count_anew(&mut self, step: StepName) {
        let entry = &mut self.steps[step.index()];
        (entry.start_time, entry.end_time) = (None, None);
        for act in &mut entry.acts {
            act.earlier_attempts = act.attempts;
        }
    }

    /// Applications are where they were before the first cutover: nothing of the
    /// switches is there to be taken back, and the next one begins a new round.
    pub(super) fn forget_switches(&mut self) {
        for step in [StepName::Cutover, StepName::Rollback] {
            self.lay_out(step);
            for act in &mut self.steps[step.index()].acts {
                act.touched = false;
                act.accepted = false;
            }
        }
        self.steps[StepName::Cutover.index()].succeeded = false;
        self.count_anew(StepName::Cutover);
    }

    pub(super) fn take_back(&mut self, step: StepName, cause: &Failure) {
        for act in &mut self.steps[step.index()].acts {
            act.streak = 0;
        }
        self.phase = Phase::TakingBack { step, cause: Some(cause.clone()), stop: None };
    }

    /// The fence cannot be lifted because the other side opened: whatever its
    /// answer to us was, the decision stands, and the way is forward.
    pub(super) fn go_forward(&mut self) {
        let step = self.switch();
        let (decision, fencing) = (ActRef::open(step), ActRef::fence(step));
        let open = Arc::new(Outcome::of::<OpenDestination>(OpenDestinationResult { open_lsn: String::new() }));
        self.performed(decision, open, None);
        let fence =
            self.act(fencing).outcome.clone().unwrap_or_else(|| Arc::new(Outcome::of::<FenceSource>(Fence::default())));
        self.performed(fencing, fence, None);
        for act in &mut self.steps[step.index()].acts[..decision.index] {
            act.state = ActState::Performed;
        }
        self.act_mut(ActRef::release(step)).state = ActState::Idle;
        self.phase = Phase::Running { step };
    }
}

impl Cutover {
    /// From the drain to the decision. None when either is not known.
    pub(super) fn rest(&self) -> Option<Duration> {
        match self.end {
            Some(CutoverEnd::Opened { outage, .. }) => Some(outage?.saturating_sub(self.drained_after?)),
            Some(CutoverEnd::TakenBack { .. }) | None => None,
        }
    }

    /// Keeps what the report needs.
    pub(super) fn learn(&mut self, outcome: &Outcome, outage: Option<Duration>) {
        if let Some(barrier) = outcome.read::<RaiseBarrier>() {
            self.barrier = Some(barrier.clone());
        } else if let Some(drained) = outcome.read::<DrainToMarker>() {
            self.drain_time = Some(drained.drain_time);
            self.compared.clone_from(&drained.compared);
            self.drained_after = outage;
        } else if let Some(fence) = outcome.read::<FenceSource>() {
            self.fence = Some(fence.clone());
        } else if let Some(opened) = outcome.read::<OpenDestination>() {
            self.end = Some(CutoverEnd::Opened { open_lsn: opened.open_lsn.clone(), outage });
        }
    }
}
