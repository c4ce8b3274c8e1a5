//! Explanations as the coordinator sends them.

use pgportage_link::Failure;
use pgportage_proto::{Reason, v1};

use super::{copying, milliseconds};

fn session(pid: i32, role: &str, application: &str, state: &str, waits: (&str, &str)) -> v1::ServerSession {
    v1::ServerSession {
        pid,
        role_name: role.to_owned(),
        application_name: application.to_owned(),
        database: "shop".to_owned(),
        backend_type: "client backend".to_owned(),
        state: state.to_owned(),
        wait_event_type: waits.0.to_owned(),
        wait_event: waits.1.to_owned(),
        transaction_age: None,
        writes: false,
        blocked_by_pids: Vec::new(),
    }
}

fn capacity(setting: &str, used_count: i64, limit_count: i64) -> v1::Capacity {
    v1::Capacity { setting: setting.to_owned(), used_count, limit_count }
}

/// The slot waits for a transaction on the source, and the destination's workers
/// are used up.
pub(crate) fn explained() -> v1::ExplainMigrationResponse {
    let keeper = v1::ServerSession {
        backend_type: "walsender".to_owned(),
        blocked_by_pids: vec![4711],
        transaction_age: milliseconds(30_000),
        ..session(811, "porter", "pgportage keeper", "active", ("Lock", "transactionid"))
    };
    let idle = v1::ServerSession {
        transaction_age: milliseconds(720_000),
        writes: true,
        ..session(4711, "app", "psql", "idle in transaction", ("Client", "ClientRead"))
    };
    let source = v1::Situation {
        own_sessions: vec![keeper, session(812, "porter", "pgportage control", "idle", ("Client", "ClientRead"))],
        blockers: vec![idle.clone()],
        oldest_transactions: vec![v1::ServerSession { pid: 4712, ..idle }],
        prepared_transactions: vec![v1::PreparedTransaction {
            gid: "order 7".to_owned(),
            role_name: "app".to_owned(),
            database: "other".to_owned(),
            age: milliseconds(5_400_000),
            awaited: false,
        }],
        capacities: vec![capacity("max_replication_slots", 2, 10), capacity("max_wal_senders", 3, 10)],
        slot: Some(v1::SlotSituation {
            complete: false,
            active_pid: 811,
            retained_wal_bytes: 125_829_120,
            invalidation: String::new(),
        }),
        subscription: None,
        disk: Some(v1::DiskSituation { free_bytes: 100 << 30, warn_bytes: 10 << 30 }),
        link: Some(v1::LinkSituation { round_trip_time: milliseconds(42), failure: None }),
        unchecked: Vec::new(),
    };
    let denied = Failure::new(Reason::PrivilegeMissing, "the agent's role does not see what other roles do");
    let destination = v1::Situation {
        capacities: vec![capacity("max_logical_replication_workers", 4, 4), capacity("max_worker_processes", 5, 8)],
        subscription: Some(v1::SubscriptionSituation {
            enabled: true,
            apply_worker_count: 0,
            apply_worker_age: None,
            sync_worker_count: 2,
            waiting_table_count: 7,
            copying_table_count: 2,
            ready_table_count: 31,
            apply_error_count: 3,
            sync_error_count: 1,
        }),
        link: Some(v1::LinkSituation { round_trip_time: milliseconds(41), failure: None }),
        unchecked: vec![v1::Unchecked {
            subject: "what other roles' sessions do".to_owned(),
            failure: Some(denied.into()),
        }],
        ..v1::Situation::default()
    };
    let cause = v1::Explanation {
        weight: v1::explanation::Weight::Cause.into(),
        code: "SESSION_BLOCKED".to_owned(),
        side: v1::Side::Source.into(),
        message: "the creation of the replication slot waits for process 4711 (role app, application psql, idle in \
                  transaction, transaction open for 12 min)"
            .to_owned(),
        detail: String::new(),
        hint: "Wait until it commits, or end it; what it had not committed is then lost.".to_owned(),
        statements: vec!["SELECT pg_terminate_backend(4711);".to_owned()],
    };
    let suspicion = v1::Explanation {
        weight: v1::explanation::Weight::Suspicion.into(),
        code: "WORKERS_EXHAUSTED".to_owned(),
        side: v1::Side::Destination.into(),
        message: "all workers that max_logical_replication_workers allows are in use (4 of 4)".to_owned(),
        hint: "Raise max_logical_replication_workers, and restart the destination.".to_owned(),
        ..v1::Explanation::default()
    };
    let unchecked = v1::Explanation {
        weight: v1::explanation::Weight::Unchecked.into(),
        code: "PRIVILEGE_MISSING".to_owned(),
        side: v1::Side::Destination.into(),
        message: "what other roles' sessions do could not be checked".to_owned(),
        hint: "GRANT pg_monitor TO porter;".to_owned(),
        ..v1::Explanation::default()
    };
    v1::ExplainMigrationResponse {
        migration: Some(copying()),
        explanations: vec![cause, suspicion, unchecked],
        reports: [(v1::Side::Source, "alpha", source), (v1::Side::Destination, "beta", destination)]
            .map(|(side, agent, situation)| v1::SideReport {
                side: side.into(),
                agent_id: agent.to_owned(),
                situation: Some(situation),
                failure: None,
            })
            .to_vec(),
    }
}
