//! Whether the source's server is set up for a migration.

use pgportage_link::Failure;
use pgportage_migration::stream::Stream;
use pgportage_postgres::quote_ident;
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each, one};

/// Slots and WAL senders that the copy can use with the usual `max_sync_workers_per_subscription` of 2, the
/// stream's own included.
const COMFORTABLE: i64 = 3;
/// With fewer no table can be copied: one for the stream and one for a table.
const NEEDED: i64 = 2;

/// A standby cannot take part.
pub(super) async fn recovery(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let standby: bool = one(x.server, "SELECT pg_is_in_recovery()", &[]).await?.get(0);
    let finding = Finding::new(Reason::ServerInRecovery, Severity::Refuse, "", "the server is a standby")
        .remedy("run the agent beside the primary");
    Ok(standby.then_some(finding).into_iter().collect())
}

/// Logical decoding needs `wal_level = logical`.
pub(super) async fn wal_level(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let level = x.setting("wal_level").await?.unwrap_or_default();
    if level == "logical" {
        return Ok(vec![]);
    }
    let finding = Finding::new(Reason::WalLevelTooLow, Severity::Refuse, "wal_level", "wal_level is not logical")
        .evidence(level)
        .remedy("ALTER SYSTEM SET wal_level = 'logical'");
    Ok(vec![finding.restart()])
}

/// Free replication slots; a slot of ours that exists already counts as free.
pub(super) async fn slots(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let limit = x.number("max_replication_slots").await?;
    let own = Stream::published_by(x.side).name(x.migration);
    const USED: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1";
    let used: i64 = one(x.server, USED, &[&own]).await?.get(0);
    Ok(scarce(Reason::SlotsExhausted, "max_replication_slots", "replication slots", limit, used))
}

/// Free WAL senders; one that streams for us already counts as free.
pub(super) async fn senders(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let limit = x.number("max_wal_senders").await?;
    let own = Stream::published_by(x.side).name(x.migration);
    const USED: &str = "
        SELECT count(*) FROM pg_stat_replication AS r
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.active_pid = r.pid AND s.slot_name = $1)";
    let used: i64 = one(x.server, USED, &[&own]).await?.get(0);
    Ok(scarce(Reason::SendersExhausted, "max_wal_senders", "WAL senders", limit, used))
}

fn scarce(code: Reason, setting: &str, what: &str, limit: i64, used: i64) -> Vec<Finding> {
    let free = limit - used;
    let (severity, message) = match free {
        COMFORTABLE.. => return vec![],
        NEEDED.. => (Severity::Note, format!("few {what} are free: tables are copied one at a time")),
        _ => (Severity::Refuse, format!("too few {what} are free")),
    };
    let finding = Finding::new(code, severity, setting, message)
        .evidence(format!("{limit} in all, {used} used, at least {NEEDED} needed"))
        .remedy(format!("ALTER SYSTEM SET {setting} = {}", used + COMFORTABLE + 2));
    vec![finding.restart()]
}

/// With `*`, our WAL sender would count as a standby that commits wait for.
pub(super) async fn synchronous_standby(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let names = x.setting("synchronous_standby_names").await?.unwrap_or_default();
    if !matches_ours(&names, &Stream::published_by(x.side).name(x.migration)) {
        return Ok(vec![]);
    }
    let finding = Finding::new(
        Reason::SynchronousStandbyAny,
        Severity::Refuse,
        "synchronous_standby_names",
        "commits of applications would wait for the migration",
    )
    .evidence(names)
    .remedy("name the standbys in synchronous_standby_names, without *, and reload");
    Ok(vec![finding])
}

/// Whether a value of `synchronous_standby_names` matches a WAL sender of ours.
fn matches_ours(names: &str, own: &str) -> bool {
    names
        .split([',', '(', ')', ' ', '\t', '\n'])
        .map(|name| name.trim_matches('"'))
        .any(|name| name == "*" || name.eq_ignore_ascii_case(own))
}

/// A slot that needs more WAL than this is invalidated.
pub(super) async fn slot_size(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const LIMIT: &str = "
        SELECT setting::bigint, current_setting('max_slot_wal_keep_size') FROM pg_settings
         WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1'";
    // With less, one busy hour or one large table is enough to lose the slot.
    const SMALL_MEGABYTES: i64 = 4096;
    each(x.server, LIMIT, &[], |row| {
        let small = row.get::<_, i64>(0) < SMALL_MEGABYTES;
        let severity = if small { Severity::Consent } else { Severity::Note };
        Finding::new(
            Reason::SlotSizeLimited,
            severity,
            "max_slot_wal_keep_size",
            "the server gives our slot up when it needs more WAL than this",
        )
        .evidence(row.get::<_, String>(1))
        .remedy(
            "ALTER SYSTEM SET max_slot_wal_keep_size = -1, and reload; the agent's own limit then protects the disk",
        )
    })
    .await
}

