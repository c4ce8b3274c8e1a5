//! Commands, and what becomes of them.

use std::collections::HashMap;
use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_proto::{Reason, Verb, v1};

use crate::act::AnyAct;
use crate::policy::Intent;

/// One typed piece of work, checked.
#[derive(Debug)]
pub struct Command {
    /// Chosen by the coordinator; everything known about the command is stored under it.
    pub id: String,
    /// The agent's part in the migration, as the coordinator sees it.
    pub participation: Participation,
    /// From 1, growing with every attempt at the same act.
    pub attempt: u32,
    /// How long it may go without progress.
    pub stall_timeout: Duration,
    /// W3C trace context of the coordinator's span that sent it.
    pub trace_context: HashMap<String, String>,
    /// Epoch of the coordinator that decided.
    pub leader_epoch: i64,
    /// SHA-256 of the plan it belongs to.
    pub plan_digest: Vec<u8>,
    /// Newest heartbeat the coordinator had seen when it decided.
    pub heartbeat_sequence: i64,
    /// The coordinator's step that the act belongs to. May be empty.
    pub step: String,
    /// Perform the act, or take it back.
    pub verb: Verb,
    /// What to do.
    pub act: Box<dyn AnyAct>,
}

/// Something that happened to a command, numbered and kept by the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// It is stored and will be carried out.
    Accepted,
    /// It succeeded. The result is the contract's, because that is what is kept.
    Succeeded(v1::CommandResult),
    /// It failed.
    Failed(Failure),
    /// It stopped at a safe point because the coordinator asked it to.
    Cancelled(Effect),
}

impl Command {
    /// What the policy has to allow.
    pub fn intent(&self) -> Intent {
        self.act.intent(self.verb, self.participation.side)
    }

    /// Whether its success ends this agent's part in the migration.
    pub(crate) fn ends_participation(&self) -> bool {
        self.act.ends_participation(self.verb, self.participation.side)
    }

    /// Whether the side fits the act.
    pub(crate) fn check_side(&self) -> Result<(), Failure> {
        let (kind, side) = (self.act.kind(), self.participation.side);
        if self.act.only_side().is_some_and(|only| only != side) {
            return Err(Failure::new(Reason::RequestInvalid, format!("{kind} makes no sense on the {side}"))
                .effect(Effect::None));
        }
        Ok(())
    }
}
