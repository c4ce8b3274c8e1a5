//! The closed set of what an agent can be told to do.
//!
//! **Invariant:** nothing outside [`Action`] is ever carried out. No SQL, no
//! path and no address is part of one.

mod set;

use std::collections::HashMap;
use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{ActKind, Reason, Side, Verb};

use crate::migration::Participation;
use crate::policy::Intent;

pub use set::{Action, Outcome};

/// One typed piece of work, checked.
#[derive(Clone, Debug)]
pub struct Command {
    /// Chosen by the coordinator; the key of everything known about it.
    pub id: String,
    /// The agent's part in the migration, as the coordinator sees it.
    pub participation: Participation,
    /// From 1, growing with every attempt at the same action.
    pub attempt: u32,
    /// How long it may go without progress.
    pub stall_timeout: Duration,
    /// W3C trace context of whoever sent it.
    pub trace_context: HashMap<String, String>,
    /// Epoch of the coordinator that decided.
    pub leader_epoch: i64,
    /// SHA-256 of the plan it belongs to.
    pub plan_digest: Vec<u8>,
    /// Newest heartbeat the coordinator had seen when it decided.
    pub heartbeat_sequence: i64,
    /// Do it, or take it back.
    pub verb: Verb,
    /// What to do.
    pub action: Action,
}

/// Something that happened to a command, numbered and kept by the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// It is stored and will be carried out.
    Accepted,
    /// It is done.
    Succeeded(Outcome),
    /// It is over without success.
    Failed(Failure),
    /// It stopped at a safe point because it was asked to.
    Cancelled(Effect),
}

impl Command {
    /// What the policy is asked.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let (acts, max_outage) = self.action.consequences(self.verb, self.participation.side);
        Intent { kind: self.action.kind(), verb: self.verb, acts, max_outage }
    }

    /// Whether accepting it makes this agent take part in the migration. A mere
    /// question about a server does not.
    #[must_use]
    pub fn begins_participation(&self) -> bool {
        self.action.kind() != ActKind::CheckServer
    }

    /// Whether its success is the last this agent does for the migration:
    /// finished, or taken back to the first act that touched this side.
    #[must_use]
    pub fn ends_participation(&self) -> bool {
        match (self.action.kind(), self.verb, self.participation.side) {
            (ActKind::FinishMigration, Verb::Perform, _)
            | (ActKind::CreateReplicationRole, Verb::Undo, Side::Source)
            | (ActKind::ReachPeer, Verb::Undo, Side::Destination) => true,
            (_, Verb::Perform | Verb::Undo, Side::Source | Side::Destination) => false,
        }
    }

    /// Whether the side fits the action.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`].
    pub fn check_side(&self) -> Result<(), Failure> {
        let (kind, side) = (self.action.kind(), self.participation.side);
        if kind.side().is_some_and(|only| only != side) {
            return Err(Failure::new(Reason::RequestInvalid, format!("{kind} makes no sense on the {side}"))
                .effect(Effect::None));
        }
        Ok(())
    }
}
