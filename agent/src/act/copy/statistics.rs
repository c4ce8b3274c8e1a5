//! The planner's statistics: those of the source, where they are of use and the destination server accepts
//! them; elsewhere those of an ANALYZE.
//!
//! Class: convergent. Statistics that a table has are replaced, and an attempt after a crash does it again.
//!
//! The values come as COPY data and reach the server by way of a temporary table. So they stand in no
//! statement and no parameter: a server that logs its statements would keep them. **A failure here costs an
//! ANALYZE, and nothing else.**

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use pgportage_data_plane::peer::SourceStatistics;
use pgportage_data_plane::statistics::{self, Condition};
use pgportage_link::{Effect, Failure};
use pgportage_postgres::{Purpose, RelationName, ServerVersion, Session, sql_failure};
use pgportage_proto::Reason;
use pgportage_report::progress::Progress;
use tokio_postgres::Statement;

use super::index::analyse;
use super::queue::{CopyQueue, MOST_ASKED, Next};
use super::unless_stopped;
use crate::act::Context;

/// The first version that accepts statistics.
const TOLD_SINCE: i32 = 18;

/// How long the statistics of some tables may take to arrive and to be accepted. Their ANALYZE would be
/// done by then.
const LIMIT: Duration = Duration::from_secs(120);

/// None of these outlasts the session. The server's error for a value that it refuses quotes the value. The
/// agent reports that text to no other program, and keeps it out of the server's log where its role may.
const SETTINGS: &str = "\
SET synchronous_commit = off; SET lock_timeout = '10s'; SET client_min_messages = error;
SELECT set_config('log_min_messages', 'error', false) WHERE has_parameter_privilege('log_min_messages', 'SET')";

const EMPTY: &str = "TRUNCATE pg_temp.statistics";

const ARRIVE: &str = "COPY pg_temp.statistics FROM STDIN (FORMAT binary)";

/// The tables in question and their indexes on expressions, as this server knows them, whatever the source
/// has sent.
macro_rules! with_own {
    ($statement:literal) => {
        concat!(
            "WITH target AS (
                 SELECT h.position, n.nspname, c.relname, c.oid
                 FROM unnest($1::int[], $2::text[], $3::text[]) AS h (position, schema, relation)
                 JOIN pg_namespace n ON n.nspname = h.schema::name
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.relation::name),
             own AS (
                 SELECT h.position, h.nspname, h.relname, NULL AS index_name FROM target h
                 UNION ALL
                 SELECT h.position, h.nspname, e.relname, e.relname::text
                 FROM target h JOIN pg_index i ON i.indrelid = h.oid JOIN pg_class e ON e.oid = i.indexrelid
                 WHERE i.indexprs IS NOT NULL)
             ",
            $statement
        )
    };
}

/// Autovacuum may have analysed a table while it was half full.
const FORGET: &str = with_own!(
    "SELECT pg_clear_attribute_stats(s.schemaname::text, s.tablename::text, s.attname::text, s.inherited)
     FROM own o JOIN pg_stats s ON s.schemaname = o.nspname AND s.tablename = o.relname
     WHERE s.tablename = ANY (ARRAY(SELECT relname FROM own))"
);

/// For each table with statistics, whether the server accepted all of them.
const TELL: &str = with_own!(
    "SELECT s.position, bool_and(pg_restore_attribute_stats(
         'schemaname', o.nspname::text, 'relname', o.relname::text,
         'attname', s.column_name, 'attnum', s.column_number, 'inherited', s.inherited,
         'null_frac', s.null_frac, 'avg_width', s.avg_width, 'n_distinct', s.n_distinct,
         'most_common_vals', s.most_common_vals, 'most_common_freqs', s.most_common_freqs,
         'histogram_bounds', s.histogram_bounds, 'correlation', s.correlation,
         'most_common_elems', s.most_common_elems, 'most_common_elem_freqs', s.most_common_elem_freqs,
         'elem_count_histogram', s.elem_count_histogram, 'range_length_histogram', s.range_length_histogram,
         'range_empty_frac', s.range_empty_frac, 'range_bounds_histogram', s.range_bounds_histogram))
     FROM own o JOIN pg_temp.statistics s ON s.position = o.position AND s.index_name IS NOT DISTINCT FROM o.index_name
     GROUP BY s.position"
);

/// A table without an index has no row count yet. Its file differs from the source's, so the pages are those of
/// the file here.
const COUNT: &str = "\
SELECT pg_restore_relation_stats(
    'schemaname', n.nspname::text, 'relname', c.relname::text,
    'relpages', (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::int,
    'reltuples', h.row_count::real)
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS h (schema, relation, row_count)
JOIN pg_namespace n ON n.nspname = h.schema::name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.relation::name
WHERE h.row_count > 0 AND c.relkind = 'r' AND c.reltuples < 0";

/// Partitioned and parent tables, whose rows are all in other tables.
const PARENTS: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'p' AND n.nspname <> 'pgportage' ORDER BY 1, 2";

