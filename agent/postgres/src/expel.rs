//! Ending every session of a database that is not ours, and proving that none is left.
//!
//! A login in flight is the hard part: it has passed the CONNECT check and is not in `pg_stat_activity` yet
//! (on 15 absent, on 18 `starting` without a database). It does hold `RowExclusiveLock` on the database's
//! object until its start-up transaction ends, and that shows in `pg_locks`.
//!
//! **Only the logins seen at the first look are waited for.** Every release from 14 to 18 starts a session
//! in this order (`InitPostgres`): authentication; that lock; then pending invalidations are read and the
//! snapshot of the catalog is thrown away, and the right to connect is read with a younger one; then the
//! entry in `pg_stat_activity`; then the end of the transaction, and with it of the lock. So a login that
//! was let in by the rights from before the revoke took the lock before the revoking session heard that it
//! had committed. At the first look after that, this login either still holds the lock or has its entry. A
//! login that takes the lock later reads the committed rights, and is refused. Applications that try again
//! and again are always in the middle of such a login: waiting for a look without any would be waiting for
//! luck.
//!
//! The caller has to prove what this rests on: that the committed rights keep every other role out, and
//! that they are still in force. Superusers pass in any case.

use std::collections::BTreeSet;
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::{SessionIdentity, sql_failure};

const DOING: &str = "end the sessions of applications";

/// How often the agent asks the server whether a session is left. A query takes about a millisecond; asking
/// more often would only load the server.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Sessions of this database that are not ours, and whether each was just asked to end. `$1`, `$2`: pids
/// and start times of our sessions; `$3`: our replication role. Autovacuum does not write rows, and CONNECT
/// does not apply to it.
const TERMINATE_FOREIGN: &str = "\
SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')::text,
       coalesce(a.backend_type, '')::text, pg_terminate_backend(a.pid)
FROM pg_stat_activity a
WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND NOT EXISTS (
      SELECT FROM unnest($1::int4[], $2::text[]) AS ours (pid, backend_start)
      WHERE ours.pid = a.pid AND ours.backend_start = a.backend_start::text)
  AND NOT (a.backend_type = 'walsender' AND a.usename = $3)
  AND a.backend_type NOT LIKE 'autovacuum%'
  AND a.backend_type NOT LIKE 'logical replication%'";

/// Logins in flight: holders of the lock that a starting backend takes on its
/// database, other than ours.
const LOGINS_IN_FLIGHT: &str = "\
SELECT l.pid
FROM pg_locks l
WHERE l.locktype = 'object'
  AND l.classid = 'pg_database'::regclass
  AND l.objid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode = 'RowExclusiveLock'
  AND l.pid <> ALL ($1)
  AND NOT EXISTS (
      SELECT FROM pg_stat_activity a
      WHERE a.pid = l.pid
        AND ((a.backend_type = 'walsender' AND a.usename = $2)
             OR a.backend_type LIKE 'autovacuum%'
             OR a.backend_type LIKE 'logical replication%'))";

/// The prepared statements that end the foreign sessions of a database: applications may be waiting when
/// they run.
#[derive(Debug)]
pub struct Expulsion {
    logins_in_flight: Statement,
    terminate_foreign: Statement,
}

impl Expulsion {
    /// Prepares the statements. Ends no session yet.
    pub async fn prepare(client: &Client) -> Result<Self, Failure> {
        let (logins_in_flight, terminate_foreign) = try_join!(
            client.prepare_typed(LOGINS_IN_FLIGHT, &[Type::INT4_ARRAY, Type::NAME]),
            client.prepare_typed(TERMINATE_FOREIGN, &[Type::INT4_ARRAY, Type::TEXT_ARRAY, Type::NAME])
        )
        .map_err(|error| sql_failure(error, DOING))?;
        Ok(Self { logins_in_flight, terminate_foreign })
    }

    /// Ends every foreign session of the database of `client`, on which this was prepared. Returns how many
    /// there were, once none is left and no login is in flight that could have been let in.
    ///
    /// **CONNECT is revoked and committed before this is called**, on any session: the first look has to
    /// come after that commit. Dropping the future is safe.
    ///
    /// # Errors
    ///
    /// [`Reason::FenceIncomplete`] when a session is left at the deadline; its detail names it.
    pub async fn carry_out(
        &self,
        client: &Client,
        own_sessions: impl Fn() -> BTreeSet<SessionIdentity>,
        replication_role: &str,
        clock: Clock,
        deadline: Instant,
    ) -> Result<u32, Failure> {
        let mut ended = BTreeSet::new();
        let mut let_in_before: Option<BTreeSet<i32>> = None;
        loop {
            let (in_flight, foreign) = self.look(client, &own_sessions(), replication_role).await?;
            let let_in = match let_in_before {
                None => in_flight,
                Some(before) => &before & &in_flight,
            };
            if let_in.is_empty() && foreign.is_empty() {
                return Ok(u32::try_from(ended.len()).unwrap_or(u32::MAX));
            }
            ended.extend(foreign.iter().map(|row| row.get::<_, i32>(0)));
            if clock.now() >= deadline {
                return Err(somebody_left(&foreign, &let_in));
            }
            let_in_before = Some(let_in);
            clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// The logins in flight, then the sessions, which are asked to end. In this order and in one round
    /// trip: a login that finishes between the two queries shows in the second one.
    async fn look(
        &self,
        client: &Client,
        own: &BTreeSet<SessionIdentity>,
        replication_role: &str,
    ) -> Result<(BTreeSet<i32>, Vec<Row>), Failure> {
        let pids: Vec<i32> = own.iter().map(|session| session.pid).collect();
        let starts: Vec<&str> = own.iter().map(|session| session.backend_start.as_str()).collect();
        let who: [&(dyn ToSql + Sync); 2] = [&pids, &replication_role];
        let whom: [&(dyn ToSql + Sync); 3] = [&pids, &starts, &replication_role];
        let (in_flight, foreign) = try_join!(
            biased;
            client.query(&self.logins_in_flight, &who),
            client.query(&self.terminate_foreign, &whom)
        )
        .map_err(|error| sql_failure(error, DOING))?;
        Ok((in_flight.iter().map(|row| row.get(0)).collect(), foreign))
    }
}

fn somebody_left(foreign: &[Row], in_flight: &BTreeSet<i32>) -> Failure {
    let sessions = foreign.iter().map(|row| {
        format!(
            "pid {} of role {:?} ({}, application {:?})",
            row.get::<_, i32>(0),
            row.get::<_, String>(1),
            row.get::<_, String>(3),
            row.get::<_, String>(2)
        )
    });
    let logins = in_flight.iter().map(|pid| format!("a login in flight, pid {pid}"));
    let left: Vec<String> = sessions.chain(logins).collect();
    Failure::new(Reason::FenceIncomplete, "other sessions are left on the database")
        .detail(format!("Still there: {}.", left.join("; ")))
        .hint("Stop what keeps connecting, for example a superuser's job or a background worker.")
        .remedy(Remedy::Operator)
        .effect(Effect::Unknown)
}
