//! What an agent has to remember of the switchovers of one migration, as one value: what
//! may have happened to it ([`SwitchoverRecord::next`]) and what has to be done because of
//! it ([`SwitchoverRecord::due`]). Pure.
//!
//! A switchover *leaves* one side and *enters* the other; each agent has a record of its
//! own. What can be, on the side that is left:
//!
//! | the fence | what is known | clients that wait here |
//! | --- | --- | --- |
//! | down | it was never put up for this switchover, or was lifted | go on where they were |
//! | may stand | noted before it is put up; nothing was heard of the other side | wait |
//! | liftable | the other side has promised, durably, never to open at this epoch | wait until it is lifted |
//! | kept | the other side has opened | are led there |
//!
//! On the side that is entered nothing but its own decision, a row on its server, says how
//! a switchover ended: clients that wait there are let on when that row was asked.
//!
//! **Invariant:** clients are never led to the other side before it was heard that it has
//! opened, and never let on at a side on which a fence may stand. **Invariant:** a fence is
//! lifted only at the epoch for which the promise was heard. Both hold for every sequence
//! of events that `next` accepts; `switchover/proof.rs` tries to break them.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One switchover, as this side takes part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// Its number. Grows from one switchover of a migration to the next.
    pub epoch: i64,
    /// What it does with this side.
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

/// What is known of a fence on this side. The number is the epoch of its switchover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
    /// None stands that belongs to a switchover of which anything is still to be heard.
    #[default]
    Down,
    /// It may stand, and whether the other side has opened is not known.
    MayStand(i64),
    /// It may stand, and the other side has promised never to open.
    Liftable(i64),
    /// It stands for good: the other side has opened.
    Kept(i64),
}

/// Hooks on the side that is entered that have still to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The switchover.
    pub epoch: i64,
    /// Whether this side is known to have opened: only then is there anything to tell.
    pub opened: bool,
}

/// The record of one migration. One row of the journal, written whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwitchoverRecord {
    /// The latest switchover that began to change anything on this side.
    pub latest: Option<Switchover>,
    /// What is known of a fence on this side.
    pub fence: Fence,
    /// The latest switchover at which the other side is known to have opened.
    pub left: Option<i64>,
    /// The latest switchover at which the other side has promised never to open.
    pub promised: Option<i64>,
    /// Clients of this agent's poolers may wait for the end of this switchover.
    pub pause: Option<Switchover>,
    /// This side has opened, and this agent's poolers may lead to the other one.
    pub lead_here: bool,
    /// The switchover whose end the other agent has to hear if it is taken back, because
    /// clients of its poolers may wait for it.
    pub untold: Option<i64>,
    /// The switchover that was to leave this side and whose end hooks have still to be told.
    pub hooks_on_leaving: Option<i64>,
    /// The same for one that was to enter it.
    pub hooks_on_entry: Option<Entry>,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Noted before the first hook of a switchover runs: hooks will be told its end.
    OwesHooks(Switchover),
    /// Noted before the other agent is asked to make the clients of its poolers wait.
    OwesWord(i64),
    /// No client of the other agent's poolers waits.
    WordIsNotNeeded(i64),
    /// Noted before poolers of this agent are paused.
    Pauses(Switchover),
    /// Noted before the fence is put up.
    Fences(i64),
    /// The server was asked: a fence stands.
    FenceStands(i64),
    /// The server was asked, or the fence was lifted: none stands.
    NoFenceStands,
    /// The other side has promised never to open at this epoch.
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
    /// Poolers were let on that may have waited for this switchover.
    LetOn(Switchover),
    /// Every pooler leads to this side. With it the clients go on that waited, if any did,
    /// for this switchover.
    LeadHere(Option<Switchover>),
    /// The other agent has heard that the switchover was taken back.
    WordWasGiven(i64),
    /// Hooks were told how it ended.
    HooksTold(Switchover),
}

/// Something that has to be done, or asked. Doing it again does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To ask the other side whether it has opened at this epoch; if not, it promises never
    /// to.
    AskOther(i64),
    /// To lift the fence of this epoch.
    LiftFence(i64),
    /// To lead this agent's poolers to this side, their clients with them.
    LeadHere,
    /// To tell hooks how the switchover ended.
    TellHooks(Switchover, Ended),
    /// To tell the other agent that the switchover was taken back.
    TellOther(i64),
    /// To let clients on that wait for this switchover: to the other side.
    LetOnToOther(Switchover),
    /// To let clients on that wait for this switchover: where they were.
    LetOnAsTheyWere(Switchover),
    /// To ask this side's own decision where clients go on that wait for this switchover.
    AskOwnDecision(Switchover),
}

