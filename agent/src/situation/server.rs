//! The server's part of the situation: catalogs and statistics, read on one session.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_migration::stream::{published_name, subscribed_name};
use pgportage_postgres::{APPLICATION_PREFIX, Purpose, Session, free_disk_bytes, sql_failure};
use pgportage_proto::{Reason, Side};
use pgportage_report::situation::{
    Capacity, Disk, PreparedTransaction, ServerSession, Situation, Slot, Subscription, Unchecked,
};
use tokio_postgres::Row;

use super::Limit;
use crate::act::Handles;
use crate::message::int64;

/// Sessions of ours are: those that the agent opened (`$1`), its programs and keepers (role `$2`,
/// applications like `$3`), all of the replication role (`$4`), and the workers of the subscription (`$5`).
/// A blocker is a session that one of these waits for, directly or through others. Of the other sessions,
/// those with old transactions. No statement is read.
const SESSIONS: &str = "\
WITH RECURSIVE ours AS MATERIALIZED (
    SELECT a.pid, a.wait_event_type = 'Lock' AS waits
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
       AND (a.pid = ANY ($1)
            OR (a.usename = $2 AND a.application_name LIKE $3)
            OR a.usename = $4
            OR a.pid IN (SELECT w.pid FROM pg_stat_subscription w WHERE w.subname = $5))
), blocker (pid) AS (
    SELECT b.pid FROM ours o CROSS JOIN LATERAL unnest(pg_blocking_pids(o.pid)) AS b (pid) WHERE o.waits
    UNION
    SELECT b.pid FROM blocker r CROSS JOIN LATERAL unnest(pg_blocking_pids(r.pid)) AS b (pid) WHERE r.pid <> 0
), sorted AS (
    SELECT a.*, CASE WHEN a.pid IN (SELECT pid FROM ours) THEN 'own'
                     WHEN a.pid IN (SELECT pid FROM blocker) THEN 'blocker'
                     WHEN a.xact_start < clock_timestamp() - interval '1 min'
                          AND a.backend_type = 'client backend' THEN 'old' END AS kind
      FROM pg_stat_activity a
), numbered AS (
    SELECT s.*, row_number() OVER (PARTITION BY s.kind ORDER BY s.xact_start NULLS LAST, s.pid) AS number,
           CASE WHEN s.kind <> 'old' AND s.wait_event_type = 'Lock' THEN pg_blocking_pids(s.pid)
                ELSE '{}' END AS blocked_by
      FROM sorted s
     WHERE s.kind IS NOT NULL
)
SELECT n.kind, n.pid, coalesce(n.usename, '')::text, left(coalesce(n.application_name, ''), 64),
       coalesce(n.datname, '')::text, coalesce(n.backend_type, ''), coalesce(n.state, ''),
       coalesce(n.wait_event_type, ''), coalesce(n.wait_event, ''),
       extract(epoch FROM clock_timestamp() - n.xact_start)::float8, n.backend_xid IS NOT NULL,
       n.blocked_by
  FROM numbered n
 WHERE n.kind <> 'old' OR n.number <= 5
 ORDER BY cardinality(n.blocked_by) = 0, n.xact_start NULLS LAST, n.pid";

/// Most sessions of ours that are reported: a copy has a few for each core.
const MOST_SESSIONS: usize = 100;

/// Whether the agent's role may see what the sessions of other roles do.
const SEES_OTHERS: &str = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')";

/// Transactions that a session of `$1` waits for come first: for the transaction itself, or for a relation
/// that it has locked. All locks of a prepared transaction carry the virtual transaction of the lock on its
/// own id, and no process.
const PREPARED: &str = "\
WITH lock AS MATERIALIZED (SELECT * FROM pg_locks),
awaited AS (
    SELECT DISTINCT own.transactionid
      FROM lock l
      JOIN lock h ON h.pid IS NULL AND h.granted
       AND (h.transactionid = l.transactionid OR (h.database = l.database AND h.relation = l.relation))
      JOIN lock own ON own.pid IS NULL AND own.locktype = 'transactionid'
       AND own.virtualtransaction = h.virtualtransaction
     WHERE l.pid = ANY ($1) AND NOT l.granted
)
SELECT p.gid, p.owner::text, p.database::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8,
       p.transaction IN (SELECT transactionid FROM awaited) AS awaited
  FROM pg_prepared_xacts p
 ORDER BY awaited DESC, p.prepared
 LIMIT 5";

