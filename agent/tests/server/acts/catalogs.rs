//! What a server's catalogs say, for comparison: everything that an act of ours
//! could leave behind, access rights by effect.

use pgportage_tests::cluster::Cluster;

const QUESTIONS: &[&str] = &[
    "SELECT 'role ' || r.rolname || ' ' || r.rolreplication || coalesce(' ' || shobj_description(r.oid, 'pg_authid'), '')
       FROM pg_roles r WHERE r.rolname !~ '^pg_'",
    "SELECT 'setting ' || setdatabase::text || ' ' || setrole::regrole::text || ' ' || setconfig::text
       FROM pg_db_role_setting",
    "SELECT 'slot ' || slot_name FROM pg_replication_slots",
    "SELECT 'origin ' || roname FROM pg_replication_origin",
    "SELECT 'subscription ' || subname FROM pg_subscription",
    "SELECT 'publication ' || pubname FROM pg_publication",
    "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)'",
    "SELECT 'relation ' || c.oid::regclass::text || ' ' || c.relkind::text || ' ' || c.relreplident::text
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname !~ '^(pg_|information_schema)'",
    "SELECT 'database ' || coalesce(pg_get_userbyid(a.grantee), 'PUBLIC') || ' ' || a.privilege_type
       FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
      WHERE d.datname = current_database()",
    "SELECT 'schema ' || n.nspname || ' ' || a.grantee::text || ' ' || a.privilege_type
       FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
      WHERE n.nspname !~ '^(pg_|information_schema)'",
    "SELECT 'relation ' || c.oid::regclass::text || ' ' || a.grantee::text || ' ' || a.privilege_type
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
            aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) a
      WHERE n.nspname !~ '^(pg_|information_schema)'",
];

/// One line for each thing, sorted.
pub(crate) async fn read(cluster: &Cluster, database: &str) -> Vec<String> {
    let client = cluster.connect(database).await.unwrap();
    let mut lines = Vec::new();
    for question in QUESTIONS {
        lines.extend(client.query(*question, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    lines.sort();
    lines
}

/// Fails with the difference.
pub(crate) fn assert_same(before: &[String], after: &[String], when: &str) {
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(gone.is_empty() && new.is_empty(), "{when}: gone {gone:#?}, new {new:#?}");
}