/// Tables with extended statistics, and whether their rows are all in other tables.
const EXTENDED: &str = "\
SELECT DISTINCT n.nspname::text, c.relname::text, c.relkind = 'p'
FROM pg_statistic_ext e JOIN pg_class c ON c.oid = e.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2";

/// Whether a server of this version accepts statistics for its planner.
pub(super) fn can_be_told(version: ServerVersion) -> bool {
    version.major() >= TOLD_SINCE
}

/// What became of the source's statistics of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// They are on this server.
    Carried,
    /// The source has none, or hides them from its agent's role.
    Absent,
    /// The source agent sent none, for this reason.
    Withheld(Condition),
    /// The server did not accept all of them.
    Refused,
    /// They did not arrive.
    Lost,
}

/// The outcome by what the server accepted: everything or not, or none if there was nothing. Only
/// [`Outcome::Carried`] is committed.
fn judge(taken: Option<bool>) -> Outcome {
    match taken {
        None => Outcome::Absent,
        Some(true) => Outcome::Carried,
        Some(false) => Outcome::Refused,
    }
}

#[derive(Clone, Debug)]
struct Target {
    name: RelationName,
    /// Its rows. Zero when the number is not known.
    row_count: i64,
}

/// Gives tables the source's statistics until every table is done. Tables that need an ANALYZE go back to
/// the queue.
pub(super) async fn work(cx: &Context, queue: &CopyQueue) -> Result<(), Failure> {
    let mut staging = None;
    loop {
        cx.safe_point()?;
        let change = queue.change();
        match queue.next_waiting() {
            Next::Never => return Ok(()),
            Next::Later => {
                tokio::select! {
                    biased;
                    () = cx.cancel.cancelled() => cx.safe_point()?,
                    () = change => {}
                }
            }
            Next::Take(tables) => {
                let target = |&table| Target { name: queue.name(table).clone(), row_count: queue.row_count(table) };
                let targets: Vec<_> = tables.iter().map(target).collect();
                let outcomes = carry(cx, &mut staging, &targets).await;
                for (table, outcome) in tables.into_iter().zip(outcomes) {
                    queue.waited(table, outcome == Outcome::Carried, cx.tasks.clock.now());
                }
            }
        }
    }
}

/// The work that cannot be done table by table. Partitioned tables get the source's statistics too. Tables
/// with extended statistics are analysed: those cannot be carried, and could not be made before they were
/// declared.
///
/// # Errors
///
/// What the server reports; [`Reason::Cancelled`].
pub(super) async fn finish(cx: &Context, session: &Session, jobs: usize) -> Result<(), Failure> {
    cx.safe_point()?;
    let failure = |error| sql_failure(error, "list tables for their statistics");
    let told = can_be_told(session.version);
    let mut left = BTreeSet::new();
    if told {
        let parents = session.query(PARENTS, &[]).await.map_err(failure)?;
        let target = |row: &tokio_postgres::Row| Target {
            name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            row_count: 0,
        };
        let parents: Vec<_> = parents.iter().map(target).collect();
        let mut staging = None;
        for parents in parents.chunks(MOST_ASKED) {
            for (parent, outcome) in parents.iter().zip(carry(cx, &mut staging, parents).await) {
                // Autovacuum does not analyse partitioned tables, so many have no statistics.
                if !matches!(outcome, Outcome::Carried | Outcome::Absent) {
                    left.insert(format!("ONLY {}", parent.name));
                }
            }
        }
    }
    for row in session.query(EXTENDED, &[]).await.map_err(failure)? {
        let name = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        left.insert(if told && row.get(2) { format!("ONLY {name}") } else { name.to_string() });
    }
    if left.is_empty() {
        return Ok(());
    }
    cx.report(Progress { subject: format!("analysing {} tables", left.len()), ..Progress::default() });
    let left = Mutex::new(left);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
    try_join_all((0..jobs).map(|_| async {
        let mut session = None;
        while let Some(table) = next() {
            cx.safe_point()?;
            analyse(cx, &mut session, &table).await?;
        }
        Ok(())
    }))
    .await
    .map(|_: Vec<()>| ())
}

/// Gives tables the source's statistics. Returns the outcome for each.
async fn carry(cx: &Context, staging: &mut Option<Staging>, targets: &[Target]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Lost; targets.len()];
    let carrying = async {
        match cx.tasks.clock.timeout(LIMIT, attempt(cx, staging, targets, &mut outcomes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(Reason::Stalled, "the source's statistics took too long").effect(Effect::None)),
        }
    };
    // Boxed: the future holds those of a login and of calls.
    if let Err(failure) = unless_stopped(cx, Box::pin(carrying)).await {
        *staging = None;
        if !cx.cancel.is_cancelled() {
            tracing::warn!(%failure, detail = failure.detail, "the source's statistics are not here; tables are analysed");
        }
    }
    for (target, outcome) in targets.iter().zip(&outcomes) {
        tracing::debug!(table = %target.name, ?outcome, "the source's statistics");
    }
    outcomes
}

