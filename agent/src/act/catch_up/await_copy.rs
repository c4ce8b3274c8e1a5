//! Waits until every table of the subscription is ready.
//!
//! Changes nothing: the copying is PostgreSQL's own. Reports rows and bytes for each table, waits out
//! outages of the server and of the link. When nothing moves for too long, it fails with what it saw last.

use std::collections::BTreeMap;
use std::time::Duration;

use pgportage_data_plane::peer::Packing;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::names;
use pgportage_postgres::{Purpose, RelationName, Session, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, v1};
use pgportage_report::progress::{Part, Progress, Unit};

use crate::act::patience::{Patience, stalled};
use crate::act::{Act, Context, Produced, Survey};
use crate::message::int32;

const LOOK: Duration = Duration::from_millis(500);

/// After so many errors without a table moving, the act looks at the source: PostgreSQL tries again every
/// five seconds.
const ERRORS: i64 = 6;
/// After so many such standstills in a row, each with the source reachable at its end, the copy counts as
/// broken. One alone may be the rest of an outage.
const STANDSTILLS: u32 = 2;

const SUBSCRIPTION: &str = "\
SELECT s.oid, s.subenabled,
       (SELECT count(*) FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL),
       (SELECT count(*) FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NOT NULL AND w.pid IS NOT NULL)
FROM pg_subscription s
JOIN pg_database d ON d.oid = s.subdbid
WHERE s.subname = $1 AND d.datname = current_database()";

/// `pg_stat_progress_copy` is known from 14 on.
const TABLES: &str = "\
SELECT n.nspname::text, c.relname::text, r.srsubstate::text,
       coalesce(p.tuples_processed, 0), coalesce(p.bytes_processed, 0)
FROM pg_subscription_rel r
JOIN pg_class c ON c.oid = r.srrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_progress_copy p
       ON p.relid = c.oid AND p.command = 'COPY FROM'
      AND p.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE r.srsubid = $1
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// Known from 15 on.
const ERRORS_SO_FAR: &str = "\
SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats WHERE subid = $1";

/// Waits until the initial copy of every table is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitCopy;

/// Every table is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitCopyResult {
    /// How many tables.
    pub table_count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    enabled: bool,
    apply_workers: i64,
    sync_workers: i64,
    tables: Vec<Table>,
    /// Errors since the subscription was made. None before 15.
    errors: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    name: RelationName,
    state: String,
    rows: i64,
    bytes: i64,
}

impl Table {
    fn ready(&self) -> bool {
        self.state == "r"
    }
}

impl Look {
    fn ready(&self) -> usize {
        self.tables.iter().filter(|table| table.ready()).count()
    }

    fn is_done(&self) -> bool {
        !self.tables.is_empty() && self.ready() == self.tables.len()
    }

    fn result(&self) -> AwaitCopyResult {
        AwaitCopyResult { table_count: u32::try_from(self.tables.len()).unwrap_or(u32::MAX) }
    }

    /// What the copy does or waits for, for operators.
    fn subject(&self, errors: i64) -> String {
        if !self.enabled {
            return "the subscription is disabled".to_owned();
        }
        if errors > 0 {
            return format!(
                "the subscription fails and tries again ({errors} errors; the server's log of the destination says why)"
            );
        }
        let copying: Vec<String> = self
            .tables
            .iter()
            .filter(|table| matches!(table.state.as_str(), "d" | "f"))
            .map(|table| table.name.to_string())
            .collect();
        match (copying.as_slice(), self.apply_workers, self.sync_workers) {
            ([], 0, 0) => "the subscription's worker to start".to_owned(),
            ([], _, 0) => "a free worker to copy tables (max_logical_replication_workers)".to_owned(),
            ([], _, _) => "tables to catch up with the stream".to_owned(),
            ([one], _, _) => format!("copying {one}"),
            ([first, ..], _, _) => format!("copying {first} and {} more", copying.len() - 1),
        }
    }
}

/// The largest rows and bytes seen of each table: the server forgets them when the table is done.
type Seen = BTreeMap<RelationName, (i64, i64)>;

impl Act for AwaitCopy {
    const KIND: ActKind = ActKind::AwaitCopy;
    const SIDE: Option<Side> = Some(Side::Destination);
    const COPIES: bool = true;
    type Message = v1::AwaitCopy;
    type Output = AwaitCopyResult;

