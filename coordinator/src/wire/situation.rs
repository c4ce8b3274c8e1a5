//! Questions to agents, their answers, and what is made of them.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use uuid::Uuid;

use super::{malformed, missing, reported, to_duration};
use crate::engine::Explained;
use crate::explain::{
    Capacity, Disk, Explanation, Link, PreparedTransaction, Report, ServerSession, Situation, Slot, Subscription,
    Unchecked, Weight,
};
use crate::workflow::Side;
use crate::workflow::spec::MigrationId;

/// Asks an agent what is going on around a migration.
pub(crate) fn question(id: Uuid, migration: &MigrationId, timeout: Duration) -> v1::Question {
    v1::Question {
        id: id.to_string(),
        migration_id: migration.to_string(),
        timeout: to_duration(timeout),
        question: Some(v1::question::Question::DescribeSituation(v1::DescribeSituation {})),
    }
}

/// What an agent said, and to which question.
pub(crate) fn answer(value: v1::Answer) -> Result<(Uuid, Result<Situation, Failure>), Failure> {
    use v1::answer::Answer as Said;
    let question = Uuid::parse_str(&value.question_id).map_err(|_| malformed("question_id"))?;
    let said = match value.answer {
        Some(Said::Situation(situation)) => Ok(self::situation(situation)),
        Some(Said::Failure(failure)) => Err(failure.into()),
        None => Err(missing("answer")),
    };
    Ok((question, said))
}

fn known(number: i64) -> Option<i64> {
    (number >= 0).then_some(number)
}

fn span(value: Option<prost_types::Duration>) -> Option<Duration> {
    value.and_then(|value| Duration::try_from(value).ok())
}

fn situation(value: v1::Situation) -> Situation {
    let sessions = |sessions: Vec<v1::ServerSession>| sessions.into_iter().map(session).collect();
    Situation {
        own_sessions: sessions(value.own_sessions),
        blockers: sessions(value.blockers),
        oldest_transactions: sessions(value.oldest_transactions),
        prepared_transactions: value
            .prepared_transactions
            .into_iter()
            .map(|prepared| PreparedTransaction {
                gid: prepared.gid,
                role: prepared.role_name,
                database: prepared.database,
                age: reported(prepared.age),
                awaited: prepared.awaited,
            })
            .collect(),
        capacities: value
            .capacities
            .into_iter()
            .map(|capacity| Capacity {
                setting: capacity.setting,
                used: capacity.used_count,
                limit: capacity.limit_count,
            })
            .collect(),
        slot: value.slot.map(|slot| Slot {
            complete: slot.complete,
            active_pid: (slot.active_pid != 0).then_some(slot.active_pid),
            retained_wal_bytes: known(slot.retained_wal_bytes),
            invalidation: slot.invalidation,
        }),
        subscription: value.subscription.map(|subscription| Subscription {
            enabled: subscription.enabled,
            apply_workers: subscription.apply_worker_count,
            apply_worker_age: span(subscription.apply_worker_age),
            sync_workers: subscription.sync_worker_count,
            waiting_tables: subscription.waiting_table_count,
            copying_tables: subscription.copying_table_count,
            ready_tables: subscription.ready_table_count,
            apply_errors: known(subscription.apply_error_count),
            sync_errors: known(subscription.sync_error_count),
        }),
        disk: value.disk.map(|disk| Disk { free_bytes: disk.free_bytes, warn_bytes: disk.warn_bytes }),
        link: value.link.map(link),
        unchecked: value
            .unchecked
            .into_iter()
            .map(|unchecked| Unchecked {
                subject: unchecked.subject,
                failure: unchecked.failure.map_or_else(unsaid, Failure::from),
            })
            .collect(),
    }
}

fn session(value: v1::ServerSession) -> ServerSession {
    ServerSession {
        pid: value.pid,
        role: value.role_name,
        application: value.application_name,
        database: value.database,
        backend_type: value.backend_type,
        state: value.state,
        wait_event_type: value.wait_event_type,
        wait_event: value.wait_event,
        transaction_age: span(value.transaction_age),
        writes: value.writes,
        blocked_by: value.blocked_by_pids,
    }
}

/// Neither a time nor a failure is no pass.
fn link(value: v1::LinkSituation) -> Link {
    match (value.failure, span(value.round_trip_time)) {
        (Some(failure), _) => Link::Broken(failure.into()),
        (None, Some(round_trip)) => Link::Answers(round_trip),
        (None, None) => Link::Broken(unsaid()),
    }
}

fn unsaid() -> Failure {
    Failure::new(Reason::CouldNotCheck, "the agent did not say why").effect(Effect::None)
}

