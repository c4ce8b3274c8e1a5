//! Where an act stands in the table.

use serde::{Deserialize, Serialize};

use super::{ActKind, ActRow, Side, StepName, Verb};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActRef {
    pub step: StepName,
    /// Its place among the acts of the step.
    pub index: usize,
}

impl ActRef {
    pub fn row(self) -> Option<&'static ActRow> {
        self.step.row().acts.get(self.index)
    }

    pub fn kind(self) -> Option<ActKind> {
        self.row().map(|row| row.act.kind)
    }

    /// The only act of that kind and side in a step.
    pub fn find(step: StepName, side: Side, kind: ActKind) -> Option<Self> {
        let index = step.row().acts.iter().position(|act| act.side == side && act.act.kind == kind)?;
        Some(Self { step, index })
    }

    /// The act of a switch, or of its rehearsal, whose start begins the outage.
    pub fn raise(step: StepName) -> Self {
        // A rehearsal first awaits the lag.
        Self { step, index: 2 + usize::from(step.is_rehearsal()) }
    }

    pub fn drain(step: StepName) -> Self {
        Self { step, index: Self::raise(step).index + 1 }
    }

    /// The durable fence of a switch.
    pub const fn fence(switch: StepName) -> Self {
        Self { step: switch, index: 4 }
    }

    /// The act of a switch that nothing takes back.
    pub const fn open(switch: StepName) -> Self {
        Self { step: switch, index: 5 }
    }

    /// The end of a switch's barrier, after the other side has opened.
    pub const fn release(switch: StepName) -> Self {
        Self { step: switch, index: 6 }
    }

    pub fn is_decision(self) -> bool {
        self.step.is_switch() && self == Self::open(self.step)
    }

    /// Whether the outage of a switch, or the pause of its rehearsal, begins with it.
    pub fn begins_the_outage(self) -> bool {
        self.step.keeps_writers_waiting() && self == Self::raise(self.step)
    }

    /// Whether writers wait for its end: from the barrier to its release.
    pub fn is_waited_for(self, verb: Verb) -> bool {
        match verb {
            Verb::Perform => {
                let released = Self::release(self.step);
                self.step.keeps_writers_waiting() && (Self::raise(self.step)..=released).contains(&self)
            }
            Verb::Undo => self.begins_the_outage(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ActKind as Do;
    use super::*;

    #[test]
    fn named_acts_are_what_they_say() {
        for switch in [StepName::Cutover, StepName::Rollback] {
            for (act, kind) in [
                (ActRef::raise(switch), Do::RaiseBarrier),
                (ActRef::drain(switch), Do::DrainToMarker),
                (ActRef::fence(switch), Do::FenceSource),
                (ActRef::open(switch), Do::OpenDestination),
                (ActRef::release(switch), Do::ReleaseBarrier),
            ] {
                assert_eq!(act.row().map(|row| row.act.kind), Some(kind));
            }
        }
        for rehearsal in [StepName::CutoverRehearsal, StepName::RollbackRehearsal] {
            for (act, kind) in
                [(ActRef::raise(rehearsal), Do::RaiseBarrier), (ActRef::drain(rehearsal), Do::DrainToMarker)]
            {
                assert_eq!(act.row().map(|row| row.act.kind), Some(kind));
            }
        }
    }
}