    fn decode(_message: v1::AwaitCopy) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: AwaitCopyResult) -> Produced {
        Produced::AwaitCopy(v1::AwaitCopyResult { table_count: int32(output.table_count) })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<AwaitCopyResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Watch).await?;
        let look = look(cx, &session).await?;
        Ok(if look.is_done() { Survey::Done(look.result()) } else { Survey::Ready })
    }

    async fn perform(&self, cx: &Context) -> Result<AwaitCopyResult, Failure> {
        let mut patience = Patience::new(cx);
        let mut session = None;
        let mut last: Option<Look> = None;
        let mut seen = Seen::new();
        let mut errors_before = 0;
        let mut standstills = 0;
        loop {
            cx.safe_point()?;
            let now = match observe(cx, &mut session).await {
                Ok(look) => look,
                Err(failure) => {
                    session = None;
                    patience.again(cx, failure, "the destination server").await?;
                    continue;
                }
            };
            if now.is_done() {
                return Ok(now.result());
            }
            let moved = last.as_ref().is_none_or(|last| last.tables != now.tables);
            if moved {
                patience.moved(cx);
                errors_before = now.errors.unwrap_or_default();
                standstills = 0;
            }
            // A crash of the server sets its counters to zero.
            errors_before = errors_before.min(now.errors.unwrap_or_default());
            let errors = now.errors.unwrap_or_default() - errors_before;
            let subject = now.subject(errors);
            report(cx, &now, &mut seen, subject.clone());
            if !now.enabled {
                return Err(failed("the subscription was disabled")
                    .hint("Find out who disabled it, then: ALTER SUBSCRIPTION … ENABLE, and retry the step."));
            }
            if errors >= ERRORS {
                // Errors while the source is away are an outage, not a broken copy.
                standstills = if source_answers(cx).await { standstills + 1 } else { 0 };
                errors_before = now.errors.unwrap_or_default();
            }
            if standstills >= STANDSTILLS || patience.is_over(cx) {
                return Err(if errors > 0 { failed(&subject).hint(LOG_HINT) } else { stalled(cx, &subject) });
            }
            last = Some(now);
            cx.pause(LOOK).await?;
        }
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

const LOG_HINT: &str = "Read the log of the destination server, remove the cause, and retry the step; nothing is lost \
                        while the source keeps its WAL.";

fn failed(what: &str) -> Failure {
    Failure::new(Reason::ApplyFailed, "the subscription does not apply")
        .detail(format!("Last seen: {what}."))
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}

/// Whether the source agent reaches its server at this moment.
async fn source_answers(cx: &Context) -> bool {
    match cx.peers.connect(&cx.participation, 1).await {
        Ok(peer) => peer.open_tunnel(Packing::Plain, cx.traffic.tunnel()).await.is_ok(),
        Err(_) => false,
    }
}

async fn observe(cx: &Context, session: &mut Option<Session>) -> Result<Look, Failure> {
    let open = match session {
        Some(open) => open,
        None => session.insert(cx.door.open(&cx.participation.database, Purpose::Watch).await?),
    };
    look(cx, open).await
}

async fn look(cx: &Context, session: &Session) -> Result<Look, Failure> {
    let failure = |error| sql_failure(error, "look at the subscription");
    let name = names::replication_name(&cx.participation.migration);
    let Some(row) = session.query_opt(SUBSCRIPTION, &[&name]).await.map_err(failure)? else {
        return Err(Failure::new(
            Reason::ObjectConflict,
            format!("subscription {} does not exist", quote_ident(&name)),
        )
        .hint("Abort the migration: the subscription was dropped by hand.")
        .effect(Effect::None));
    };
    let oid: u32 = row.get(0);
    let tables = session
        .query(TABLES, &[&oid])
        .await
        .map_err(failure)?
        .iter()
        .map(|row| Table {
            name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            state: row.get(2),
            rows: row.get(3),
            bytes: row.get(4),
        })
        .collect();
    let errors = if session.version.major() >= 15 {
        session.query_opt(ERRORS_SO_FAR, &[&oid]).await.map_err(failure)?.map(|row| row.get(0))
    } else {
        None
    };
    Ok(Look { enabled: row.get(1), apply_workers: row.get(2), sync_workers: row.get(3), tables, errors })
}

fn report(cx: &Context, look: &Look, seen: &mut Seen, subject: String) {
    for table in &look.tables {
        let most = seen.entry(table.name.clone()).or_default();
        *most = (most.0.max(table.rows), most.1.max(table.bytes));
    }
    let parts = look
        .tables
        .iter()
        .map(|table| {
            let (rows, bytes) = seen.get(&table.name).copied().unwrap_or_default();
            Part {
                table: table.name.to_string(),
                row_count: rows,
                size_bytes: bytes,
                total_bytes: 0,
                total_rows: 0,
                ready: table.ready(),
            }
        })
        .collect();
    cx.report(Progress {
        subject,
        completed: look.ready() as i64,
        total: look.tables.len() as i64,
        unit: Unit::Tables,
        parts,
        ..Progress::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(states: &[&str]) -> Look {
        let table = |(number, state): (usize, &&str)| Table {
            name: RelationName::new("public", format!("t{number}")),
            state: (*state).to_owned(),
            rows: 0,
            bytes: 0,
        };
        Look {
            enabled: true,
            apply_workers: 1,
            sync_workers: 1,
            tables: states.iter().enumerate().map(table).collect(),
            errors: None,
        }
    }

    #[test]
    fn only_ready_is_done() {
        assert!(look(&["r", "r"]).is_done());
        for state in ["i", "d", "f", "s"] {
            assert!(!look(&["r", state]).is_done(), "{state}");
        }
        assert!(!look(&[]).is_done(), "heartbeat and marker are always there");
    }

    #[test]
    fn says_what_it_waits_for() {
        assert_eq!(look(&["d", "f", "r"]).subject(0), "copying public.t0 and 1 more");
        let idle = Look { apply_workers: 0, sync_workers: 0, ..look(&["i"]) };
        assert_eq!(idle.subject(0), "the subscription's worker to start");
        assert!(look(&["i"]).subject(2).contains("2 errors"));
    }
}
