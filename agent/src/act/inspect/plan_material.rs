//! What the coordinator's plan shows of this side: its tables and sequences, which applications are
//! connected, which roles may connect, and the migration's own roles as they will be made or were made.

use pgportage_data_plane::role::needs_bypass;
use pgportage_data_plane::slot::PremadeRole;
use pgportage_link::Failure;
use pgportage_postgres::access::Access;
use pgportage_postgres::catalog::user_relation;
use pgportage_postgres::{RelationName, Session, sql_failure};
use pgportage_report::inventory::{ConnectGrant, PlanMaterial, PlannedRole, PlannedTable, SessionGroup};

use super::examination::one;
use crate::act::Context;

/// `$1` is the replication role. If it does not exist yet, the rights of PUBLIC count.
const TABLES: &str = concat!(
    "
    SELECT n.nspname::text, c.relname::text, coalesce(pg_table_size(c.oid), 0),
           has_table_privilege(coalesce(r.rolname, 'public'), c.oid, 'SELECT')
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_roles AS r ON r.rolname = $1
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND ",
    user_relation!(),
    "
     ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
);

const SEQUENCES: &str = concat!(
    "
    SELECT n.nspname::text, c.relname::text
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND ",
    user_relation!(),
    "
     ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
);

const UNUSABLE_SCHEMAS: &str = concat!(
    "
    SELECT DISTINCT n.nspname::text
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_roles AS r ON r.rolname = $1
     WHERE c.relkind = 'r' AND c.relpersistence = 'p'
       AND NOT has_schema_privilege(coalesce(r.rolname, 'public'), n.oid, 'USAGE') AND ",
    user_relation!(),
    "
     ORDER BY 1"
);

const COUNTS: &str = concat!(
    "
    SELECT coalesce(sum((SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid)), 0)::int,
           coalesce(sum((SELECT count(*) FROM pg_constraint AS k
                          WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0)), 0)::int,
           coalesce(sum((SELECT count(*) FROM pg_trigger AS g
                          WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgparentid = 0)), 0)::int
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND ",
    user_relation!()
);

/// `$1` and `$2` are pids and start times of our own sessions.
const SESSIONS: &str = "
    SELECT coalesce(a.usename, '')::text, coalesce(a.application_name, '')::text, count(*)::int
      FROM pg_stat_activity AS a
     WHERE a.datname = current_database() AND a.backend_type = 'client backend'
       AND NOT EXISTS (SELECT FROM unnest($1::int4[], $2::text[]) AS ours (pid, backend_start)
                        WHERE ours.pid = a.pid AND ours.backend_start = a.backend_start::text)
     GROUP BY 1, 2
     ORDER BY 3 DESC, 1, 2";

const AGENT: &str = "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user";

const ROLE_CONNECTS: &str = "
    SELECT EXISTS (SELECT FROM pg_database AS d, aclexplode(d.datacl) AS a
                     JOIN pg_roles AS r ON r.oid = a.grantee
                    WHERE d.datname = current_database() AND r.rolname = $1 AND a.privilege_type = 'CONNECT')";

pub(super) async fn read(cx: &Context, session: &Session) -> Result<PlanMaterial, Failure> {
    let roles = &cx.roles;
    let names = roles.names(&cx.participation);
    let failure = |error| sql_failure(error, "read what the plan names");
    let tables = session.query(TABLES, &[&names.replication]).await.map_err(failure)?;
    let sequences = session.query(SEQUENCES, &[]).await.map_err(failure)?;
    let unusable = session.query(UNUSABLE_SCHEMAS, &[&names.replication]).await.map_err(failure)?;
    let counts = one(session, COUNTS, &[]).await?;
    let (pids, starts): (Vec<i32>, Vec<String>) =
        cx.door.own_sessions().into_iter().map(|own| (own.pid, own.backend_start)).unzip();
    let sessions = session.query(SESSIONS, &[&pids, &starts]).await.map_err(failure)?;
    let agent = one(session, AGENT, &[]).await?;
    let access = Access::read(&**session).await?;
    Ok(PlanMaterial {
        tables: tables
            .iter()
            .map(|row| PlannedTable {
                name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                size_bytes: row.get(2),
                readable: row.get(3),
            })
            .collect(),
        sequences: sequences
            .iter()
            .map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect(),
        unusable_schema_names: unusable.iter().map(|row| row.get(0)).collect(),
        index_count: counts.get(0),
        foreign_key_count: counts.get(1),
        trigger_count: counts.get(2),
        sessions: sessions
            .iter()
            .map(|row| SessionGroup { role_name: row.get(0), application_name: row.get(1), session_count: row.get(2) })
            .collect(),
        connect_grants: access
            .grants
            .into_iter()
            .map(|grant| ConnectGrant { role_name: grant.grantee.unwrap_or_default(), grantable: grant.grantable })
            .collect(),
        read_only_default: access.read_only_default.unwrap_or_default(),
        agent_role_name: agent.get(0),
        agent_is_superuser: agent.get(1),
        replication_role: role(session, names.replication, roles.premade_replication()).await?,
        canary_role: role(session, names.canary, roles.premade_canary()).await?,
        bypass_row_security: needs_bypass(&**session).await?,
    })
}

async fn role(session: &Session, role_name: String, premade: Option<&PremadeRole>) -> Result<PlannedRole, Failure> {
    let connects = one(session, ROLE_CONNECTS, &[&role_name]).await?.get(0);
    Ok(PlannedRole { role_name, premade: premade.is_some(), connects })
}
