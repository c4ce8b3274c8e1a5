//! Ending every session of a database that is not ours, and proving that nobody
//! is left.
//!
//! A login in flight is the hard part: it has passed the CONNECT check and is
//! not in `pg_stat_activity` yet (on 15 absent, on 18 `starting` without a
//! database). It does hold `RowExclusiveLock` on the database's object until its
//! start-up transaction ends, and that is seen in `pg_locks`.

use std::collections::BTreeSet;
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{SessionIdentity, sql_failure};

/// How often the server is asked whether somebody is left. A query takes about
/// a millisecond; asking more often would only load the server.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Sessions of this database that are not ours, and whether each was asked to
/// end just now. `$1`, `$2`: pids and start times of our sessions; `$3`: our
/// replication role. Autovacuum does not write rows and does not answer to
/// CONNECT.
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

/// Ends every foreign session of the session's database and returns how many
/// there were, once nobody is left and no login is in flight.
///
/// Nobody may be able to log in any more when this is called, or it may never
/// end: CONNECT is revoked and committed before. Dropping the future is safe.
///
/// # Errors
///
/// [`Reason::FenceIncomplete`] when somebody is left at the deadline, named.
pub async fn expel(
    client: &Client,
    own_sessions: impl Fn() -> BTreeSet<SessionIdentity>,
    replication_role: &str,
    clock: Clock,
    deadline: Instant,
) -> Result<u32, Failure> {
    let doing = "end the sessions of applications";
    let mut ended = BTreeSet::new();
    loop {
        let own = own_sessions();
        let pids: Vec<i32> = own.iter().map(|session| session.pid).collect();
        let starts: Vec<&str> = own.iter().map(|session| session.backend_start.as_str()).collect();
        // In flight first, in one round trip: a login that finishes between the two
        // queries is then seen by the second one.
        let who: [(&(dyn ToSql + Sync), Type); 2] = [(&pids, Type::INT4_ARRAY), (&replication_role, Type::NAME)];
        let whom: [(&(dyn ToSql + Sync), Type); 3] =
            [(&pids, Type::INT4_ARRAY), (&starts, Type::TEXT_ARRAY), (&replication_role, Type::NAME)];
        let (in_flight, foreign) =
            try_join!(client.query_typed(LOGINS_IN_FLIGHT, &who), client.query_typed(TERMINATE_FOREIGN, &whom))
                .map_err(|error| sql_failure(error, doing))?;
        if in_flight.is_empty() && foreign.is_empty() {
            return Ok(u32::try_from(ended.len()).unwrap_or(u32::MAX));
        }
        ended.extend(foreign.iter().map(|row| row.get::<_, i32>(0)));
        if clock.now() >= deadline {
            let left: Vec<String> = foreign
                .iter()
                .map(|row| {
                    format!(
                        "pid {} of role {:?} ({}, application {:?})",
                        row.get::<_, i32>(0),
                        row.get::<_, String>(1),
                        row.get::<_, String>(3),
                        row.get::<_, String>(2)
                    )
                })
                .chain(in_flight.iter().map(|row| format!("a login in flight, pid {}", row.get::<_, i32>(0))))
                .collect();
            return Err(Failure::new(Reason::FenceIncomplete, "somebody is left on the database")
                .detail(format!("Still there: {}.", left.join("; ")))
                .hint("Stop what keeps connecting, for example a superuser's job or a background worker.")
                .remedy(Remedy::Operator)
                .effect(Effect::Unknown));
        }
        clock.sleep(LOOK_AGAIN).await;
    }
}
