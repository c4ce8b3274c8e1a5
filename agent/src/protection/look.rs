//! The state of the source: one tiny commit, one look at its standbys.

use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure};
use pgportage_migration::journal::Journal;
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use pgportage_proto::{MigrationId, Reason};

use super::standby::Standby;

/// A look that takes longer is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The look reads the state of standbys itself. A lost standby must not delay its commit.
const SETTINGS: &str = "SET synchronous_commit = local";

/// Changes nothing and is flushed to the disk, in a table of our own. The number stays, so the heartbeat
/// takes no notice of it.
const COMMIT: &str = "UPDATE pgportage.heartbeat SET sequence = sequence WHERE id = 1";

/// Physical standbys only: a walsender of a logical slot waits for us, and one of a base backup replays
/// nothing.
const STANDBYS: &str = "\
SELECT pg_wal_lsn_diff(w.position, '0/0')::bigint,
       coalesce(nullif(s.application_name, ''), host(s.client_addr), 'without a name'),
       pg_wal_lsn_diff(s.replay_lsn, '0/0')::bigint,
       (coalesce(extract(epoch FROM s.replay_lag), 0) * 1000)::bigint
FROM (SELECT pg_current_wal_lsn() AS position) AS w
LEFT JOIN pg_stat_replication AS s
       ON s.state IN ('streaming', 'catchup') AND s.replay_lsn IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_replication_slots AS l WHERE l.active_pid = s.pid AND l.slot_type = 'logical')";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) commit_latency: Duration,
    /// The source's write position, in bytes of WAL.
    pub(super) position: i64,
    pub(super) standbys: Vec<Standby>,
}

/// Looks at the source, from the database of a migration that is being read.
///
/// # Errors
///
/// What the server reports; [`Reason::ServerUnreachable`] after [`PATIENCE`].
pub(super) async fn look(
    door: &Door,
    journal: &Journal,
    clock: Clock,
    session: &mut Option<Session>,
    migration: &MigrationId,
) -> Result<Seen, Failure> {
    let looked = clock.timeout(PATIENCE, Box::pin(looked(door, journal, clock, session, migration))).await;
    looked.unwrap_or_else(|_| {
        Err(Failure::new(Reason::ServerUnreachable, "the server does not answer").effect(Effect::Unknown))
    })
}

async fn looked(
    door: &Door,
    journal: &Journal,
    clock: Clock,
    session: &mut Option<Session>,
    migration: &MigrationId,
) -> Result<Seen, Failure> {
    let failure = |error| sql_failure(error, "look at the source");
    let open = match session.take() {
        Some(open) if !open.is_closed() => open,
        Some(_) | None => {
            let participation = journal
                .participation(migration)?
                .ok_or_else(|| Failure::new(Reason::MigrationMissing, "the migration is over").effect(Effect::None))?;
            let open = door.open(&participation.database, Purpose::Watch).await?;
            open.batch_execute(SETTINGS).await.map_err(failure)?;
            open
        }
    };
    let open = session.insert(open);
    let begun = clock.now();
    open.execute(COMMIT, &[]).await.map_err(failure)?;
    let commit_latency = clock.now().duration_since(begun);
    let rows = open.query(STANDBYS, &[]).await.map_err(failure)?;
    let mut seen = Seen { commit_latency, position: 0, standbys: Vec::new() };
    for row in &rows {
        seen.position = row.get(0);
        if let (Some(name), Some(replayed)) = (row.get::<_, Option<String>>(1), row.get(2)) {
            let reported_lag = Duration::from_millis(u64::try_from(row.get::<_, i64>(3)).unwrap_or(0));
            seen.standbys.push(Standby { name, replayed, reported_lag });
        }
    }
    Ok(seen)
}
