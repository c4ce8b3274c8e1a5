//! The part of the transition function that is about certificates: what agents state
//! about a switch behind its decision, and that a statement which does not come
//! holds nothing up.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgportage_link::{Failure, Remedy};

use super::super::act::SignedStatement;
use super::super::{ActRef, Side, StepName};
use super::{ActState, State};

/// Attempts at what holds nothing up: with their pauses, about a minute.
const PATIENCE: u32 = 8;

/// What is stated about one switch that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Which way: the step of the cutover or of the rollback.
    pub step: StepName,
    /// What each side's agent stated, or why it did not when it was asked last.
    pub statements: BTreeMap<Side, Result<Arc<SignedStatement>, Failure>>,
}

impl State {
    /// Whether nothing more is waited for: it is done, or it failed for good and
    /// holds nothing up.
    pub fn over(&self, act: ActRef) -> bool {
        let entry = self.act(act);
        match &entry.state {
            ActState::Performed => true,
            ActState::Failed { failure } => {
                let for_good = failure.remedy != Remedy::Wait || entry.streak >= PATIENCE;
                for_good && act.row().is_some_and(|row| !row.holds_up())
            }
            ActState::Idle | ActState::Performing { .. } | ActState::Undoing { .. } => false,
            ActState::UndoFailed { .. } | ActState::Undone => false,
        }
    }

    /// The switch under way is decided: from here on there is something to state.
    pub(super) fn begin_certificate(&mut self) {
        if let Some(cutover) = self.cutover.as_ref().filter(|cutover| cutover.certified) {
            let (epoch, step) = (cutover.epoch, cutover.step);
            self.certificates.entry(epoch).or_insert_with(|| Certificate { step, statements: BTreeMap::new() });
        }
    }

    /// Keeps what an agent states about the switch under way, or why it does not.
    pub(super) fn certify(&mut self, side: Side, stated: Result<&SignedStatement, &Failure>) {
        let epoch = self.cutover.as_ref().map(|cutover| cutover.epoch);
        if let Some(certificate) = epoch.and_then(|epoch| self.certificates.get_mut(&epoch)) {
            let stated = stated.map(|signed| Arc::new(signed.clone())).map_err(Clone::clone);
            certificate.statements.insert(side, stated);
        }
    }
}
