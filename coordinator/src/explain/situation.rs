//! What agents tell of one migration at one moment. Names and numbers only.

use std::time::Duration;

use pgportage_link::Failure;

/// What one agent said.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// What it found. Boxed: large, and seldom there.
    Answered(Box<Situation>),
    /// Why it said nothing.
    Silent(Failure),
}

/// The facts of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// Sessions of ours, those that wait for a lock first.
    pub own_sessions: Vec<ServerSession>,
    /// Sessions that ours wait for, directly or through others.
    pub blockers: Vec<ServerSession>,
    /// The oldest transactions of others, oldest first.
    pub oldest_transactions: Vec<ServerSession>,
    /// Prepared transactions, those that a session of ours waits for first.
    pub prepared_transactions: Vec<PreparedTransaction>,
    /// What the server has a fixed number of.
    pub capacities: Vec<Capacity>,
    /// On the side that publishes: the slot of what it publishes.
    pub slot: Option<Slot>,
    /// On the side that follows: the subscription it follows with.
    pub subscription: Option<Subscription>,
    /// The disk of the server's WAL, where it can be seen.
    pub disk: Option<Disk>,
    /// The way to the other agent. None when it could not be tried in time.
    pub link: Option<Link>,
    /// What could not be looked at.
    pub unchecked: Vec<Unchecked>,
}

/// A session on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSession {
    /// Its process.
    pub pid: i32,
    /// The role it works as. May be empty.
    pub role: String,
    /// What it calls itself. May be empty.
    pub application: String,
    /// The database it is in. Empty for none.
    pub database: String,
    /// What kind of process it is.
    pub backend_type: String,
    /// What it does. Empty when the server does not say.
    pub state: String,
    /// What kind of thing it waits for. Empty for nothing.
    pub wait_event_type: String,
    /// What it waits for. Empty for nothing.
    pub wait_event: String,
    /// How long its transaction has been open.
    pub transaction_age: Option<Duration>,
    /// Whether its transaction has written.
    pub writes: bool,
    /// Processes it waits for. Zero is a prepared transaction.
    pub blocked_by: Vec<i32>,
}

/// A prepared transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// Who prepared it.
    pub role: String,
    /// The database it is in.
    pub database: String,
    /// How long ago.
    pub age: Duration,
    /// Whether a session of ours waits for its end.
    pub awaited: bool,
}

/// Something that a server has a fixed number of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The setting that limits it.
    pub setting: String,
    /// How many are in use.
    pub used: i64,
    /// How many there are.
    pub limit: i64,
}

/// Our slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Whether its creation is over.
    pub complete: bool,
    /// The process that streams from it, or still makes it.
    pub active_pid: Option<i32>,
    /// WAL kept for it.
    pub retained_wal_bytes: Option<i64>,
    /// Why it cannot be used any more. Empty while it can.
    pub invalidation: String,
}

/// Our subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Whether it is enabled.
    pub enabled: bool,
    /// Workers that apply the stream.
    pub apply_workers: i32,
    /// How long the oldest of those has been running, if that is known.
    pub apply_worker_age: Option<Duration>,
    /// Workers that copy tables.
    pub sync_workers: i32,
    /// Tables whose copy has not begun.
    pub waiting_tables: i32,
    /// Tables that are being copied or catch up.
    pub copying_tables: i32,
    /// Tables that follow the stream.
    pub ready_tables: i32,
    /// Errors of applying since the counters were reset. Known from 15 on.
    pub apply_errors: Option<i64>,
    /// The same of copying.
    pub sync_errors: Option<i64>,
}

/// The disk of a server's WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Free bytes.
    pub free_bytes: i64,
    /// Below this the agent's policy warns.
    pub warn_bytes: i64,
}

/// The way to the other agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// A greeting took this long, there and back.
    Answers(Duration),
    /// Why it was not answered.
    Broken(Failure),
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Unchecked {
    /// What, as a clause.
    pub subject: String,
    /// Why.
    pub failure: Failure,
}

impl Situation {
    /// The capacity that a setting limits.
    pub fn capacity(&self, setting: &str) -> Option<&Capacity> {
        self.capacities.iter().find(|capacity| capacity.setting == setting)
    }

    /// Whether nothing is left of what a setting limits. What is not known is not
    /// full.
    pub fn full(&self, setting: &str) -> bool {
        self.capacity(setting).is_some_and(Capacity::full)
    }
}

impl Capacity {
    /// Whether nothing is left.
    pub fn full(&self) -> bool {
        self.used >= self.limit
    }
}