/// What operators are told. `migration` is the view of it.
pub(crate) fn explained(value: Explained, migration: v1::Migration) -> v1::ExplainMigrationResponse {
    let spec = &value.overview.state.spec;
    let report = |side, report| to_report(side, spec.agent(side).to_owned(), report);
    let reports = match value.reports {
        None => Vec::new(),
        Some((source, destination)) => vec![report(Side::Source, source), report(Side::Destination, destination)],
    };
    v1::ExplainMigrationResponse {
        migration: Some(migration),
        explanations: value.explanations.into_iter().map(to_explanation).collect(),
        reports,
    }
}

fn to_explanation(value: Explanation) -> v1::Explanation {
    v1::Explanation {
        weight: match value.weight {
            Weight::Cause => v1::explanation::Weight::Cause,
            Weight::Suspicion => v1::explanation::Weight::Suspicion,
            Weight::Unchecked => v1::explanation::Weight::Unchecked,
        }
        .into(),
        code: value.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
        side: value.side.map_or(v1::Side::Unspecified, v1::Side::from).into(),
        message: value.message,
        detail: value.detail,
        hint: value.hint,
        statements: value.statements,
    }
}

fn to_report(side: Side, agent_id: String, report: Report) -> v1::SideReport {
    let (situation, failure) = match report {
        Report::Answered(situation) => (Some(to_situation(*situation)), None),
        Report::Silent(failure) => (None, Some(failure.into())),
    };
    v1::SideReport { side: v1::Side::from(side).into(), agent_id, situation, failure }
}

fn to_situation(value: Situation) -> v1::Situation {
    let sessions = |sessions: Vec<ServerSession>| sessions.into_iter().map(to_session).collect();
    v1::Situation {
        own_sessions: sessions(value.own_sessions),
        blockers: sessions(value.blockers),
        oldest_transactions: sessions(value.oldest_transactions),
        prepared_transactions: value
            .prepared_transactions
            .into_iter()
            .map(|prepared| v1::PreparedTransaction {
                gid: prepared.gid,
                role_name: prepared.role,
                database: prepared.database,
                age: to_duration(prepared.age),
                awaited: prepared.awaited,
            })
            .collect(),
        capacities: value
            .capacities
            .into_iter()
            .map(|capacity| v1::Capacity {
                setting: capacity.setting,
                used_count: capacity.used,
                limit_count: capacity.limit,
            })
            .collect(),
        slot: value.slot.map(|slot| v1::SlotSituation {
            complete: slot.complete,
            active_pid: slot.active_pid.unwrap_or(0),
            retained_wal_bytes: slot.retained_wal_bytes.unwrap_or(-1),
            invalidation: slot.invalidation,
        }),
        subscription: value.subscription.map(|subscription| v1::SubscriptionSituation {
            enabled: subscription.enabled,
            apply_worker_count: subscription.apply_workers,
            apply_worker_age: subscription.apply_worker_age.and_then(to_duration),
            sync_worker_count: subscription.sync_workers,
            waiting_table_count: subscription.waiting_tables,
            copying_table_count: subscription.copying_tables,
            ready_table_count: subscription.ready_tables,
            apply_error_count: subscription.apply_errors.unwrap_or(-1),
            sync_error_count: subscription.sync_errors.unwrap_or(-1),
        }),
        disk: value.disk.map(|disk| v1::DiskSituation { free_bytes: disk.free_bytes, warn_bytes: disk.warn_bytes }),
        link: value.link.map(|link| match link {
            Link::Answers(round_trip) => v1::LinkSituation { round_trip_time: to_duration(round_trip), failure: None },
            Link::Broken(failure) => v1::LinkSituation { round_trip_time: None, failure: Some(failure.into()) },
        }),
        unchecked: value
            .unchecked
            .into_iter()
            .map(|Unchecked { subject, failure }| v1::Unchecked { subject, failure: Some(failure.into()) })
            .collect(),
    }
}

fn to_session(value: ServerSession) -> v1::ServerSession {
    v1::ServerSession {
        pid: value.pid,
        role_name: value.role,
        application_name: value.application,
        database: value.database,
        backend_type: value.backend_type,
        state: value.state,
        wait_event_type: value.wait_event_type,
        wait_event: value.wait_event,
        transaction_age: value.transaction_age.and_then(to_duration),
        writes: value.writes,
        blocked_by_pids: value.blocked_by,
    }
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
            transaction_age: to_duration(Duration::from_secs(720)),
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
                age: to_duration(Duration::from_secs(3)),
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
                apply_worker_age: to_duration(Duration::from_secs(4)),
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
        assert_eq!(to_situation(situation(told.clone())), told);
    }

    #[test]
    fn an_answer_that_says_nothing_is_no_pass() {
        let id = Uuid::now_v7();
        let (question, said) = answer(v1::Answer { question_id: id.to_string(), answer: None }).unwrap();
        assert_eq!((question, said.unwrap_err().reason), (id, Reason::RequestInvalid));
        assert!(answer(v1::Answer::default()).is_err());
        assert!(matches!(link(v1::LinkSituation::default()), Link::Broken(_)));
    }
}
