//! The outgoing messages of one session. Nothing here waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::{Reason, v1};
use pgportage_report::progress::Progress;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::request;
use crate::act::Handles;
use crate::wire;

/// A fact that is not acknowledged by then is sent again in the same session.
const REPEAT_AFTER: Duration = Duration::from_secs(15);

/// Heartbeats whose moment is remembered: they reach further back than a command may be old.
const REMEMBERED_BEATS: usize = 1024;

/// Heartbeats in a row that found no room before the session is given up.
const PATIENCE: u32 = 5;

#[derive(Debug)]
pub(super) struct Outbox {
    handles: Handles,
    outgoing: mpsc::Sender<v1::AttachAgentRequest>,
    /// When each unacknowledged fact was last sent.
    sent: HashMap<(String, i64), Instant>,
    told: BTreeMap<String, Progress>,
    /// When hello and the latest heartbeats were sent; hello is number 0.
    beats: VecDeque<Instant>,
    last_beat: i64,
    dropped_beats: u32,
}

impl Outbox {
    pub(super) fn new(handles: Handles, outgoing: mpsc::Sender<v1::AttachAgentRequest>) -> Self {
        let beats = VecDeque::from([handles.tasks.clock.now()]);
        Self { handles, outgoing, sent: HashMap::new(), told: BTreeMap::new(), beats, last_beat: 0, dropped_beats: 0 }
    }

    /// Sends the first message. There is always room for it.
    pub(super) fn hello(&mut self, hello: v1::Hello) {
        let _room = self.send(Up::Hello(hello));
        self.beats = VecDeque::from([self.handles.tasks.clock.now()]);
    }

    /// Sends a heartbeat, or gives the session up when the coordinator has not read for several of them.
    pub(super) fn heartbeat(&mut self) -> Result<(), Failure> {
        let beat = wire::heartbeat(self.last_beat + 1, self.handles.gauges.snapshot());
        if self.send(Up::Heartbeat(beat)) {
            self.last_beat += 1;
            self.dropped_beats = 0;
            self.beats.push_back(self.handles.tasks.clock.now());
            if self.beats.len() > REMEMBERED_BEATS {
                self.beats.pop_front();
            }
            return Ok(());
        }
        self.dropped_beats += 1;
        if self.dropped_beats < PATIENCE {
            return Ok(());
        }
        Err(Failure::new(Reason::PeerUnreachable, "the coordinator does not read what it is sent").effect(Effect::None))
    }

    /// How long ago a heartbeat of this session was sent. None if it never was, or is no longer remembered.
    pub(super) fn age_of(&self, beat: i64) -> Option<Duration> {
        let back = usize::try_from(self.last_beat.checked_sub(beat)?).ok()?;
        let index = self.beats.len().checked_sub(1)?.checked_sub(back)?;
        Some(self.handles.tasks.clock.now().duration_since(*self.beats.get(index)?))
    }

    /// Sends the facts of the journal that this session has not sent, or sent too long ago.
    pub(super) fn facts(&mut self) -> Result<(), Failure> {
        let now = self.handles.tasks.clock.now();
        let entries = self.handles.journal.facts_to_send()?;
        let mut sent = HashMap::with_capacity(entries.len());
        for entry in entries {
            let key = (entry.command_id.clone(), entry.sequence);
            let at = self.sent.get(&key).copied().filter(|at| now.duration_since(*at) < REPEAT_AFTER);
            let at = match at {
                Some(at) => at,
                // The rest goes with the next heartbeat: the facts of one command are sent in order.
                None if !self.send(Up::Fact(wire::fact(&entry)?)) => break,
                None => now,
            };
            sent.insert(key, at);
        }
        self.sent = sent;
        Ok(())
    }

    /// Sends the facts of one command again.
    pub(super) fn repeat(&mut self, command_id: &str) {
        self.sent.retain(|(id, _), _| id != command_id);
    }

    /// Reports that a command's id is taken.
    pub(super) fn conflict(&mut self, command_id: String, failure: Failure) {
        let fact = wire::conflict(command_id, failure, self.handles.tasks.clock.wall());
        let _room = self.send(Up::Fact(fact));
    }

    /// Sends the progress that has changed.
    pub(super) fn progress(&mut self, progress: BTreeMap<String, Progress>) {
        for (id, latest) in &progress {
            if *latest != Progress::default() && self.told.get(id) != Some(latest) {
                let _room = self.send(Up::Progress(latest.to_message(id.clone())));
            }
        }
        self.told = progress;
    }

    /// Sends the answer to a question. Dropped when there is no room: the coordinator does not wait for
    /// long.
    pub(super) fn answer(&self, answer: v1::Answer) {
        let _room = self.send(Up::Answer(answer));
    }

    pub(super) fn goodbye(&mut self, message: &str) {
        let _room = self.send(Up::Goodbye(v1::Goodbye { message: message.to_owned() }));
    }

    /// Whether there was room. A closed channel counts as room: the other half of the stream reports why it
    /// closed.
    fn send(&self, message: Up) -> bool {
        !matches!(self.outgoing.try_send(request(message)), Err(TrySendError::Full(_)))
    }
}