const PUBLISHER_CAPACITIES: &str = "\
SELECT s.name, CASE s.name WHEN 'max_replication_slots' THEN (SELECT count(*) FROM pg_replication_slots)
                           WHEN 'max_wal_senders' THEN (SELECT count(*) FROM pg_stat_activity
                                                         WHERE backend_type = 'walsender') END,
       s.setting::bigint
  FROM pg_settings s
 WHERE s.name IN ('max_replication_slots', 'max_wal_senders')
 ORDER BY s.name";

/// Origins are limited by `max_replication_slots` before 18. A process that is not of the server itself
/// counts as a background worker.
const FOLLOWER_CAPACITIES: &str = "\
WITH worker AS (
    SELECT backend_type LIKE 'logical replication % worker' OR backend_type = 'logical replication worker' AS logical
      FROM pg_stat_activity
     WHERE backend_type NOT IN ('client backend', 'walsender', 'walreceiver', 'autovacuum launcher',
               'autovacuum worker', 'archiver', 'background writer', 'checkpointer', 'startup', 'walwriter',
               'walsummarizer', 'slotsync worker', 'io worker', 'logger', 'standalone backend')
)
SELECT s.name, CASE WHEN s.name = 'max_logical_replication_workers' THEN (SELECT count(*) FROM worker WHERE logical)
                    WHEN s.name = 'max_worker_processes' THEN (SELECT count(*) FROM worker)
                    WHEN s.name = 'max_sync_workers_per_subscription' THEN
                         (SELECT count(*) FROM pg_stat_subscription w
                           WHERE w.subname = $1 AND w.relid IS NOT NULL AND w.pid IS NOT NULL)
                    ELSE (SELECT count(*) FROM pg_replication_origin) END,
       s.setting::bigint
  FROM pg_settings s
 WHERE s.name IN ('max_logical_replication_workers', 'max_worker_processes', 'max_sync_workers_per_subscription',
           CASE WHEN current_setting('server_version_num')::int >= 180000 THEN 'max_active_replication_origins'
                ELSE 'max_replication_slots' END)
 ORDER BY s.name";

/// `invalidation_reason` is known from version 17 on.
const SLOT: &str = "\
SELECT s.confirmed_flush_lsn IS NOT NULL, s.active_pid,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END,
       coalesce(to_jsonb(s) ->> 'invalidation_reason', CASE WHEN s.wal_status = 'lost' THEN 'wal_removed' END, '')
  FROM pg_replication_slots s
 WHERE s.slot_name = $1 AND s.database = current_database()";

/// `None` where there is no row: this side was neither closed nor opened yet.
const DECISION_TABLE: &str = "SELECT to_regclass('pgportage.decision') IS NOT NULL";
const STATE: &str = "SELECT state FROM pgportage.decision WHERE id = 1";

const SUBSCRIPTION: &str = "\
SELECT s.oid, s.subenabled, w.apply_workers, w.apply_age, w.sync_workers, r.waiting, r.copying, r.ready
  FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE w.relid IS NULL) AS apply_workers,
           (max(extract(epoch FROM clock_timestamp() - a.backend_start)) FILTER (WHERE w.relid IS NULL))::float8 AS apply_age,
           count(*) FILTER (WHERE w.relid IS NOT NULL) AS sync_workers
      FROM pg_stat_subscription w LEFT JOIN pg_stat_activity a ON a.pid = w.pid
     WHERE w.subid = s.oid AND w.pid IS NOT NULL
 ) AS w
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE r.srsubstate = 'i') AS waiting,
           count(*) FILTER (WHERE r.srsubstate NOT IN ('i', 'r')) AS copying,
           count(*) FILTER (WHERE r.srsubstate = 'r') AS ready
      FROM pg_subscription_rel r WHERE r.srsubid = s.oid
 ) AS r
 WHERE s.subname = $1";

