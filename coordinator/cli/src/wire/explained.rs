//! Explanations, as the contract has them.

use pgportage_proto::v1;

use super::{known, migration, span};
use crate::view::{
    Capacity, Explained, Explanation, Failure, PreparedTransaction, Report, Session, Side, Situation, Slot,
    Subscription, Weight, page,
};

/// What the coordinator explains.
pub fn explained(message: v1::ExplainMigrationResponse) -> Result<Explained, pgportage_link::Failure> {
    let explanations: Vec<_> = message.explanations.into_iter().map(Explanation::from).collect();
    Ok(Explained {
        migration: migration(message.migration)?,
        cause_found: explanations.iter().any(|found| found.weight == Weight::Cause),
        all_checked: explanations.iter().all(|found| match found.weight {
            Weight::Cause | Weight::Suspicion => true,
            Weight::Unchecked | Weight::Unrecognised => false,
        }),
        explanations,
        reports: message.reports.into_iter().map(Report::from).collect(),
    })
}

pub(super) fn side(side: v1::Side) -> Side {
    match side {
        v1::Side::Source => Side::Source,
        v1::Side::Destination => Side::Destination,
        v1::Side::Unspecified => Side::Neither,
    }
}

impl From<v1::Explanation> for Explanation {
    fn from(message: v1::Explanation) -> Self {
        Self {
            weight: match message.weight() {
                v1::explanation::Weight::Cause => Weight::Cause,
                v1::explanation::Weight::Suspicion => Weight::Suspicion,
                v1::explanation::Weight::Unchecked => Weight::Unchecked,
                v1::explanation::Weight::Unspecified => Weight::Unrecognised,
            },
            side: side(message.side()),
            page: if message.code.is_empty() { String::new() } else { page(&message.code) },
            code: message.code,
            message: message.message,
            detail: message.detail,
            hint: message.hint,
            statements: message.statements,
        }
    }
}

impl From<v1::SideReport> for Report {
    fn from(message: v1::SideReport) -> Self {
        Self {
            side: side(message.side()),
            agent: message.agent_id,
            situation: message.situation.map(Situation::from),
            failure: message.failure.map(Failure::from),
        }
    }
}

impl From<v1::Situation> for Situation {
    fn from(message: v1::Situation) -> Self {
        let sessions = |sessions: Vec<v1::ServerSession>| sessions.into_iter().map(Session::from).collect();
        Self {
            own_sessions: sessions(message.own_sessions),
            blockers: sessions(message.blockers),
            oldest_transactions: sessions(message.oldest_transactions),
            prepared_transactions: message
                .prepared_transactions
                .into_iter()
                .map(|prepared| PreparedTransaction {
                    gid: prepared.gid,
                    role: prepared.role_name,
                    database: prepared.database,
                    age: span(prepared.age),
                    awaited: prepared.awaited,
                })
                .collect(),
            capacities: message
                .capacities
                .into_iter()
                .map(|capacity| Capacity {
                    setting: capacity.setting,
                    used_count: capacity.used_count,
                    limit_count: capacity.limit_count,
                })
                .collect(),
            slot: message.slot.map(|slot| Slot {
                complete: slot.complete,
                active_pid: (slot.active_pid != 0).then_some(slot.active_pid),
                retained_wal_bytes: known(slot.retained_wal_bytes),
                invalidation: slot.invalidation,
            }),
            subscription: message.subscription.map(|subscription| Subscription {
                enabled: subscription.enabled,
                apply_worker_count: subscription.apply_worker_count,
                sync_worker_count: subscription.sync_worker_count,
                waiting_table_count: subscription.waiting_table_count,
                copying_table_count: subscription.copying_table_count,
                ready_table_count: subscription.ready_table_count,
                apply_error_count: known(subscription.apply_error_count),
                sync_error_count: known(subscription.sync_error_count),
            }),
            free_disk_bytes: message.disk.map(|disk| disk.free_bytes),
            round_trip: message.link.and_then(|link| span(link.round_trip_time)),
        }
    }
}

impl From<v1::ServerSession> for Session {
    fn from(message: v1::ServerSession) -> Self {
        Self {
            pid: message.pid,
            role: message.role_name,
            application: message.application_name,
            database: message.database,
            backend_type: message.backend_type,
            state: message.state,
            wait_event_type: message.wait_event_type,
            wait_event: message.wait_event,
            transaction_age: span(message.transaction_age),
            writes: message.writes,
            blocked_by_pids: message.blocked_by_pids,
        }
    }
}