/// How a switchover ended, for who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The side that is entered has opened.
    Opened,
    /// It was taken back, and nobody waits any more.
    TakenBack,
}

/// How long what is due is in other hands, and left to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is not.
    No,
    /// Until then at most.
    Until(Instant),
    /// For as long as a command works on it.
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

/// What commands have in hand of the switchovers of a migration. Not durable: an agent that
/// was started again has nothing in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Asking about the fence, and lifting it.
    pub fence: Held,
    /// Everything else.
    pub clients: Held,
}

impl InHand {
    /// Nothing: nobody works on it.
    pub const NOTHING: Self = Self { fence: Held::No, clients: Held::No };
    /// The fence: the coordinator or the caller sees to it.
    pub const FENCE: Self = Self { fence: Held::ByCommand, clients: Held::No };
    /// Everything but the fence.
    pub const CLIENTS: Self = Self { fence: Held::No, clients: Held::ByCommand };
}

/// What becomes of something that waits for the end of a switchover that leaves this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not known: a fence may stand.
    InDoubt,
    /// It was taken back, or came to nothing: applications belong here.
    Back,
    /// The other side has opened: applications belong there.
    Forth,
}

/// An event that cannot be, or must not, as things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// A later one has begun.
    #[error("switchover {epoch} is over: {latest} has begun")]
    Over {
        /// The one that is spoken of.
        epoch: i64,
        /// The later one.
        latest: i64,
    },
    /// It does the opposite with this side.
    #[error("switchover {0} does not do that with this side")]
    OtherRole(i64),
    /// A fence may stand whose switchover has to be settled first.
    #[error("the fence of switchover {0} may stand")]
    Undecided(i64),
    /// The other side has promised that it does not.
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
    /// The record after an event. The only writer of records.
    ///
    /// # Errors
    ///
    /// [`Illegal`]: the event must not be acted upon.
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

    /// What has to be done, in this order, of what nobody has in hand.
    #[must_use]
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
                // Told last: only when nobody waits can applications go on.
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

    /// What became of a switchover that was to leave this side, as far as it is known.
    #[must_use]
    pub fn way(&self, epoch: i64) -> Way {
        if self.left == Some(epoch) {
            return Way::Forth;
        }
        match self.fence {
            // Also behind a promise: clients that are let on meet the fence until it is lifted.
            Fence::MayStand(fenced) | Fence::Liftable(fenced) if fenced == epoch => Way::InDoubt,
            Fence::Down | Fence::MayStand(_) | Fence::Liftable(_) | Fence::Kept(_) => Way::Back,
        }
    }

    /// Whether this side waits for word of the other one, or for its fence to be lifted.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        match self.fence {
            Fence::MayStand(_) | Fence::Liftable(_) => true,
            Fence::Down | Fence::Kept(_) => false,
        }
    }

    /// A switchover begins to change something here. Nothing of an earlier one may begin
    /// after that.
    fn begin(&mut self, epoch: i64, role: Role) -> Result<(), Illegal> {
        match self.latest {
            // It has ended: nothing of it begins any more.
            _ if role == Role::Leaving && self.left >= Some(epoch) => Err(Illegal::OtherOpened(epoch)),
            Some(latest) if latest.epoch > epoch => Err(Illegal::Over { epoch, latest: latest.epoch }),
            Some(latest) if latest.epoch == epoch && latest.role != role => Err(Illegal::OtherRole(epoch)),
            Some(latest) if latest.epoch == epoch => Ok(()),
            Some(_) | None => {
                self.latest = Some(Switchover { epoch, role });
                if role == Role::Leaving {
                    // It can be left, so poolers lead here; and whoever was to hear of an
                    // earlier one hears of this one.
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
            // Of a switchover before: this side was entered again since.
            Fence::Down | Fence::Kept(_) | Fence::MayStand(_) | Fence::Liftable(_) => Fence::MayStand(epoch),
        };
        Ok(())
    }

    /// The fence that the server has: there is only one.
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
        // Of one that was left before nothing new is heard.
        if self.left < Some(epoch) && self.promised >= Some(epoch) {
            return Err(Illegal::Promised(epoch));
        }
        if self.fence == Fence::MayStand(epoch) {
            self.fence = Fence::Kept(epoch);
        }
        self.left = self.left.max(Some(epoch));
        // It knows that it has opened.
        self.untold = self.untold.filter(|untold| *untold != epoch);
        Ok(())
    }

    fn enter(&mut self, epoch: i64, lead_here: bool) -> Result<(), Illegal> {
        // Heard again when the next switchover has begun: nothing follows from it any more.
        if self.latest.is_some_and(|latest| latest.epoch > epoch) {
            return Ok(());
        }
        self.begin(epoch, Role::Entering)?;
        // The decision's own transaction has removed it.
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
