//! What is going on around one migration at one moment, on one side. Names and numbers
//! only.
//!
//! What could not be looked at is said; it never looks like a pass. The serde forms are
//! the CLI's.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, read_span, span, v1};
use serde::Serialize;

use crate::quantity::milliseconds;

/// The facts of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// Sessions of ours, those that wait for a lock first.
    pub own_sessions: Vec<ServerSession>,
    /// Sessions that ours wait for, directly or through other sessions.
    pub blockers: Vec<ServerSession>,
    /// The oldest transactions of other sessions, oldest first.
    pub oldest_transactions: Vec<ServerSession>,
    /// Prepared transactions, those that a session of ours waits for first.
    pub prepared_transactions: Vec<PreparedTransaction>,
    /// Resources of which the server has a fixed number.
    pub capacities: Vec<Capacity>,
    /// On the side that publishes: the slot of the stream that it publishes.
    pub slot: Option<Slot>,
    /// On the side that follows: the subscription it follows with.
    pub subscription: Option<Subscription>,
    /// The disk of the server's WAL, where the agent can see it.
    pub disk: Option<Disk>,
    /// The connection to the other agent. None when it could not be tried in time.
    pub link: Option<Link>,
    /// Looks that failed.
    pub unchecked: Vec<Unchecked>,
}

/// A session on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServerSession {
    /// Its process id.
    pub pid: i32,
    /// The role it works as. May be empty.
    pub role: String,
    /// Its `application_name`. May be empty.
    pub application: String,
    /// The database it is in. Empty for none.
    pub database: String,
    /// What kind of process it is.
    pub backend_type: String,
    /// `pg_stat_activity.state`. Empty when the server does not say.
    #[serde(rename = "session_state")]
    pub state: String,
    /// The class of what it waits for, as `pg_stat_activity` names it. Empty for nothing.
    pub wait_event_type: String,
    /// What it waits for, as `pg_stat_activity` names it. Empty for nothing.
    pub wait_event: String,
    /// How long its transaction has been open.
    #[serde(rename = "transaction_milliseconds", serialize_with = "milliseconds")]
    pub transaction_age: Option<Duration>,
    /// Whether its transaction has written.
    pub writes: bool,
    /// Ids of the processes that it waits for. Zero is a prepared transaction.
    #[serde(rename = "blocked_by_pids")]
    pub blocked_by: Vec<i32>,
}

/// A prepared transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// The role that prepared it.
    pub role: String,
    /// The database it is in.
    pub database: String,
    /// How long ago it was prepared.
    #[serde(rename = "age_milliseconds", serialize_with = "milliseconds")]
    pub age: Duration,
    /// Whether a session of ours waits for its end.
    pub awaited: bool,
}

/// A resource of which a server has a fixed number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// The setting that limits it.
    pub setting: String,
    /// How many of them are in use.
    #[serde(rename = "used_count")]
    pub used: i64,
    /// How many the server has.
    #[serde(rename = "limit_count")]
    pub limit: i64,
}

/// The slot of the stream that this side publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Whether its creation has ended.
    pub complete: bool,
    /// The process that streams from it, or is still making it.
    pub active_pid: Option<i32>,
    /// WAL kept for it.
    pub retained_wal_bytes: Option<i64>,
    /// Why it cannot be used any more. Empty while it can.
    pub invalidation: String,
}

/// The subscription that this side follows with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Whether it is enabled.
    pub enabled: bool,
    /// Workers that apply the stream.
    #[serde(rename = "apply_worker_count")]
    pub apply_workers: i32,
    /// How long the oldest of those has been running, if that is known.
    #[serde(skip)]
    pub apply_worker_age: Option<Duration>,
    /// Workers that copy tables.
    #[serde(rename = "sync_worker_count")]
    pub sync_workers: i32,
    /// Tables whose copy has not begun.
    #[serde(rename = "waiting_table_count")]
    pub waiting_tables: i32,
    /// Tables that are being copied or catch up.
    #[serde(rename = "copying_table_count")]
    pub copying_tables: i32,
    /// Tables that follow the stream.
    #[serde(rename = "ready_table_count")]
    pub ready_tables: i32,
    /// Errors of applying since the counters were reset. Known from 15 on.
    #[serde(rename = "apply_error_count")]
    pub apply_errors: Option<i64>,
    /// The same of copying.
    #[serde(rename = "sync_error_count")]
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

/// The state of the connection to the other agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// The other agent answered a greeting after this time.
    Answers(Duration),
    /// The other agent did not answer, for this reason.
    Broken(Failure),
}

/// A look that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Unchecked {
    /// Its subject, as a clause.
    pub subject: String,
    /// Why it failed.
    pub failure: Failure,
}

impl Situation {
    /// The capacity that a setting limits.
    #[must_use]
    pub fn capacity(&self, setting: &str) -> Option<&Capacity> {
        self.capacities.iter().find(|capacity| capacity.setting == setting)
    }

