//! Transactions and sessions on the source at the moment.

use pgportage_link::Failure;
use pgportage_postgres::quote_literal;
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each};

/// Prepared transactions delay the making of the slot, and no session shows them.
pub(super) async fn prepared(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const PREPARED: &str = "
        SELECT gid, owner::text, prepared::text, prepared > now() - interval '1 minute'
          FROM pg_prepared_xacts WHERE database = $1 ORDER BY prepared";
    each(x.server, PREPARED, &[&x.database], |row| {
        let gid = quote_literal(row.get(0));
        let gid = gid.trim();
        // An application that uses two-phase commit always has young ones.
        let severity = if row.get(3) { Severity::Note } else { Severity::Refuse };
        Finding::new(
            Reason::PreparedTransactions,
            severity,
            gid,
            "a prepared transaction holds up the replication slot and the cutover",
        )
        .evidence(format!("owner {}, prepared at {}", row.get::<_, String>(1), row.get::<_, String>(2)))
        .remedy(format!("COMMIT PREPARED {gid}, or ROLLBACK PREPARED {gid}"))
    })
    .await
}

/// The slot waits for every transaction that is open when it is made.
pub(super) async fn long(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const LONG: &str = "
        SELECT pid, coalesce(usename::text, ''), xact_start::text, coalesce(state, '')
          FROM pg_stat_activity
         WHERE xact_start < now() - interval '5 minutes' AND backend_type = 'client backend'
           AND (datname = $1 OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
         ORDER BY xact_start";
    each(x.server, LONG, &[&x.database], |row| {
        let pid: i32 = row.get(0);
        Finding::new(
            Reason::LongTransaction,
            Severity::Note,
            format!("pid {pid}"),
            "a transaction has been open for more than 5 minutes; the replication slot waits for its end",
        )
        .evidence(format!(
            "role {}, since {}, {}",
            row.get::<_, String>(1),
            row.get::<_, String>(2),
            row.get::<_, String>(3)
        ))
        .remedy(format!("SELECT pg_terminate_backend({pid})"))
    })
    .await
}

/// No fence keeps a superuser out; the cutover refuses while a superuser's session is there.
pub(super) async fn superusers(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const SUPERUSERS: &str = "
        SELECT quote_ident(a.usename), count(*) FROM pg_stat_activity AS a
          JOIN pg_roles AS r ON r.oid = a.usesysid
         WHERE a.datname = $1 AND r.rolsuper AND a.backend_type = 'client backend'
           AND NOT (a.pid = ANY ($2)) GROUP BY 1 ORDER BY 1";
    let own: Vec<i32> = x.handles.door.own_sessions().iter().map(|session| session.pid).collect();
    each(x.server, SUPERUSERS, &[&x.database, &own], |row| {
        Finding::new(
            Reason::SuperuserSession,
            Severity::Note,
            row.get::<_, String>(0),
            "superusers are at work in the database; the cutover refuses until they have left",
        )
        .evidence(format!("{} sessions", row.get::<_, i64>(1)))
    })
    .await
}
