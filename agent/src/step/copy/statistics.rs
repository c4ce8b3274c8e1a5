//! What the planner goes by: the source's statistics, where the server can be told
//! of them and they are of use; those of an ANALYZE elsewhere.
//!
//! Class: convergent. Whatever is known of a table is replaced, and whoever comes
//! after a death does it again.
//!
//! The values come as COPY data and are given to the server out of a temporary
//! table, so they stand in no statement and no parameter: a server that logs its
//! statements would keep them. **Whatever goes wrong here costs an ANALYZE, and
//! nothing else.**

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use tokio_postgres::{GenericClient, Statement};

use super::board::{Board, MOST_ASKED, Next};
use super::index::analyse;
use super::unless_stopped;
use crate::peer::SourceStatistics;
use crate::postgres::{Purpose, RelationName, ServerVersion, Session, sql_failure};
use crate::statistics::{self, Condition};
use crate::step::{Context, Progress};

/// The first version that can be told.
const TOLD_SINCE: i32 = 18;

/// How long the statistics of some tables may take to come and to be taken. Their
/// ANALYZE would be done by then.
const LIMIT: Duration = Duration::from_secs(120);

/// Nothing of these outlasts the session. What a server says of a value that it does
/// not take quotes it: that is told to nobody, and kept out of its log where the role
/// may.
const SETTINGS: &str = "\
SET synchronous_commit = off; SET lock_timeout = '10s'; SET client_min_messages = error;
SELECT set_config('log_min_messages', 'error', false) WHERE has_parameter_privilege('log_min_messages', 'SET')";

const EMPTY: &str = "TRUNCATE pg_temp.statistics";

const ARRIVE: &str = "COPY pg_temp.statistics FROM STDIN (FORMAT binary)";

/// Autovacuum may have looked at the table while it was half full.
const FORGET: &str = "\
SELECT pg_clear_attribute_stats(s.schemaname::text, s.tablename::text, s.attname::text, s.inherited)
FROM pg_stats s
WHERE s.schemaname = $1::text::name
  AND s.tablename = ANY (ARRAY(SELECT t.index_name::name FROM pg_temp.statistics t WHERE t.position = $3)
                         || $2::text::name)";

/// A table without an index has not been counted yet. Its file is another than the
/// source's: pages are those that are here.
const COUNT: &str = "\
SELECT pg_restore_relation_stats(
    'schemaname', n.nspname::text, 'relname', c.relname::text,
    'relpages', (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::int,
    'reltuples', $3::bigint::real)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind = 'r' AND c.reltuples < 0";

/// Tables whose rows are all in their partitions.
const PARENTS: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'p' AND n.nspname <> 'pgportage' ORDER BY 1, 2";

/// Tables of which more is kept than what is known of single columns, and whether
/// their rows are all in their partitions.
const EXTENDED: &str = "\
SELECT DISTINCT n.nspname::text, c.relname::text, c.relkind = 'p'
FROM pg_statistic_ext e JOIN pg_class c ON c.oid = e.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2";

/// Whether a server of this version can be told what its planner is to go by.
pub(super) fn can_be_told(version: ServerVersion) -> bool {
    version.major() >= TOLD_SINCE
}

/// What became of the source's statistics of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// They are here.
    Carried,
    /// The source has none, or shows none to the role of its agent.
    Absent,
    /// The source sent none, for a reason of its own.
    Withheld(Condition),
    /// The server did not take all of them.
    Refused,
    /// They did not arrive.
    Lost,
}

/// What the server took of the statistics of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    /// Columns that it was told of.
    columns: i64,
    /// Whether it took everything that it was told.
    everything: bool,
}

/// What is to be made of what a server took. Only [`Outcome::Carried`] stays.
fn judge(taken: Taken) -> Outcome {
    match taken {
        Taken { columns: 0, .. } => Outcome::Absent,
        Taken { everything: true, .. } => Outcome::Carried,
        Taken { everything: false, .. } => Outcome::Refused,
    }
}

/// A table that is to get the source's statistics.
#[derive(Clone, Debug)]
struct Heir {
    name: RelationName,
    /// Its rows. Zero when that is not known.
    row_count: i64,
}

/// Gives tables the source's statistics until every table is done; those that need
/// their own go back to the board.
///
/// # Errors
///
/// [`Reason::Cancelled`].
pub(super) async fn work(cx: &Context, board: &Board) -> Result<(), Failure> {
    let mut desk = None;
    loop {
        cx.safe_point()?;
        let change = board.change();
        match board.next_waiting() {
            Next::Never => return Ok(()),
            Next::Later => {
                tokio::select! {
                    biased;
                    () = cx.cancel.cancelled() => cx.safe_point()?,
                    () = change => {}
                }
            }
            Next::Take(tables) => {
                let heir = |&table| Heir { name: board.name(table).clone(), row_count: board.row_count(table) };
                let heirs: Vec<_> = tables.iter().map(heir).collect();
                let outcomes = carry(cx, &mut desk, &heirs).await;
                for (table, outcome) in tables.into_iter().zip(outcomes) {
                    board.waited(table, outcome == Outcome::Carried, cx.clock.now());
                }
            }
        }
    }
}