/// Known from version 15 on.
const ERRORS: &str = "\
SELECT apply_error_count, sync_error_count FROM pg_stat_subscription_stats WHERE subid = $1";

/// Reads what the server can answer in time.
pub(super) async fn look(handles: &Handles, participation: &Participation, limit: Limit) -> Situation {
    let mut situation = Situation::default();
    let opening = handles.door.open(&participation.database, Purpose::Watch);
    let session = match limit.within(opening).await.and_then(|opened| opened) {
        Ok(session) => session,
        Err(failure) => {
            situation.unchecked.push(Unchecked { subject: "the server".to_owned(), failure });
            return situation;
        }
    };
    let look = Look { handles, participation, session: &session, limit };
    let mut unchecked = Vec::new();
    let mut note = |subject: &str, failure| unchecked.push(Unchecked { subject: subject.to_owned(), failure });
    match look.sessions().await {
        Ok(seen) => seen.sort_into(&mut situation),
        Err(failure) => note("sessions and their locks", failure),
    }
    if let Err(failure) = look.sees_others().await {
        note("what other roles' sessions do", failure);
    }
    let waiting: Vec<i32> = situation.own_sessions.iter().map(|session| session.pid).collect();
    match look.prepared(&waiting).await {
        Ok(prepared) => situation.prepared_transactions = prepared,
        Err(failure) => note("prepared transactions", failure),
    }
    match look.follows().await {
        Ok(follows) => {
            match look.capacities(follows).await {
                Ok(capacities) => situation.capacities = capacities,
                Err(failure) => note("slots and workers", failure),
            }
            if follows {
                match look.subscription().await {
                    Ok(subscription) => situation.subscription = subscription,
                    Err(failure) => note("the subscription", failure),
                }
            } else {
                match look.slot().await {
                    Ok(slot) => situation.slot = slot,
                    Err(failure) => note("the replication slot", failure),
                }
            }
        }
        Err(failure) => note("which side follows the other", failure),
    }
    match limit.within(free_disk_bytes(&session)).await {
        Ok(free) => {
            let warn_bytes = int64(handles.policy.limits().free_disk_warn_bytes);
            situation.disk = free.map(|free_bytes| Disk { free_bytes: int64(free_bytes), warn_bytes });
        }
        Err(failure) => note("the disk", failure),
    }
    situation.unchecked = unchecked;
    situation
}

/// The session that reads everything.
struct Look<'a> {
    handles: &'a Handles,
    participation: &'a Participation,
    session: &'a Session,
    limit: Limit,
}

type Parameters<'a> = [&'a (dyn postgres_types::ToSql + Sync)];

/// Sessions, each with its relation to ours.
struct Sessions(Vec<(String, ServerSession)>);

impl Sessions {
    fn sort_into(self, situation: &mut Situation) {
        for (kind, session) in self.0 {
            let list = match kind.as_str() {
                "own" => &mut situation.own_sessions,
                "blocker" => &mut situation.blockers,
                _ => &mut situation.oldest_transactions,
            };
            if list.len() < MOST_SESSIONS {
                list.push(session);
            }
        }
    }
}

