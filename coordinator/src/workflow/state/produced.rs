//! What acts have produced, as far as others need it.

use super::super::act::{
    Barrier, CheckServer, CheckServerResult, CompareRows, CountRows, Fence, FenceSource, FinishMigration, Inventory,
    Outcome, RaiseBarrier, ReachPeer, RowComparison, RowCounts,
};
use super::super::finding::Finding;
use super::super::{ActKind, ActRef, Side, StepName};
use super::{ActState, State};

impl State {
    /// What the latest inspection of a side found.
    pub fn findings(&self, side: Side) -> &[Finding] {
        self.inspection(side).map_or(&[], |read| read.findings.as_slice())
    }

    /// What the latest inspection of the source read.
    pub fn source_inventory(&self) -> Option<&Inventory> {
        self.inventory(Side::Source)
    }

    /// What the latest inspection of a side read.
    pub fn inventory(&self, side: Side) -> Option<&Inventory> {
        self.inspection(side).map(|read| &read.inventory)
    }

    fn inspection(&self, side: Side) -> Option<&CheckServerResult> {
        let act = ActRef::find(StepName::Inspect, side, ActKind::CheckServer)?;
        self.act(act).outcome.as_deref()?.read::<CheckServer>()
    }

    /// Whether an agent said that it reaches the other one through the
    /// coordinator.
    pub fn relayed(&self) -> bool {
        [Side::Source, Side::Destination].into_iter().any(|side| {
            let act = ActRef::find(StepName::Connect, side, ActKind::ReachPeer);
            let outcome = act.and_then(|act| self.act(act).outcome.as_deref());
            outcome.and_then(Outcome::read::<ReachPeer>).is_some_and(|reached| reached.relayed)
        })
    }

    /// What an act produced, if it is done.
    pub fn produced(&self, act: ActRef) -> Option<&Outcome> {
        let entry = self.act(act);
        if entry.state == ActState::Performed { entry.outcome.as_deref() } else { None }
    }

    /// The barrier of a switch or of a round of its rehearsal, if it stands.
    pub fn barrier(&self, step: StepName) -> Option<&Barrier> {
        self.produced(ActRef::raise(step))?.read::<RaiseBarrier>()
    }

    /// The fence of a switch, if it stands. A rehearsal has none.
    pub fn fence(&self, step: StepName) -> Option<&Fence> {
        if !step.is_switch() {
            return None;
        }
        self.produced(ActRef::fence(step))?.read::<FenceSource>()
    }

    pub fn counted(&self, act: ActRef) -> Option<&RowCounts> {
        self.act(act).outcome.as_deref()?.read::<CountRows>()
    }

    /// What a verification found of rows, if it looked at them.
    pub fn compared(&self, step: StepName) -> Option<&RowComparison> {
        let index = step.row().acts.iter().position(|act| act.act.kind == ActKind::CompareRows)?;
        let act = ActRef { step, index };
        self.act(act).outcome.as_deref()?.read::<CompareRows>().filter(|_| self.due(act))
    }

    /// The statements that lift the source's fence, once finish has told them.
    pub fn unfence_statements(&self) -> &[String] {
        let act = ActRef::find(StepName::Finish, Side::Source, ActKind::FinishMigration);
        let finished = act.and_then(|act| self.act(act).outcome.as_deref()?.read::<FinishMigration>());
        finished.map_or(&[], |finished| finished.unfence_statements.as_slice())
    }
}