    /// Whether nothing is left of what a setting limits. What is not known is not
    /// full.
    #[must_use]
    pub fn full(&self, setting: &str) -> bool {
        self.capacity(setting).is_some_and(Capacity::full)
    }
}

impl Capacity {
    /// Whether nothing is left.
    #[must_use]
    pub fn full(&self) -> bool {
        self.used >= self.limit
    }
}

impl From<Situation> for v1::Situation {
    fn from(situation: Situation) -> Self {
        let sessions = |sessions: Vec<ServerSession>| sessions.into_iter().map(Into::into).collect();
        Self {
            own_sessions: sessions(situation.own_sessions),
            blockers: sessions(situation.blockers),
            oldest_transactions: sessions(situation.oldest_transactions),
            prepared_transactions: situation.prepared_transactions.into_iter().map(Into::into).collect(),
            capacities: situation.capacities.into_iter().map(Into::into).collect(),
            slot: situation.slot.map(Into::into),
            subscription: situation.subscription.map(Into::into),
            disk: situation.disk.map(|Disk { free_bytes, warn_bytes }| v1::DiskSituation { free_bytes, warn_bytes }),
            link: situation.link.map(Into::into),
            unchecked: situation
                .unchecked
                .into_iter()
                .map(|Unchecked { subject, failure }| v1::Unchecked { subject, failure: Some(failure.into()) })
                .collect(),
        }
    }
}

impl From<v1::Situation> for Situation {
    fn from(sent: v1::Situation) -> Self {
        let sessions = |sessions: Vec<v1::ServerSession>| sessions.into_iter().map(Into::into).collect();
        Self {
            own_sessions: sessions(sent.own_sessions),
            blockers: sessions(sent.blockers),
            oldest_transactions: sessions(sent.oldest_transactions),
            prepared_transactions: sent.prepared_transactions.into_iter().map(Into::into).collect(),
            capacities: sent.capacities.into_iter().map(Into::into).collect(),
            slot: sent.slot.map(Into::into),
            subscription: sent.subscription.map(Into::into),
            disk: sent.disk.map(|v1::DiskSituation { free_bytes, warn_bytes }| Disk { free_bytes, warn_bytes }),
            link: sent.link.map(Into::into),
            unchecked: sent
                .unchecked
                .into_iter()
                .map(|v1::Unchecked { subject, failure }| Unchecked {
                    subject,
                    failure: failure.map_or_else(unsaid, Failure::from),
                })
                .collect(),
        }
    }
}

impl From<ServerSession> for v1::ServerSession {
    fn from(session: ServerSession) -> Self {
        Self {
            pid: session.pid,
            role_name: session.role,
            application_name: session.application,
            database: session.database,
            backend_type: session.backend_type,
            state: session.state,
            wait_event_type: session.wait_event_type,
            wait_event: session.wait_event,
            transaction_age: session.transaction_age.map(span),
            writes: session.writes,
            blocked_by_pids: session.blocked_by,
        }
    }
}

impl From<v1::ServerSession> for ServerSession {
    fn from(sent: v1::ServerSession) -> Self {
        Self {
            pid: sent.pid,
            role: sent.role_name,
            application: sent.application_name,
            database: sent.database,
            backend_type: sent.backend_type,
            state: sent.state,
            wait_event_type: sent.wait_event_type,
            wait_event: sent.wait_event,
            transaction_age: read_span(sent.transaction_age),
            writes: sent.writes,
            blocked_by: sent.blocked_by_pids,
        }
    }
}

impl From<PreparedTransaction> for v1::PreparedTransaction {
    fn from(prepared: PreparedTransaction) -> Self {
        let PreparedTransaction { gid, role, database, age, awaited } = prepared;
        Self { gid, role_name: role, database, age: Some(span(age)), awaited }
    }
}

impl From<v1::PreparedTransaction> for PreparedTransaction {
    fn from(sent: v1::PreparedTransaction) -> Self {
        let v1::PreparedTransaction { gid, role_name: role, database, age, awaited } = sent;
        Self { gid, role, database, age: read_span(age).unwrap_or_default(), awaited }
    }
}

impl From<Capacity> for v1::Capacity {
    fn from(Capacity { setting, used, limit }: Capacity) -> Self {
        Self { setting, used_count: used, limit_count: limit }
    }
}

impl From<v1::Capacity> for Capacity {
    fn from(sent: v1::Capacity) -> Self {
        Self { setting: sent.setting, used: sent.used_count, limit: sent.limit_count }
    }
}

impl From<Slot> for v1::SlotSituation {
    fn from(slot: Slot) -> Self {
        Self {
            complete: slot.complete,
            active_pid: slot.active_pid.unwrap_or(0),
            retained_wal_bytes: slot.retained_wal_bytes.unwrap_or(-1),
            invalidation: slot.invalidation,
        }
    }
}

