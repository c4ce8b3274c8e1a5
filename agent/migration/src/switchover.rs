//! What an agent has to remember of the switchovers of one migration, as one value: which events may happen
//! to it ([`SwitchoverRecord::next`]) and what the agent then has to do ([`SwitchoverRecord::due`]). Pure.
//!
//! A switchover *leaves* one side and *enters* the other; each agent has a record of its own. The possible
//! states of the side that is left:
//!
//! | the fence | what this agent knows | clients of its poolers that wait |
//! | --- | --- | --- |
//! | down | it was never put up for this switchover, or was lifted | go on at this side |
//! | may stand | noted before it is put up; whether the other side has opened is not known | wait |
//! | liftable | the other agent has promised, durably, that its side never opens at this epoch | wait until it is lifted |
//! | kept | the other side has opened | are led to the other side |
//!
//! On the side that is entered, only its own decision, a row on its server, says how a switchover ended.
//! Clients that wait there go on once the agent has read that row.
//!
//! **Invariant:** clients are never led to the other side before this agent has learned that it has opened,
//! and never released at a side on which a fence may stand. **Invariant:** a fence is lifted only at the
//! epoch for which the other agent gave its promise. Both hold for every sequence of events that `next`
//! accepts; `switchover/proof.rs` tries to break them.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One switchover, as this side takes part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// Its number. Grows from one switchover of a migration to the next.
    pub epoch: i64,
    /// Whether it leaves or enters this side.
    pub role: Role,
}

/// What a switchover does with a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Applications leave it, for the other one.
    Leaving,
    /// Applications come to it, from the other one.
    Entering,
}

/// The state of a fence on this side, as far as the agent knows it. The number is the epoch of its
/// switchover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
    /// No fence stands of which the outcome is still open.
    #[default]
    Down,
    /// It may stand, and the agent does not know whether the other side has opened.
    MayStand(i64),
    /// It may stand, and the other agent has promised that its side never opens.
    Liftable(i64),
    /// It stands for good: the other side has opened.
    Kept(i64),
}

/// Hooks on the side that is entered that have still to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The switchover.
    pub epoch: i64,
    /// Whether this side is known to have opened. Only then do the hooks have anything to learn.
    pub opened: bool,
}

/// The record of one migration. One row of the journal, written whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwitchoverRecord {
    /// The latest switchover that began to change anything on this side.
    pub latest: Option<Switchover>,
    /// The fence on this side's server, as far as this agent knows it.
    pub fence: Fence,
    /// The latest switchover at which the other side is known to have opened.
    pub left: Option<i64>,
    /// The latest switchover at which the other agent has promised that its side never opens.
    pub promised: Option<i64>,
    /// Clients of this agent's poolers may wait for the end of this switchover.
    pub pause: Option<Switchover>,
    /// This side has opened, and this agent's poolers may lead to the other one.
    pub lead_here: bool,
    /// A switchover that the other agent has to be told about if it is taken back, because clients of its
    /// poolers may wait.
    pub untold: Option<i64>,
    /// The switchover that was to leave this side and whose end its hooks have still to learn.
    pub hooks_on_leaving: Option<i64>,
    /// The same for a switchover that was to enter this side.
    pub hooks_on_entry: Option<Entry>,
}

/// Something that happened in a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Noted before the first hook of a switchover runs: hooks will have to learn how it ended.
    OwesHooks(Switchover),
    /// Noted before the other agent is asked to make the clients of its poolers wait.
    OwesWord(i64),
    /// No client of the other agent's poolers waits, so the other agent needs no message.
    WordIsNotNeeded(i64),
    /// Noted before poolers of this agent are paused.
    Pauses(Switchover),
    /// Noted before the fence is put up.
    Fences(i64),
    /// The server's answer: a fence stands.
    FenceStands(i64),
    /// The server's answer, or the fence was lifted: none stands.
    NoFenceStands,
    /// The other agent has promised that its side never opens at this epoch.
    Promised(i64),
    /// The other side has opened at this epoch.
    OtherOpened(i64),
    /// The operator has stated that the other side is destroyed, and the fence was lifted.
    UnfencedByOperator,
    /// This side has opened.
    Opened {
        /// The switchover that has entered it.
        epoch: i64,
        /// Whether poolers of this agent lead to the other side.
        lead_here: bool,
    },
    /// Clients of poolers that may have waited for this switchover go on.
    LetOn(Switchover),
    /// Every pooler leads to this side. Clients that waited for this switchover, if there is one, go on
    /// with that.
    LeadHere(Option<Switchover>),
    /// The other agent has heard that the switchover was taken back.
    WordWasGiven(i64),
    /// Hooks have learned how it ended.
    HooksTold(Switchover),
}

