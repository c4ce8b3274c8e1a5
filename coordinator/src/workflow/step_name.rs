//! The names of the steps, and how they follow each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ActKind, StepRow, TABLE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// Settings and catalogs are read on both sides.
    Inspect,
    /// The agents reach each other; the replication credential is made.
    Connect,
    /// Tables without a replica identity get one, with consent.
    Identity,
    /// Our schema, the marker and heartbeat tables, the publication.
    Publication,
    /// Applications are kept out of the destination.
    Close,
    /// The source's schema is restored on the destination.
    Schema,
    /// The slot, and the rows of its snapshot.
    Copy,
    /// The subscription.
    Subscribe,
    /// Every table follows the stream, then the lag under its limit.
    CatchUp,
    /// What lets the migration return after its cutover, made and proved.
    Reverse,
    /// Rows and schema compared while writes go on.
    Verify,
    /// The cutover is tried up to where nothing durable has happened.
    CutoverRehearsal,
    /// The applications' way is switched to the destination.
    Cutover,
    /// Rows, sequences and schema compared while changes flow back.
    VerifyBack,
    /// The rollback is tried up to where nothing durable has happened.
    RollbackRehearsal,
    /// The applications' way is switched back to the source.
    Rollback,
    /// Everything of ours removed.
    Finish,
}

impl StepName {
    /// The stable name, as in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Connect => "connect",
            Self::Identity => "identity",
            Self::Publication => "publication",
            Self::Close => "close",
            Self::Schema => "schema",
            Self::Copy => "copy",
            Self::Subscribe => "subscribe",
            Self::CatchUp => "catch-up",
            Self::Reverse => "reverse",
            Self::Verify => "verify",
            Self::CutoverRehearsal => "cutover-rehearsal",
            Self::Cutover => "cutover",
            Self::VerifyBack => "verify-back",
            Self::RollbackRehearsal => "rollback-rehearsal",
            Self::Rollback => "rollback",
            Self::Finish => "finish",
        }
    }

    /// The step of that stable name.
    pub fn parse(text: &str) -> Option<Self> {
        TABLE.iter().map(|row| row.name).find(|name| name.as_str() == text)
    }

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn row(self) -> &'static StepRow {
        &TABLE[self.index()]
    }

    /// Where a migration goes when this step is done. A cutover leads past the
    /// rollback, and a rollback to where the next cutover is waited for. What is
    /// rehearsed comes next as before.
    pub fn following(self) -> Option<Self> {
        match self {
            Self::Verify | Self::CutoverRehearsal | Self::Rollback => Some(Self::Cutover),
            Self::Cutover | Self::VerifyBack | Self::RollbackRehearsal => Some(Self::Finish),
            Self::Inspect
            | Self::Connect
            | Self::Identity
            | Self::Publication
            | Self::Close
            | Self::Schema
            | Self::Copy
            | Self::Subscribe
            | Self::CatchUp
            | Self::Reverse
            | Self::Finish => TABLE.get(self.index() + 1).map(|row| row.name),
        }
    }

    /// Whether it compares both sides.
    pub fn is_verification(self) -> bool {
        self.row().acts.iter().any(|act| act.act.kind == ActKind::CompareRows)
    }

    /// Whether it is carried out only where an operator asks for it, as often as one
    /// likes, and leaves a migration where it was.
    pub fn is_optional(self) -> bool {
        self == Self::VerifyBack || self.is_rehearsal()
    }

    /// Whether it switches the applications' way: leaves one side, enters the other.
    pub fn is_switch(self) -> bool {
        self.row().has_point_of_no_return()
    }

    /// Whether it keeps writers waiting and can only be taken back.
    pub fn is_rehearsal(self) -> bool {
        self.keeps_writers_waiting() && !self.is_switch()
    }

    /// Whether it raises a barrier, in earnest or not.
    pub fn keeps_writers_waiting(self) -> bool {
        self.row().acts.iter().any(|act| act.act.kind == ActKind::RaiseBarrier)
    }

    /// What is rehearsed in this step, if it is a rehearsal.
    pub fn rehearsed(self) -> Option<Self> {
        REHEARSALS.into_iter().find_map(|(rehearsal, switch)| (rehearsal == self).then_some(switch))
    }

    /// The step in which this switch is rehearsed, if it is one.
    pub fn rehearsal(self) -> Option<Self> {
        REHEARSALS.into_iter().find_map(|(rehearsal, switch)| (switch == self).then_some(rehearsal))
    }

    /// Where a migration is held that waits for the word for this switch: both verbs
    /// that may follow a cutover wait at the last step.
    pub fn held_at(self) -> Self {
        let switch = self.rehearsed().unwrap_or(self);
        if switch == Self::Rollback { Self::Finish } else { switch }
    }
}

/// Each rehearsal and what is rehearsed in it.
pub(super) const REHEARSALS: [(StepName, StepName); 2] =
    [(StepName::CutoverRehearsal, StepName::Cutover), (StepName::RollbackRehearsal, StepName::Rollback)];

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
