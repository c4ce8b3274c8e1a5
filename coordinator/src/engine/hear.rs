//! What agents say, and what becomes of it.

use pgportage_proto::v1;
use pgportage_report::drift::SchemaDrift;
use pgportage_report::progress::Progress;
use uuid::Uuid;

use super::Engine;
use super::task::Incoming;
use crate::figures::Gauge;
use crate::fleet::Down;
use crate::wire::AgentFact;
use crate::workflow::Side;
use crate::workflow::drift;
use crate::workflow::fact::{CommandId, Origin};
use crate::workflow::spec::{MigrationId, Spec};

impl Engine {
    /// Takes an agent's fact in. It is acknowledged once it is stored. Waits
    /// while the migration's inbox is full.
    pub async fn hear(&self, agent: &str, origin: Origin, fact: AgentFact) {
        let AgentFact { command, sequence, .. } = fact;
        let owner = self.0.commands().get(&command).cloned();
        if let Some(id) = owner
            && let Ok(handle) = self.handle(&id)
        {
            let mail = Incoming::Fact { agent: agent.to_owned(), origin, fact };
            if handle.inbox.send(mail).await.is_ok() {
                return;
            }
            // The task has ended: either the migration is over, and the fact is
            // of no use, or we are stopping, and it will come again.
            if !handle.overview.borrow().state.terminal() {
                return;
            }
            self.acknowledge(agent, command, sequence);
            return;
        }
        let preflight = self.0.preflights().get(&command).cloned();
        match preflight {
            // Full only when its asker has gone.
            Some(asker) => drop(asker.try_send(fact)),
            None => tracing::warn!(agent.id = agent, command.id = %command, "a fact about a command of nobody's"),
        }
        self.acknowledge(agent, command, sequence);
    }

    pub(super) fn acknowledge(&self, agent: &str, command: CommandId, sequence: i64) {
        let command_id = command.to_string();
        self.0.fleet.tell(agent, Down::Ack(v1::FactAck { command_id, sequence }));
    }

    /// What to say about the commands that an agent still answers for: which of
    /// its facts are stored, and which commands nobody needs.
    pub fn reconcile(&self, agent: &str, open: &[(String, i64)]) -> (Vec<(CommandId, i64)>, Vec<String>) {
        let (mut stored, mut abandoned) = (Vec::new(), Vec::new());
        for (text, _) in open {
            let Ok(command) = Uuid::parse_str(text).map(CommandId) else {
                abandoned.push(text.clone());
                continue;
            };
            let owner = self.0.commands().get(&command).cloned();
            let known = owner.and_then(|id| self.overview(&id).ok()).and_then(|overview| {
                let side = overview.state.side_of(command)?;
                let known = overview.state.commands.get(&command)?;
                (overview.state.spec.agent(side) == agent).then_some(known.last_sequence)
            });
            match known {
                Some(0) => {}
                Some(sequence) => stored.push((command, sequence)),
                None if self.0.preflights().contains_key(&command) => {}
                None => abandoned.push(text.clone()),
            }
        }
        (stored, abandoned)
    }

    /// An agent takes commands from now on: everything it has not answered is
    /// sent again.
    pub async fn attached(&self, agent: &str) {
        let handles: Vec<_> = self.0.handles().values().cloned().collect();
        for handle in handles {
            let concerned = {
                let overview = handle.overview.borrow();
                side_of(&overview.state.spec, agent).is_some() && !overview.state.terminal()
            };
            if concerned {
                // Fails when the task has ended, which needs nothing.
                drop(handle.inbox.send(Incoming::Attached { agent: agent.to_owned() }).await);
            }
        }
    }

    /// Takes the news that who is attached has changed to whoever watches.
    pub fn refresh(&self, agent: &str) {
        for handle in self.0.handles().values() {
            handle.overview.send_if_modified(|overview| {
                side_of(&overview.state.spec, agent).is_some() && !overview.state.terminal()
            });
        }
    }

    /// Takes progress in. The latest wins.
    pub fn progressed(&self, agent: &str, command: CommandId, progress: Progress) {
        let owner = self.0.commands().get(&command).cloned();
        let Some(handle) = owner.and_then(|id| self.handle(&id).ok()) else { return };
        handle.overview.send_if_modified(|overview| {
            let state = &overview.state;
            let concerned = state.commands.get(&command).is_some_and(|known| !known.answered)
                && state.side_of(command).is_some_and(|side| state.spec.agent(side) == agent);
            let news = concerned && overview.progress.get(&command) != Some(&progress);
            if news {
                overview.progress.insert(command, progress);
            }
            news
        });
    }

    /// Takes an agent's figures in. The latest win.
    pub fn measured(&self, agent: &str, migration: &str, gauge: Gauge) {
        let Some(handle) = MigrationId::new(migration).ok().and_then(|id| self.handle(&id).ok()) else { return };
        handle.overview.send_if_modified(|overview| {
            let Some(side) = side_of(&overview.state.spec, agent) else { return false };
            self.0.figures.measured(migration, side == overview.state.writable, &gauge);
            let told = overview.drift().cloned();
            overview.gauges.insert(side, gauge);
            self.drifted(migration, told.as_ref(), overview.drift());
            !overview.state.terminal()
        });
    }
}

impl Engine {
    /// Tells those who read metrics and logs how the schemas compare.
    fn drifted(&self, migration: &str, before: Option<&SchemaDrift>, after: Option<&SchemaDrift>) {
        self.0.figures.drifted(migration, after.map(|drift| drift.object_count));
        if before == after {
            return;
        }
        match after {
            Some(drift) if !drift.level() => {
                let failure = drift::failure(drift);
                tracing::warn!(migration.id = migration, reason = %failure.reason, detail = failure.detail, "schema drift: {failure}");
            }
            Some(_) if before.is_some_and(|before| !before.level()) => {
                tracing::info!(migration.id = migration, "the schemas of both sides are level again");
            }
            Some(_) | None => {}
        }
    }
}

/// The part an agent has in a migration, if any.
fn side_of(spec: &Spec, agent: &str) -> Option<Side> {
    [Side::Source, Side::Destination].into_iter().find(|side| spec.agent(*side) == agent)
}