/// Something that the agent has to do or to ask. Doing it again does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask the other agent whether its side has opened at this epoch. If not, that agent promises that it
    /// never will.
    AskOther(i64),
    /// Lift the fence of this epoch.
    LiftFence(i64),
    /// Lead this agent's poolers, and their clients, to this side.
    LeadHere,
    /// Tell hooks how the switchover ended.
    TellHooks(Switchover, Ended),
    /// Tell the other agent that the switchover was taken back.
    TellOther(i64),
    /// Let clients that wait for this switchover go on at the other side.
    LetOnToOther(Switchover),
    /// Let clients that wait for this switchover go on where they were.
    LetOnAsTheyWere(Switchover),
    /// Read this side's own decision, to learn where clients that wait for this switchover go on.
    AskOwnDecision(Switchover),
}

/// How a switchover ended, for hooks and the other agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The side that is entered has opened.
    Opened,
    /// It was taken back, and no client waits any more.
    TakenBack,
}

/// How long a command works on what is due, so that the agent leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No command works on it.
    No,
    /// A command works on it until this moment at the latest.
    Until(Instant),
    /// A command works on it until the command ends.
    ByCommand,
}

impl Held {
    fn is_free(self, now: Instant) -> bool {
        match self {
            Self::No => true,
            Self::Until(end) => now >= end,
            Self::ByCommand => false,
        }
    }
}

/// What commands are working on in the switchovers of a migration. Not durable: after a restart no command
/// is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Asking about the fence, and lifting it.
    pub fence: Held,
    /// Everything else.
    pub clients: Held,
}

impl InHand {
    /// No command works on anything.
    pub const NOTHING: Self = Self { fence: Held::No, clients: Held::No };
    /// A command, or the coordinator behind it, looks after the fence.
    pub const FENCE: Self = Self { fence: Held::ByCommand, clients: Held::No };
    /// A command looks after everything but the fence.
    pub const CLIENTS: Self = Self { fence: Held::No, clients: Held::ByCommand };
}

/// Where a switchover that leaves this side has led, for everything that waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not known: a fence may stand.
    InDoubt,
    /// It was taken back, or never took effect: applications belong to this side.
    Back,
    /// The other side has opened: applications belong to the other side.
    Forth,
}

/// Why an event cannot have happened, or must not happen, in the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// A later switchover has begun.
    #[error("switchover {epoch} is over: {latest} has begun")]
    Over {
        /// The switchover that the event belongs to.
        epoch: i64,
        /// The later switchover.
        latest: i64,
    },
    /// The switchover of this epoch has the other role on this side.
    #[error("switchover {0} does not do that with this side")]
    OtherRole(i64),
    /// A fence may stand whose switchover has to be settled first.
    #[error("the fence of switchover {0} may stand")]
    Undecided(i64),
    /// The other agent has promised that its side does not open.
    #[error("the other side has promised never to open at switchover {0}")]
    Promised(i64),
    /// The other side has opened.
    #[error("the other side has opened at switchover {0}")]
    OtherOpened(i64),
}

impl From<Illegal> for Failure {
    fn from(illegal: Illegal) -> Self {
        Self::new(Reason::WrongState, format!("this cannot be done with the switchover: {illegal}"))
            .hint("Look at `pgportage status`; the switchover is settled by itself.")
            .remedy(Remedy::Operator)
            .effect(Effect::None)
    }
}