async fn attempt(
    cx: &Context,
    staging: &mut Option<Staging>,
    targets: &[Target],
    outcomes: &mut [Outcome],
) -> Result<(), Failure> {
    let peer = cx.peers.call(&cx.participation).await?;
    let packing = cx.peers.known_packing(&cx.participation).await;
    let names: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
    let mut source = peer.read_statistics(&names, packing).await?;
    let staging = match staging.take() {
        Some(open) if !open.session.is_closed() => staging.insert(open),
        Some(_) | None => staging.insert(Staging::open(cx).await?),
    };
    for (outcome, &condition) in outcomes.iter_mut().zip(&source.conditions) {
        if condition != Condition::Sent {
            *outcome = Outcome::Withheld(condition);
        }
    }
    let sent = |&(place, _): &(usize, &Target)| source.conditions[place] == Condition::Sent;
    let sent: Vec<_> = targets.iter().enumerate().filter(sent).collect();
    // Where none are sent there is no COPY.
    if sent.is_empty() {
        return Ok(());
    }
    staging.receive(&mut source).await?;
    // One refusal spoils the transaction for all tables.
    let together = staging.give(&sent).await.ok().filter(|taken| !taken.contains(&Outcome::Refused));
    for (number, &one) in sent.iter().enumerate() {
        outcomes[one.0] = match &together {
            Some(taken) => taken[number],
            None => give_alone(staging, one).await,
        };
    }
    Ok(())
}

async fn give_alone(staging: &mut Staging, one: (usize, &Target)) -> Outcome {
    match staging.give(&[one]).await {
        Ok(taken) => taken.first().copied().unwrap_or(Outcome::Refused),
        Err(failure) => {
            tracing::debug!(table = %one.1.name, %failure, detail = failure.detail, "the server takes no statistics");
            Outcome::Refused
        }
    }
}

/// The temporary table that holds arriving statistics until the server accepts them.
struct Staging {
    session: Session,
    forget: Statement,
    tell: Statement,
    count: Statement,
}

impl Staging {
    async fn open(cx: &Context) -> Result<Self, Failure> {
        let failure = |error| sql_failure(error, "make room for statistics");
        let session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
        let room = format!("CREATE TEMPORARY TABLE statistics ({})", statistics::definition());
        for statements in [SETTINGS, statistics::SETTINGS, &room] {
            session.batch_execute(statements).await.map_err(failure)?;
        }
        let forget = session.prepare(FORGET).await.map_err(failure)?;
        let tell = session.prepare(TELL).await.map_err(failure)?;
        let count = session.prepare(COUNT).await.map_err(failure)?;
        Ok(Self { session, forget, tell, count })
    }

    /// Receives everything from the link.
    async fn receive(&self, source: &mut SourceStatistics) -> Result<(), Failure> {
        let failure = |error| sql_failure(error, "receive statistics");
        self.session.batch_execute(EMPTY).await.map_err(failure)?;
        let sink = self.session.copy_in::<_, Bytes>(ARRIVE).await.map_err(failure)?;
        tokio::pin!(sink);
        while let Some(chunk) = source.next().await? {
            sink.send(chunk).await.map_err(failure)?;
        }
        sink.finish().await.map_err(failure)?;
        Ok(())
    }

    /// Gives the server the statistics of tables, each with its place in the question to the source: all of
    /// them, or none if the server refuses any.
    async fn give(&mut self, targets: &[(usize, &Target)]) -> Result<Vec<Outcome>, Failure> {
        let failure = |error| sql_failure(error, "set statistics");
        let places: Vec<i32> = targets.iter().map(|&(place, _)| i32::try_from(place).unwrap_or(i32::MAX)).collect();
        let schemas: Vec<&str> = targets.iter().map(|(_, target)| target.name.schema.as_str()).collect();
        let relations: Vec<&str> = targets.iter().map(|(_, target)| target.name.relation.as_str()).collect();
        let row_counts: Vec<i64> = targets.iter().map(|(_, target)| target.row_count).collect();
        let transaction = self.session.transaction().await.map_err(failure)?;
        transaction.execute(&self.forget, &[&places, &schemas, &relations]).await.map_err(failure)?;
        let told = transaction.query(&self.tell, &[&places, &schemas, &relations]).await.map_err(failure)?;
        let taken: BTreeMap<i32, bool> = told.iter().map(|row| (row.get(0), row.get(1))).collect();
        let outcomes: Vec<_> = places.iter().map(|place| judge(taken.get(place).copied())).collect();
        if !outcomes.contains(&Outcome::Refused) {
            transaction.execute(&self.count, &[&schemas, &relations, &row_counts]).await.map_err(failure)?;
            transaction.commit().await.map_err(failure)?;
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_taken_whole_stays() {
        assert_eq!(judge(Some(true)), Outcome::Carried);
        assert_eq!(judge(Some(false)), Outcome::Refused);
        assert_eq!(judge(None), Outcome::Absent);
    }

    #[test]
    fn servers_from_18_on_can_be_told() {
        let told = |num| can_be_told(ServerVersion::from_num(num));
        assert!(told(180_000) && told(190_001) && !told(170_009));
    }

    #[test]
    fn a_server_is_told_everything_that_is_sent() {
        for name in statistics::known() {
            assert!(TELL.contains(&format!("'{name}', s.{name}")), "{name}");
        }
    }
}
