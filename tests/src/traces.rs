//! What a migration leaves on a server: nothing, except the fence.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;

/// Everything on a server or in the database that is ours by its name, wherever
/// PostgreSQL lists it. Slots of the initial copy carry PostgreSQL's own names.
const OURS: &str = "
SELECT 'slot ' || slot_name FROM pg_replication_slots
UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'pgportage%'
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'pgportage%'
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts";

/// The state of a server and a database that an abort must restore. Access is
/// listed by effect: a REVOKE and GRANT turns a default into an explicit list
/// that means the same.
const CATALOG: &str = "
SELECT format('database %s: %s may %s', datname, grantee::regrole, privilege_type)
    FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
UNION ALL SELECT format('database %s: owner %s, limit %s, connections %s', datname, datdba::regrole, datconnlimit, datallowconn)
    FROM pg_database
UNION ALL SELECT format('role %s: %s %s %s', rolname, rolsuper, rolreplication, rolcanlogin) FROM pg_roles
UNION ALL SELECT format('membership %s in %s', member::regrole, roleid::regrole) FROM pg_auth_members
UNION ALL SELECT format('setting of %s in %s: %s', setrole, setdatabase, setconfig) FROM pg_db_role_setting
UNION ALL SELECT format('schema %s: %s may %s', nspname, grantee::regrole, privilege_type)
    FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
    WHERE nspname NOT LIKE 'pg\\_t%'
UNION ALL SELECT format('relation %s: kind %s, identity %s, owner %s', oid::regclass, relkind, relreplident, relowner::regrole)
    FROM pg_class WHERE oid >= 16384 AND relnamespace NOT IN
        (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_t%')
UNION ALL SELECT format('relation %s: %s may %s', pg_class.oid::regclass, grantee::regrole, privilege_type)
    FROM pg_class, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, relowner)))
    WHERE pg_class.oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384 AND typtype <> 'b'
UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'extension ' || extname FROM pg_extension";

/// Names of everything of ours.
pub async fn ours(cluster: &Cluster, database: &str) -> Result<BTreeSet<String>> {
    read(cluster, database, OURS).await
}

/// Everything that an abort must leave as it was.
pub async fn catalog(cluster: &Cluster, database: &str) -> Result<BTreeSet<String>> {
    let mut all = read(cluster, database, CATALOG).await?;
    all.extend(ours(cluster, database).await?);
    Ok(all)
}

/// Fails unless nothing of ours is left.
///
/// # Errors
///
/// When something is; the error lists it.
pub async fn expect_nothing(cluster: &Cluster, database: &str) -> Result<()> {
    let left = ours(cluster, database).await?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// Fails unless two catalogs are the same.
///
/// # Errors
///
/// When they are not; the error lists what came and what went.
pub fn expect_equal(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let came: Vec<_> = after.difference(before).collect();
    let went: Vec<_> = before.difference(after).collect();
    ensure!(came.is_empty() && went.is_empty(), "the catalog differs: came {came:#?}, went {went:#?}");
    Ok(())
}

async fn read(cluster: &Cluster, database: &str, query: &str) -> Result<BTreeSet<String>> {
    let rows = cluster.connect(database).await?.query(query, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