impl SwitchoverRecord {
    /// The record after an event. Only this function changes records.
    ///
    /// # Errors
    ///
    /// [`Illegal`]: the caller must not act on the event.
    pub fn next(&self, event: Event) -> Result<Self, Illegal> {
        let mut next = self.clone();
        match event {
            Event::OwesHooks(Switchover { epoch, role }) => {
                next.begin(epoch, role)?;
                match role {
                    Role::Leaving => next.hooks_on_leaving = Some(epoch),
                    Role::Entering => next.hooks_on_entry = Some(Entry { epoch, opened: false }),
                }
            }
            Event::OwesWord(epoch) => {
                next.begin(epoch, Role::Leaving)?;
                next.untold = Some(epoch);
            }
            Event::WordIsNotNeeded(epoch) | Event::WordWasGiven(epoch) => {
                next.untold = next.untold.filter(|untold| *untold != epoch);
            }
            Event::Pauses(switchover) => {
                next.begin(switchover.epoch, switchover.role)?;
                next.pause = Some(switchover);
            }
            Event::Fences(epoch) => {
                next.begin(epoch, Role::Leaving)?;
                next.fence(epoch)?;
            }
            Event::FenceStands(epoch) => next.fence = self.standing(epoch),
            Event::NoFenceStands => next.fence = Fence::Down,
            Event::Promised(epoch) => next.promise(epoch)?,
            Event::OtherOpened(epoch) => next.leave(epoch)?,
            Event::UnfencedByOperator => {
                next.fence = Fence::Down;
                next.left = None;
            }
            Event::Opened { epoch, lead_here } => next.enter(epoch, lead_here)?,
            Event::LetOn(switchover) => next.pause = next.pause.filter(|pause| *pause != switchover),
            Event::LeadHere(waited) => {
                next.lead_here = false;
                next.pause = next.pause.filter(|pause| Some(*pause) != waited);
            }
            Event::HooksTold(Switchover { epoch, role }) => match role {
                Role::Leaving => next.hooks_on_leaving = next.hooks_on_leaving.filter(|owed| *owed != epoch),
                Role::Entering => next.hooks_on_entry = next.hooks_on_entry.filter(|owed| owed.epoch != epoch),
            },
        }
        Ok(next)
    }

    /// What the agent has to do, in this order, leaving out what a command works on.
    pub fn due(&self, in_hand: InHand, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        if in_hand.fence.is_free(now) {
            match self.fence {
                Fence::Down | Fence::Kept(_) => {}
                Fence::MayStand(epoch) => due.push(Due::AskOther(epoch)),
                Fence::Liftable(epoch) => due.push(Due::LiftFence(epoch)),
            }
        }
        if !in_hand.clients.is_free(now) {
            return due;
        }
        if self.lead_here {
            due.push(Due::LeadHere);
        }
        if let Some(Entry { epoch, opened: true }) = self.hooks_on_entry {
            due.push(Due::TellHooks(Switchover { epoch, role: Role::Entering }, Ended::Opened));
        }
        let owed = self.hooks_on_leaving.map(|epoch| (Switchover { epoch, role: Role::Leaving }, self.way(epoch)));
        if let Some((switchover, Way::Forth)) = owed {
            due.push(Due::TellHooks(switchover, Ended::Opened));
        }
        if let Some(epoch) = self.untold
            && self.way(epoch) == Way::Back
        {
            due.push(Due::TellOther(epoch));
        }
        match self.pause {
            None => {
                // Hooks run last: only when no client waits can applications go on.
                if let Some((switchover, Way::Back)) = owed {
                    due.push(Due::TellHooks(switchover, Ended::TakenBack));
                }
            }
            Some(pause) => match (pause.role, self.way(pause.epoch)) {
                (Role::Entering, _) => due.push(Due::AskOwnDecision(pause)),
                (Role::Leaving, Way::InDoubt) => {}
                (Role::Leaving, Way::Back) => due.push(Due::LetOnAsTheyWere(pause)),
                (Role::Leaving, Way::Forth) => due.push(Due::LetOnToOther(pause)),
            },
        }
        due
    }

