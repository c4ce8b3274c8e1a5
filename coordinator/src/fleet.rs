//! The agents: who is attached, and the way to them.
//!
//! **Invariant:** an agent has at most one session, the one with the highest
//! epoch. The fleet decides nothing; what it cannot deliver is sent again when
//! the agent comes back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use pgportage_link::{Clock, Failure, fail_point};
use pgportage_proto::{Reason, v1};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::message::refusal;
use crate::store::AgentRecord;

/// Messages waiting for one agent's stream. Each running migration of an agent
/// has at most two commands, two cancels and a few acknowledgements under way;
/// an agent that lets this many pile up does not read, and loses its session.
pub(crate) const OUTBOX: usize = 1024;

/// What the coordinator says to an agent.
pub(crate) type Down = v1::attach_agent_response::Message;

/// Whether an agent can be given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    Attached,
    /// The last one ended with goodbye.
    Detached,
    /// The last one broke.
    Lost,
}

/// One agent as the fleet knows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// What the store keeps.
    pub record: AgentRecord,
    /// Whether it can be given work.
    pub attachment: Attachment,
}

/// Every agent ever heard from.
#[derive(Debug)]
pub struct Fleet {
    clock: Clock,
    agents: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    record: AgentRecord,
    line: Option<Line>,
}

/// The way to an attached agent.
#[derive(Debug)]
struct Line {
    epoch: i64,
    outbox: mpsc::Sender<Down>,
    /// The newest beat of this session. Zero before the first: the agent would
    /// refuse a command that names none.
    heartbeat: i64,
    /// Says that the session is over.
    over: CancellationToken,
}

impl Fleet {
    /// Nobody is attached yet; `records` are the agents known from before.
    pub fn new(clock: Clock, records: Vec<AgentRecord>) -> Self {
        let agents = records.into_iter().map(|record| (record.name.clone(), Entry { record, line: None })).collect();
        Self { clock, agents: Mutex::new(agents) }
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session in; an earlier one of the same agent is over. Returns the
    /// token that ends this one.
    pub fn attach(&self, record: AgentRecord, outbox: mpsc::Sender<Down>) -> Result<CancellationToken, Failure> {
        let mut agents = self.agents();
        let epoch = record.session_epoch;
        if let Some(entry) = agents.get(&record.name)
            && entry.record.session_epoch >= epoch
        {
            return Err(
                refusal(Reason::StaleSession, "a later session of this agent has begun").with("agent", &record.name)
            );
        }
        let over = CancellationToken::new();
        let line = Line { epoch, outbox, heartbeat: 0, over: over.clone() };
        let name = record.name.clone();
        if let Some(Entry { line: Some(earlier), .. }) = agents.insert(name, Entry { record, line: Some(line) }) {
            earlier.over.cancel();
        }
        Ok(over)
    }

    /// Takes note that a session has ended. Ignored when a later one began.
    pub fn detach(&self, name: &str, epoch: i64, left: bool) {
        let now = self.clock.wall();
        if let Some(entry) = self.agents().get_mut(name)
            && entry.line.as_ref().is_some_and(|line| line.epoch == epoch)
        {
            entry.line = None;
            entry.record.left = left;
            entry.record.contact_time = now;
        }
    }

    /// Takes note of a beat. Returns whether it is the first of its session: from
    /// then on the agent takes commands.
    pub fn beat(&self, name: &str, epoch: i64, sequence: i64) -> bool {
        let now = self.clock.wall();
        let mut agents = self.agents();
        let Some(entry) = agents.get_mut(name) else { return false };
        entry.record.contact_time = now;
        match &mut entry.line {
            Some(line) if line.epoch == epoch => {
                let first = line.heartbeat == 0 && sequence > 0;
                line.heartbeat = line.heartbeat.max(sequence);
                first
            }
            Some(_) | None => false,
        }
    }

    /// Sends a command to an agent that is attached and has been heard from. It
    /// may still get lost; it is sent again when the agent comes back.
    pub fn command(&self, name: &str, mut command: v1::Command) -> Result<(), Failure> {
        let mut agents = self.agents();
        let line = agents.get_mut(name).and_then(|entry| entry.line.as_mut()).filter(|line| line.ready());
        let Some(line) = line else { return Err(not_attached(name)) };
        command.heartbeat_sequence = line.heartbeat;
        fail_point::hit("coordinator.send.command");
        line.submit(Down::Command(command)).then_some(()).ok_or_else(|| not_attached(name))
    }

    /// Asks an attached agent. The question may still get lost; it is not said
    /// again.
    pub fn ask(&self, name: &str, question: v1::Question) -> Result<(), Failure> {
        let agents = self.agents();
        let line = agents.get(name).and_then(|entry| entry.line.as_ref());
        let asked = line.is_some_and(|line| line.submit(Down::Question(question)));
        asked.then_some(()).ok_or_else(|| not_attached(name))
    }

    /// Says something else to an attached agent. Lost when there is none.
    pub fn tell(&self, name: &str, message: Down) {
        fail_point::hit("coordinator.send.word");
        if let Some(Entry { line: Some(line), .. }) = self.agents().get_mut(name) {
            line.submit(message);
        }
    }

    /// Whether an agent can be given work now: it is attached and was heard from.
    pub fn ready(&self, name: &str) -> bool {
        self.agents().get(name).and_then(|entry| entry.line.as_ref()).is_some_and(Line::ready)
    }

    /// Whether an agent has a session.
    pub fn attached(&self, name: &str) -> bool {
        self.agents().get(name).is_some_and(|entry| entry.line.is_some())
    }

    pub fn get(&self, name: &str) -> Option<Known> {
        self.agents().get(name).map(Entry::known)
    }

    /// Every agent, by name.
    pub fn list(&self) -> Vec<Known> {
        self.agents().values().map(Entry::known).collect()
    }

    /// When an agent was last heard from.
    pub fn contact_time(&self, name: &str) -> Option<SystemTime> {
        self.agents().get(name).map(|entry| entry.record.contact_time)
    }
}

impl Line {
    fn ready(&self) -> bool {
        self.heartbeat > 0
    }

    /// An agent that does not read loses its session.
    fn submit(&self, message: Down) -> bool {
        let sent = self.outbox.try_send(message).is_ok();
        if !sent {
            self.over.cancel();
        }
        sent
    }
}

impl Entry {
    fn known(&self) -> Known {
        let attachment = match (&self.line, self.record.left) {
            (Some(_), _) => Attachment::Attached,
            (None, true) => Attachment::Detached,
            (None, false) => Attachment::Lost,
        };
        Known { record: self.record.clone(), attachment }
    }
}

/// The failure of everything that needs an agent which is away.
pub(crate) fn not_attached(name: &str) -> Failure {
    refusal(Reason::AgentNotAttached, format!("agent {name} is not attached"))
        .hint("Look at `pgportage agents`; start the agent, or mend its way to the coordinator.")
        .with("agent", name)
}
