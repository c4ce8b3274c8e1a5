//! What agents are told of a migration: commands, cancels, how fast to read.

use std::sync::Arc;

use pgportage_link::fail_point;
use pgportage_proto::v1;

use super::Task;
use crate::fleet::Down;
use crate::wire;
use crate::workflow::Side;
use crate::workflow::fact::{CommandId, Issued};
use crate::workflow::spec::Rate;

impl Task {
    pub(super) fn send(&self, issued: &Issued) {
        let Some(row) = issued.act.row() else { return };
        let agent = self.state.spec.agent(row.side);
        let command = wire::command(
            self.state.id.as_str(),
            &self.state.spec,
            &self.state.plan_digest,
            issued,
            row.side,
            self.engine.0.leader_epoch(),
        );
        fail_point::hit("coordinator.before_send.command");
        if let Err(failure) = self.engine.0.fleet.command(agent, command) {
            tracing::info!(migration.id = %self.state.id, command.id = %issued.command, "not sent yet: {failure}");
        }
        if row.side == Side::Source {
            self.send_tuning();
        }
    }

    /// Tells the source's agent how fast it may read. Behind a command: with its
    /// first one an agent learns that there is a migration.
    pub(super) fn send_tuning(&self) {
        let (migration_id, max_rate_bytes) = (self.state.id.to_string(), Rate::bytes(self.state.max_rate));
        let tuning = v1::Tuning { migration_id, max_rate_bytes };
        self.engine.0.fleet.tell(self.state.spec.agent(Side::Source), Down::Tuning(tuning));
    }

    pub(super) fn cancel(&mut self, command: CommandId) {
        if !self.cancelled.insert(command) {
            return;
        }
        if let Some(side) = self.state.side_of(command) {
            let agent = self.state.spec.agent(side);
            self.engine.0.fleet.tell(agent, Down::Cancel(v1::CancelCommand { command_id: command.to_string() }));
        }
    }

    /// Sends an agent that came back everything it has not answered, as it was.
    pub(super) fn resend(&mut self, agent: &str) {
        self.cancelled.clear();
        let state = &self.state;
        let open: Vec<_> = state
            .unanswered()
            .filter(|known| state.side_of(known.issued.command).is_some_and(|side| state.spec.agent(side) == agent))
            .map(|known| Arc::clone(&known.issued))
            .collect();
        for issued in open {
            self.send(&issued);
        }
        if self.state.spec.agent(Side::Source) == agent {
            self.send_tuning();
        }
    }
}