impl Look<'_> {
    async fn rows(&self, statement: &str, parameters: &Parameters<'_>, doing: &str) -> Result<Vec<Row>, Failure> {
        self.limit.within(self.session.query(statement, parameters)).await?.map_err(|error| sql_failure(error, doing))
    }

    /// Whether this side follows the other one, or will. A closed side does and an open one does not;
    /// before the first closing, the destination will.
    async fn follows(&self) -> Result<bool, Failure> {
        let doing = "look whether this side is closed";
        let known = self.rows(DECISION_TABLE, &[], doing).await?.first().is_some_and(|row| row.get(0));
        let rows = if known { self.rows(STATE, &[], doing).await? } else { Vec::new() };
        Ok(match rows.first().map(|row| row.get::<_, &str>(0)) {
            Some(state) => state == "closed",
            None => self.participation.side == Side::Destination,
        })
    }

    async fn sessions(&self) -> Result<Sessions, Failure> {
        let own: Vec<i32> = self.handles.door.own_sessions().into_iter().map(|session| session.pid).collect();
        let role = self.handles.roles.replication(self.participation);
        let programs = format!("{APPLICATION_PREFIX} %");
        let parameters: &Parameters<'_> =
            &[&own, &self.handles.door.user(), &programs, &role, &subscribed_name(self.participation)];
        let rows = self.rows(SESSIONS, parameters, "look at the sessions").await?;
        let session = |row: &Row| ServerSession {
            pid: row.get(1),
            role: row.get(2),
            application: row.get(3),
            database: row.get(4),
            backend_type: row.get(5),
            state: row.get(6),
            wait_event_type: row.get(7),
            wait_event: row.get(8),
            transaction_age: row.get::<_, Option<f64>>(9).and_then(age),
            writes: row.get(10),
            blocked_by: row.get(11),
        };
        Ok(Sessions(rows.iter().map(|row| (row.get(0), session(row))).collect()))
    }

    async fn sees_others(&self) -> Result<(), Failure> {
        let rows = self.rows(SEES_OTHERS, &[], "look at the agent's own role").await?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        Err(Failure::new(Reason::PrivilegeMissing, "the agent's role does not see what other roles do")
            .hint(format!("GRANT pg_monitor TO {};", pgportage_postgres::quote_ident(self.handles.door.user())))
            .effect(Effect::None))
    }

    async fn prepared(&self, waiting: &[i32]) -> Result<Vec<PreparedTransaction>, Failure> {
        let rows = self.rows(PREPARED, &[&waiting], "look at prepared transactions").await?;
        let prepared = |row: &Row| PreparedTransaction {
            gid: row.get(0),
            role: row.get(1),
            database: row.get(2),
            age: age(row.get(3)).unwrap_or_default(),
            awaited: row.get(4),
        };
        Ok(rows.iter().map(prepared).collect())
    }

    async fn capacities(&self, follows: bool) -> Result<Vec<Capacity>, Failure> {
        let doing = "count slots and workers";
        let rows = if follows {
            self.rows(FOLLOWER_CAPACITIES, &[&subscribed_name(self.participation)], doing).await?
        } else {
            self.rows(PUBLISHER_CAPACITIES, &[], doing).await?
        };
        let capacity = |row: &Row| Capacity { setting: row.get(0), used: row.get(1), limit: row.get(2) };
        Ok(rows.iter().map(capacity).collect())
    }

    async fn slot(&self) -> Result<Option<Slot>, Failure> {
        let rows = self.rows(SLOT, &[&published_name(self.participation)], "look at the replication slot").await?;
        Ok(rows.first().map(|row| Slot {
            complete: row.get(0),
            active_pid: row.get(1),
            retained_wal_bytes: row.get::<_, Option<i64>>(2).filter(|bytes| *bytes >= 0),
            invalidation: row.get(3),
        }))
    }

    async fn subscription(&self) -> Result<Option<Subscription>, Failure> {
        let doing = "look at the subscription";
        let rows = self.rows(SUBSCRIPTION, &[&subscribed_name(self.participation)], doing).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let oid: u32 = row.get(0);
        let errors = if self.session.version.major() >= 15 {
            self.rows(ERRORS, &[&oid], doing).await?.first().map(|row| (row.get(0), row.get(1)))
        } else {
            None
        };
        let count = |index| i32::try_from(row.get::<_, i64>(index)).unwrap_or(i32::MAX);
        Ok(Some(Subscription {
            enabled: row.get(1),
            apply_workers: count(2),
            apply_worker_age: row.get::<_, Option<f64>>(3).and_then(age),
            sync_workers: count(4),
            waiting_tables: count(5),
            copying_tables: count(6),
            ready_tables: count(7),
            apply_errors: errors.map(|(apply, _)| apply),
            sync_errors: errors.map(|(_, sync)| sync),
        }))
    }
}

/// Seconds by the server's clock. None when that clock was set back.
fn age(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}
