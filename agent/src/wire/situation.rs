//! Questions of the coordinator, and the answers to them.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{MigrationId, v1};

use crate::message::{duration, int32, int64, some, span};
use crate::situation::{
    Capacity, DiskSituation, LinkSituation, PreparedTransaction, ServerSession, Situation, SlotSituation,
    SubscriptionSituation, Unchecked,
};

/// A question of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The id that the answer refers to.
    pub id: String,
    /// The migration.
    pub migration: MigrationId,
    /// How long the coordinator waits for the answer.
    pub timeout: Duration,
}

/// Reads a question. None when a newer coordinator asks something that this release does not know.
///
/// # Errors
///
/// [`pgportage_proto::Reason::RequestInvalid`], naming the field.
pub fn question(message: v1::Question) -> Result<Option<Question>, Failure> {
    match message.question {
        Some(v1::question::Question::DescribeSituation(v1::DescribeSituation {})) => Ok(Some(Question {
            id: some(message.id, "id")?,
            migration: MigrationId::new(&message.migration_id)?,
            timeout: duration(message.timeout, "timeout")?,
        })),
        None => Ok(None),
    }
}

/// The answer to a question.
#[must_use]
pub fn answer(question_id: String, outcome: Result<Situation, Failure>) -> v1::Answer {
    use v1::answer::Answer as Said;
    let said = match outcome {
        Ok(situation) => Said::Situation(encode(situation)),
        Err(failure) => Said::Failure(failure.into()),
    };
    v1::Answer { question_id, answer: Some(said) }
}

fn encode(situation: Situation) -> v1::Situation {
    let sessions = |sessions: Vec<ServerSession>| sessions.into_iter().map(session).collect();
    v1::Situation {
        own_sessions: sessions(situation.own_sessions),
        blockers: sessions(situation.blockers),
        oldest_transactions: sessions(situation.oldest_transactions),
        prepared_transactions: situation.prepared_transactions.into_iter().map(prepared).collect(),
        capacities: situation.capacities.into_iter().map(capacity).collect(),
        slot: situation.slot.map(slot),
        subscription: situation.subscription.map(subscription),
        disk: situation.disk.map(|DiskSituation { free_bytes, warn_bytes }| v1::DiskSituation {
            free_bytes: int64(free_bytes),
            warn_bytes: int64(warn_bytes),
        }),
        link: situation.link.map(link),
        unchecked: situation
            .unchecked
            .into_iter()
            .map(|Unchecked { subject, failure }| v1::Unchecked {
                subject: subject.to_owned(),
                failure: Some(failure.into()),
            })
            .collect(),
    }
}

fn session(session: ServerSession) -> v1::ServerSession {
    v1::ServerSession {
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

fn prepared(prepared: PreparedTransaction) -> v1::PreparedTransaction {
    v1::PreparedTransaction {
        gid: prepared.gid,
        role_name: prepared.role,
        database: prepared.database,
        age: Some(span(prepared.age)),
        awaited: prepared.awaited,
    }
}

fn capacity(capacity: Capacity) -> v1::Capacity {
    v1::Capacity { setting: capacity.setting, used_count: capacity.used, limit_count: capacity.limit }
}

fn slot(slot: SlotSituation) -> v1::SlotSituation {
    v1::SlotSituation {
        complete: slot.complete,
        active_pid: slot.active_pid.unwrap_or(0),
        retained_wal_bytes: slot.retained_wal_bytes.map_or(-1, int64),
        invalidation: slot.invalidation,
    }
}

fn subscription(subscription: SubscriptionSituation) -> v1::SubscriptionSituation {
    v1::SubscriptionSituation {
        enabled: subscription.enabled,
        apply_worker_count: int32(subscription.apply_workers),
        apply_worker_age: subscription.apply_worker_age.map(span),
        sync_worker_count: int32(subscription.sync_workers),
        waiting_table_count: int32(subscription.waiting_tables),
        copying_table_count: int32(subscription.copying_tables),
        ready_table_count: int32(subscription.ready_tables),
        apply_error_count: subscription.errors.map_or(-1, |(apply, _)| int64(apply)),
        sync_error_count: subscription.errors.map_or(-1, |(_, sync)| int64(sync)),
    }
}

fn link(link: LinkSituation) -> v1::LinkSituation {
    match link {
        LinkSituation::Answers(round_trip) => {
            v1::LinkSituation { round_trip_time: Some(span(round_trip)), failure: None }
        }
        LinkSituation::Broken(failure) => v1::LinkSituation { round_trip_time: None, failure: Some(failure.into()) },
    }
}