impl From<v1::SlotSituation> for Slot {
    fn from(sent: v1::SlotSituation) -> Self {
        Self {
            complete: sent.complete,
            active_pid: (sent.active_pid != 0).then_some(sent.active_pid),
            retained_wal_bytes: known(sent.retained_wal_bytes),
            invalidation: sent.invalidation,
        }
    }
}

impl From<Subscription> for v1::SubscriptionSituation {
    fn from(subscription: Subscription) -> Self {
        Self {
            enabled: subscription.enabled,
            apply_worker_count: subscription.apply_workers,
            apply_worker_age: subscription.apply_worker_age.map(span),
            sync_worker_count: subscription.sync_workers,
            waiting_table_count: subscription.waiting_tables,
            copying_table_count: subscription.copying_tables,
            ready_table_count: subscription.ready_tables,
            apply_error_count: subscription.apply_errors.unwrap_or(-1),
            sync_error_count: subscription.sync_errors.unwrap_or(-1),
        }
    }
}

impl From<v1::SubscriptionSituation> for Subscription {
    fn from(sent: v1::SubscriptionSituation) -> Self {
        Self {
            enabled: sent.enabled,
            apply_workers: sent.apply_worker_count,
            apply_worker_age: read_span(sent.apply_worker_age),
            sync_workers: sent.sync_worker_count,
            waiting_tables: sent.waiting_table_count,
            copying_tables: sent.copying_table_count,
            ready_tables: sent.ready_table_count,
            apply_errors: known(sent.apply_error_count),
            sync_errors: known(sent.sync_error_count),
        }
    }
}

impl From<Link> for v1::LinkSituation {
    fn from(link: Link) -> Self {
        match link {
            Link::Answers(round_trip) => Self { round_trip_time: Some(span(round_trip)), failure: None },
            Link::Broken(failure) => Self { round_trip_time: None, failure: Some(failure.into()) },
        }
    }
}

impl From<v1::LinkSituation> for Link {
    /// Neither a time nor a failure is no pass.
    fn from(sent: v1::LinkSituation) -> Self {
        match (sent.failure, read_span(sent.round_trip_time)) {
            (Some(failure), _) => Self::Broken(failure.into()),
            (None, Some(round_trip)) => Self::Answers(round_trip),
            (None, None) => Self::Broken(unsaid()),
        }
    }
}

/// Figures below zero are not known.
fn known(figure: i64) -> Option<i64> {
    (figure >= 0).then_some(figure)
}

fn unsaid() -> Failure {
    Failure::new(Reason::CouldNotCheck, "the agent did not say why").effect(Effect::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is lost on the way through the coordinator.
    #[test]
    fn what_an_agent_found_is_told_as_it_was() {
        let session = v1::ServerSession {
            pid: 7,
            role_name: "app".to_owned(),
            application_name: "psql".to_owned(),
            database: "shop".to_owned(),
            backend_type: "client backend".to_owned(),
            state: "idle in transaction".to_owned(),
            wait_event_type: "Client".to_owned(),
            wait_event: "ClientRead".to_owned(),
            transaction_age: Some(span(Duration::from_secs(720))),
            writes: true,
            blocked_by_pids: vec![0, 9],
        };
        let failure = v1::Failure::from(Failure::new(Reason::PeerUnreachable, "nobody answers"));
        let told = v1::Situation {
            own_sessions: vec![session.clone()],
            blockers: vec![session.clone(), session.clone()],
            oldest_transactions: vec![session],
            prepared_transactions: vec![v1::PreparedTransaction {
                gid: "g".to_owned(),
                role_name: "app".to_owned(),
                database: "shop".to_owned(),
                age: Some(span(Duration::from_secs(3))),
                awaited: true,
            }],
            capacities: vec![v1::Capacity { setting: "max_wal_senders".to_owned(), used_count: 3, limit_count: 10 }],
            slot: Some(v1::SlotSituation {
                complete: true,
                active_pid: 12,
                retained_wal_bytes: 5,
                invalidation: "wal_removed".to_owned(),
            }),
            subscription: Some(v1::SubscriptionSituation {
                enabled: true,
                apply_worker_count: 1,
                apply_worker_age: Some(span(Duration::from_secs(4))),
                sync_worker_count: 2,
                waiting_table_count: 3,
                copying_table_count: 4,
                ready_table_count: 5,
                apply_error_count: 6,
                sync_error_count: -1,
            }),
            disk: Some(v1::DiskSituation { free_bytes: 1, warn_bytes: 2 }),
            link: Some(v1::LinkSituation { round_trip_time: None, failure: Some(failure.clone()) }),
            unchecked: vec![v1::Unchecked { subject: "the disk".to_owned(), failure: Some(failure) }],
        };
        assert_eq!(v1::Situation::from(Situation::from(told.clone())), told);
    }

    #[test]
    fn a_link_of_which_nothing_is_said_is_no_pass() {
        assert!(matches!(Link::from(v1::LinkSituation::default()), Link::Broken(_)));
    }
}