/// What could not be done table by table: partitioned tables get the source's
/// statistics too, and those of which more is kept than single columns are analysed,
/// because that cannot be carried and could not be made before it was declared.
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
        let heir = |row: &tokio_postgres::Row| Heir {
            name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            row_count: 0,
        };
        let parents: Vec<_> = parents.iter().map(heir).collect();
        let mut desk = None;
        for parents in parents.chunks(MOST_ASKED) {
            for (parent, outcome) in parents.iter().zip(carry(cx, &mut desk, parents).await) {
                // Nobody analyses these unasked, so many have none.
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

/// Gives tables what the source knows of them; says for each what became of that.
async fn carry(cx: &Context, desk: &mut Option<Desk>, heirs: &[Heir]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Lost; heirs.len()];
    let carrying = async {
        match cx.clock.timeout(LIMIT, attempt(cx, desk, heirs, &mut outcomes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(Reason::Stalled, "the source's statistics took too long").effect(Effect::None)),
        }
    };
    // Boxed: the future holds those of a login and of calls.
    if let Err(failure) = unless_stopped(cx, Box::pin(carrying)).await {
        *desk = None;
        if !cx.cancel.is_cancelled() {
            tracing::warn!(%failure, detail = failure.detail, "the source's statistics are not here; tables are analysed");
        }
    }
    for (heir, outcome) in heirs.iter().zip(&outcomes) {
        tracing::debug!(table = %heir.name, ?outcome, "the source's statistics");
    }
    outcomes
}

async fn attempt(
    cx: &Context,
    desk: &mut Option<Desk>,
    heirs: &[Heir],
    outcomes: &mut [Outcome],
) -> Result<(), Failure> {
    let peer = cx.agent.peers.call(&cx.participation).await?;
    let packing = cx.agent.peers.known_packing(&cx.participation).await;
    let names: Vec<_> = heirs.iter().map(|heir| heir.name.clone()).collect();
    let mut source = peer.read_statistics(&names, packing).await?;
    let desk = match desk.take() {
        Some(open) if !open.session.is_closed() => desk.insert(open),
        Some(_) | None => desk.insert(Desk::open(cx).await?),
    };
    // Where none are sent there is no COPY.
    if source.conditions.contains(&Condition::Sent) {
        desk.receive(&mut source).await?;
    }
    for (place, (heir, outcome)) in heirs.iter().zip(outcomes).enumerate() {
        *outcome = match source.conditions[place] {
            Condition::Sent => desk.give(place, heir).await.unwrap_or_else(|failure| {
                tracing::debug!(table = %heir.name, %failure, detail = failure.detail, "the server takes no statistics");
                Outcome::Refused
            }),
            condition @ (Condition::Stale | Condition::Opaque | Condition::Unknown) => Outcome::Withheld(condition),
        };
    }
    Ok(())
}

/// Where statistics lie between their arrival and the server's taking them.
struct Desk {
    session: Session,
    forget: Statement,
    tell: Statement,
    count: Statement,
}

impl Desk {
    async fn open(cx: &Context) -> Result<Self, Failure> {
        let failure = |error| sql_failure(error, "make room for statistics");
        let session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
        let room = format!("CREATE TEMPORARY TABLE statistics ({})", statistics::definition());
        for statements in [SETTINGS, statistics::SETTINGS, &room] {
            session.batch_execute(statements).await.map_err(failure)?;
        }
        let forget = session.prepare(FORGET).await.map_err(failure)?;
        let tell = session.prepare(&tell()).await.map_err(failure)?;
        let count = session.prepare(COUNT).await.map_err(failure)?;
        Ok(Self { session, forget, tell, count })
    }

    /// Takes everything from the link.
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

    /// Tells the server what there is about one table: all of it or nothing.
    async fn give(&mut self, place: usize, heir: &Heir) -> Result<Outcome, Failure> {
        let failure = |error| sql_failure(error, &format!("set statistics of table {}", heir.name));
        let (schema, relation) = (&heir.name.schema, &heir.name.relation);
        let place = i32::try_from(place).unwrap_or(i32::MAX);
        let transaction = self.session.transaction().await.map_err(failure)?;
        transaction.execute(&self.forget, &[schema, relation, &place]).await.map_err(failure)?;
        let row = transaction.query_one(&self.tell, &[schema, relation, &place]).await.map_err(failure)?;
        let outcome = judge(Taken { columns: row.get(0), everything: row.get(1) });
        if outcome != Outcome::Carried {
            return Ok(outcome);
        }
        if heir.row_count > 0 {
            transaction.execute(&self.count, &[schema, relation, &heir.row_count]).await.map_err(failure)?;
        }
        transaction.commit().await.map_err(failure)?;
        Ok(outcome)
    }
}

/// Tells the server what lies on the desk about one table and its indexes, and about
/// no others, whatever the source has sent.
fn tell() -> String {
    let known: String = statistics::known().map(|name| format!(", '{name}', s.{name}")).collect();
    format!(
        "SELECT count(*), coalesce(bool_and(pg_restore_attribute_stats(
             'schemaname', $1::text, 'relname', coalesce(s.index_name, $2::text),
             'attname', s.column_name, 'attnum', s.column_number{known})), true)
         FROM pg_temp.statistics s
         WHERE s.position = $3 AND (s.index_name IS NULL OR s.index_name IN (
             SELECT e.relname::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class e ON e.oid = i.indexrelid
             WHERE n.nspname = $1::text AND c.relname = $2::text AND i.indexprs IS NOT NULL))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_taken_whole_stays() {
        let judged = |columns, everything| judge(Taken { columns, everything });
        assert_eq!(judged(3, true), Outcome::Carried);
        assert_eq!(judged(3, false), Outcome::Refused);
        assert_eq!(judged(0, true), Outcome::Absent);
    }

    #[test]
    fn servers_from_18_on_can_be_told() {
        let told = |num| can_be_told(ServerVersion::from_num(num));
        assert!(told(180_000) && told(190_001) && !told(170_009));
    }

    #[test]
    fn a_server_is_told_by_the_names_that_it_knows() {
        let statement = tell();
        assert!(statement.contains("s.column_number, 'inherited', s.inherited, 'null_frac', s.null_frac,"), "{statement}");
        assert!(statement.contains(", 'range_bounds_histogram', s.range_bounds_histogram)"), "{statement}");
    }
}