/// From 18 on: a slot that no session streams from for this long is invalidated.
pub(super) async fn slot_idle_timeout(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let limit = x.setting("idle_replication_slot_timeout").await?.unwrap_or_else(|| "0".to_owned());
    if limit == "0" {
        return Ok(vec![]);
    }
    let finding = Finding::new(
        Reason::SlotIdleTimeout,
        Severity::Consent,
        "idle_replication_slot_timeout",
        "the server gives our slot up when the destination is away for longer than this",
    )
    .evidence(limit)
    .remedy("ALTER SYSTEM SET idle_replication_slot_timeout = 0, and reload");
    Ok(vec![finding])
}

/// Minor releases of August 2026 and later load only listed output plugins.
pub(super) async fn output_plugin(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let Some(list) = x.setting("output_plugin_libraries").await? else { return Ok(vec![]) };
    let allowed = list
        .split(',')
        .map(|name| name.trim().trim_matches(['"', '\'']))
        .any(|name| name == "*" || name == "pgoutput" || name.ends_with("/pgoutput"));
    let finding = Finding::new(
        Reason::OutputPluginForbidden,
        Severity::Refuse,
        "output_plugin_libraries",
        "the server does not load pgoutput",
    )
    .evidence(list)
    .remedy("add pgoutput to output_plugin_libraries");
    Ok((!allowed).then_some(finding).into_iter().collect())
}

/// Time limits in the server's or the database's settings. Our sessions and our replication role turn them
/// off for themselves; the owner has to do that for a role made beforehand.
pub(super) async fn time_limits(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const LIMITS: &str = "
        SELECT 'role ' || quote_ident(r.rolname) || coalesce(' in database ' || quote_ident(d.datname), ''), s.config,
               format('ALTER ROLE %I%s RESET %s', r.rolname, coalesce(' IN DATABASE ' || quote_ident(d.datname), ''),
                      split_part(s.config, '=', 1))
          FROM (SELECT setrole, setdatabase, unnest(setconfig) AS config FROM pg_db_role_setting) AS s
          JOIN pg_roles AS r ON r.oid = s.setrole
          LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
         WHERE r.rolname = $1 AND (s.setdatabase = 0 OR d.datname = $2)
           AND split_part(s.config, '=', 1) IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
               'idle_in_transaction_session_timeout', 'idle_session_timeout')
           AND split_part(s.config, '=', 2) !~ '^0+[a-z]*$'";
    let Some(role) = &x.handles.policy.roles().replication else { return Ok(vec![]) };
    each(x.server, LIMITS, &[&role.name, &x.database], |row| {
        Finding::new(
            Reason::TimeLimitSet,
            Severity::Consent,
            row.get::<_, String>(0),
            "a time limit may end the copy of a large table",
        )
        .evidence(row.get::<_, String>(1))
        .remedy(row.get::<_, String>(2))
    })
    .await
}

/// Room in the lock table for every table at once: the dump and the barrier.
pub(super) async fn locks(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    Ok(locks_for(x, i64::from(x.inventory.table_count)).await?.into_iter().collect())
}

/// What the lock table lacks for a transaction with so many locks.
pub(super) async fn locks_for(x: &Examination<'_>, needed: i64) -> Result<Option<Finding>, Failure> {
    let each_transaction = x.number("max_locks_per_transaction").await?;
    let transactions = x.number("max_connections").await? + x.number("max_prepared_transactions").await?;
    // A fifth is left to the applications.
    if needed <= each_transaction * transactions / 5 * 4 {
        return Ok(None);
    }
    let enough = needed * 5 / 4 / transactions.max(1) + 1;
    let finding = Finding::new(
        Reason::LocksTooFew,
        Severity::Refuse,
        "max_locks_per_transaction",
        "the lock table is too small for the number of relations",
    )
    .evidence(format!(
        "{needed} locks in one transaction; max_locks_per_transaction is {each_transaction} for {transactions} transactions"
    ))
    .remedy(format!("ALTER SYSTEM SET max_locks_per_transaction = {enough}"));
    Ok(Some(finding.restart()))
}

/// Subscriptions of the source write into it behind every fence.
pub(super) async fn subscribes(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const SUBSCRIPTIONS: &str = "
        SELECT s.subname::text, s.subenabled FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
         WHERE d.datname = current_database() AND s.subname <> $1 ORDER BY s.subname";
    let own = Stream::subscribed_by(x.side).name(x.migration);
    each(x.in_database()?, SUBSCRIPTIONS, &[&own], |row| {
        let name = quote_ident(row.get(0));
        let enabled: bool = row.get(1);
        let (severity, evidence) = if enabled { (Severity::Consent, "enabled") } else { (Severity::Note, "disabled") };
        Finding::new(
            Reason::SourceSubscribes,
            severity,
            name.clone(),
            "a subscription writes into the source; it is not moved, and the cutover refuses while it is enabled",
        )
        .evidence(evidence)
        .remedy(format!("ALTER SUBSCRIPTION {name} DISABLE"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_names() {
        for (names, matches) in [
            ("", false),
            ("*", true),
            ("ANY 1 (*)", true),
            ("FIRST 2 (a, \"*\")", true),
            ("standby1, standby2", false),
            ("ANY 1 (s1,PGPORTAGE_SHOP)", true),
        ] {
            assert_eq!(matches_ours(names, "pgportage_shop"), matches, "{names}");
        }
    }
}