    /// Where a switchover that was to leave this side has led, as far as this agent knows.
    pub fn way(&self, epoch: i64) -> Way {
        if self.left == Some(epoch) {
            return Way::Forth;
        }
        match self.fence {
            // Also when the promise was given: clients that go on would meet the fence until it is lifted.
            Fence::MayStand(fenced) | Fence::Liftable(fenced) if fenced == epoch => Way::InDoubt,
            Fence::Down | Fence::MayStand(_) | Fence::Liftable(_) | Fence::Kept(_) => Way::Back,
        }
    }

    /// A switchover begins to change something on this side. After that, nothing of an earlier switchover
    /// may begin.
    fn begin(&mut self, epoch: i64, role: Role) -> Result<(), Illegal> {
        match self.latest {
            // It has ended, so nothing of it may begin any more.
            _ if role == Role::Leaving && self.left >= Some(epoch) => Err(Illegal::OtherOpened(epoch)),
            Some(latest) if latest.epoch > epoch => Err(Illegal::Over { epoch, latest: latest.epoch }),
            Some(latest) if latest.epoch == epoch && latest.role != role => Err(Illegal::OtherRole(epoch)),
            Some(latest) if latest.epoch == epoch => Ok(()),
            Some(_) | None => {
                self.latest = Some(Switchover { epoch, role });
                if role == Role::Leaving {
                    // This side can be left, so poolers lead to it. The other agent, if it waits for the
                    // end of an earlier switchover, learns of this one instead.
                    self.lead_here = false;
                    self.hooks_on_leaving = None;
                    self.untold = None;
                }
                Ok(())
            }
        }
    }

    fn fence(&mut self, epoch: i64) -> Result<(), Illegal> {
        if self.promised >= Some(epoch) {
            return Err(Illegal::Promised(epoch));
        }
        self.fence = match self.fence {
            Fence::MayStand(other) | Fence::Liftable(other) if other != epoch => return Err(Illegal::Undecided(other)),
            // The fence belonged to an earlier switchover: this side was entered again since.
            Fence::Down | Fence::Kept(_) | Fence::MayStand(_) | Fence::Liftable(_) => Fence::MayStand(epoch),
        };
        Ok(())
    }

    /// The fence that the server has: there is at most one.
    fn standing(&self, epoch: i64) -> Fence {
        match self.fence {
            _ if self.left == Some(epoch) => Fence::Kept(epoch),
            Fence::Liftable(liftable) if liftable == epoch => Fence::Liftable(epoch),
            Fence::Down | Fence::MayStand(_) | Fence::Liftable(_) | Fence::Kept(_) => Fence::MayStand(epoch),
        }
    }

    fn promise(&mut self, epoch: i64) -> Result<(), Illegal> {
        if self.left == Some(epoch) {
            return Err(Illegal::OtherOpened(epoch));
        }
        self.promised = self.promised.max(Some(epoch));
        if self.fence == Fence::MayStand(epoch) {
            self.fence = Fence::Liftable(epoch);
        }
        Ok(())
    }

    fn leave(&mut self, epoch: i64) -> Result<(), Illegal> {
        // For a switchover that has left this side before, this says nothing new.
        if self.left < Some(epoch) && self.promised >= Some(epoch) {
            return Err(Illegal::Promised(epoch));
        }
        if self.fence == Fence::MayStand(epoch) {
            self.fence = Fence::Kept(epoch);
        }
        self.left = self.left.max(Some(epoch));
        // The other agent knows that its own side has opened.
        self.untold = self.untold.filter(|untold| *untold != epoch);
        Ok(())
    }

    fn enter(&mut self, epoch: i64, lead_here: bool) -> Result<(), Illegal> {
        // Reported again after the next switchover has begun: it changes nothing any more.
        if self.latest.is_some_and(|latest| latest.epoch > epoch) {
            return Ok(());
        }
        self.begin(epoch, Role::Entering)?;
        // The transaction of the decision has removed the fence.
        self.fence = Fence::Down;
        self.lead_here |= lead_here;
        if let Some(entry) = &mut self.hooks_on_entry {
            entry.opened |= entry.epoch == epoch;
        }
        Ok(())
    }
}

#[cfg(test)]
mod proof;
