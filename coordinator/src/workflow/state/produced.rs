//! What acts have produced, as far as others need it.

use super::super::finding::Finding;
use super::super::outcome::{Inventory, Outcome, RowComparison, RowCounts};
use super::super::{ActKind, ActRef, Side, StepName};
use super::State;

impl State {
    /// What the latest inspection of a side found.
    #[must_use]
    pub fn findings(&self, side: Side) -> &[Finding] {
        match ActRef::find(StepName::Inspect, side, ActKind::CheckServer)
            .and_then(|act| self.act(act).outcome.as_deref())
        {
            Some(Outcome::CheckServer { findings, .. }) => findings,
            _other => &[],
        }
    }

    /// What the latest inspection of the source read.
    #[must_use]
    pub fn source_inventory(&self) -> Option<&Inventory> {
        match self.act(ActRef { step: StepName::Inspect, index: 0 }).outcome.as_deref() {
            Some(Outcome::CheckServer { inventory, .. }) => Some(inventory),
            _other => None,
        }
    }

    /// Whether an agent said that it reaches the other one through the
    /// coordinator.
    #[must_use]
    pub fn relayed(&self) -> bool {
        [Side::Source, Side::Destination].into_iter().any(|side| {
            let act = ActRef::find(StepName::Connect, side, ActKind::ReachPeer);
            let outcome = act.and_then(|act| self.act(act).outcome.as_deref());
            matches!(outcome, Some(Outcome::ReachPeer(reached)) if reached.relayed)
        })
    }

    /// What an act of a verification counted.
    #[must_use]
    pub fn counted(&self, act: ActRef) -> Option<&RowCounts> {
        match self.act(act).outcome.as_deref() {
            Some(Outcome::CountRows(counts)) => Some(counts),
            _other => None,
        }
    }

    /// What a verification found of rows, if it looked at them.
    #[must_use]
    pub fn compared(&self, step: StepName) -> Option<&RowComparison> {
        let index = step.row().acts.iter().position(|act| act.kind == ActKind::CompareRows)?;
        let act = ActRef { step, index };
        match self.act(act).outcome.as_deref() {
            Some(Outcome::CompareRows(compared)) if self.due(act) => Some(compared),
            _other => None,
        }
    }

    /// The statements that lift the source's fence, once finish has told them.
    #[must_use]
    pub fn unfence_statements(&self) -> &[String] {
        let act = ActRef::find(StepName::Finish, Side::Source, ActKind::FinishMigration);
        match act.and_then(|act| self.act(act).outcome.as_deref()) {
            Some(Outcome::FinishMigration { unfence_statements }) => unfence_statements,
            _other => &[],
        }
    }
}
