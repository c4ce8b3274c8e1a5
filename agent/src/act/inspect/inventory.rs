//! The inventory of a server and of the database on it.

use pgportage_link::Failure;
use pgportage_postgres::catalog::{user_relation, user_tables};
use pgportage_postgres::{Session, sql_failure};
use pgportage_report::inventory::{Extension, Inventory};

use super::examination::one;

/// Reads the inventory. What concerns the database stays empty while there is none.
pub(super) async fn take(server: &Session, session: Option<&Session>, database: &str) -> Result<Inventory, Failure> {
    const SERVER: &str = "
        SELECT system_identifier::text FROM pg_control_system()";
    // Columns that came with 15 and 17 are read through jsonb.
    const DATABASE: &str = "
        SELECT pg_encoding_to_char(d.encoding)::text,
               concat_ws(' ', CASE coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
                                   WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE '?' END,
                              d.datcollate::text, CASE WHEN d.datctype <> d.datcollate THEN d.datctype::text END,
                              coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')),
               pg_database_size(d.oid)
          FROM pg_database AS d WHERE d.datname = $1";
    let mut inventory = Inventory {
        server_version_num: server.version.num(),
        system_identifier: one(server, SERVER, &[]).await?.get(0),
        ..Inventory::default()
    };
    let Some(session) = session else { return Ok(inventory) };
    let row = one(session, DATABASE, &[&database]).await?;
    inventory.encoding = row.get(0);
    inventory.collation = row.get(1);
    inventory.size_bytes = row.get(2);
    inventory.extensions = extensions(session).await?;
    inventory.table_count = i32::try_from(user_tables(session).await?.len()).unwrap_or(i32::MAX);
    inventory.relation_count = relation_count(session).await?;
    (inventory.role_names, inventory.owner_role_names) = roles(session).await?;
    Ok(inventory)
}

async fn extensions(session: &Session) -> Result<Vec<Extension>, Failure> {
    const EXTENSIONS: &str = "
        SELECT extname::text, extversion FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY extname::text COLLATE \"C\"";
    let rows = session.query(EXTENSIONS, &[]).await.map_err(|error| sql_failure(error, "list the extensions"))?;
    Ok(rows.iter().map(|row| Extension { name: row.get(0), version: row.get(1) }).collect())
}

/// Relations of every kind. A TOAST table counts twice, because of its index.
async fn relation_count(session: &Session) -> Result<i32, Failure> {
    const COUNT: &str = concat!(
        "SELECT least(coalesce(sum(CASE WHEN c.reltoastrelid <> 0 THEN 3 ELSE 1 END), 0), 2147483647)::int
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE ",
        user_relation!()
    );
    Ok(one(session, COUNT, &[]).await?.get(0))
}

/// Roles that own something in the database or were granted something, and the owners among them. Objects
/// of extensions and of ours do not count: no restore sets their owner.
async fn roles(session: &Session) -> Result<(Vec<String>, Vec<String>), Failure> {
    // The bootstrap superuser is pinned and has no entries in pg_shdepend.
    const ROLES: &str = concat!(
        "
        SELECT r.rolname::text, bool_or(d.owns)
          FROM (SELECT s.refobjid AS role, s.deptype = 'o' AS owns
                  FROM pg_shdepend AS s
                 WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND s.refclassid = 'pg_authid'::regclass AND s.deptype IN ('o', 'a', 'r')
                   AND s.classid NOT IN ('pg_extension'::regclass, 'pg_publication'::regclass)
                   AND NOT EXISTS (SELECT FROM pg_depend AS member
                                    WHERE member.classid = s.classid AND member.objid = s.objid
                                      AND member.deptype = 'e')
                   AND NOT (s.classid = 'pg_class'::regclass
                            AND s.objid IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('pgportage')))
                   AND NOT (s.classid = 'pg_namespace'::regclass
                            AND (s.objid = to_regnamespace('pgportage')
                                 OR s.objid = to_regnamespace('public') AND s.deptype = 'o'))
                UNION ALL
                SELECT c.relowner, true FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relowner = 10 AND ",
        user_relation!(),
        ") AS d
          JOIN pg_roles AS r ON r.oid = d.role
         WHERE r.rolname !~ '^pg_' AND r.rolname !~ '^pgportage'
         GROUP BY r.rolname
         ORDER BY r.rolname::text COLLATE \"C\""
    );
    let rows = session.query(ROLES, &[]).await.map_err(|error| sql_failure(error, "list the roles"))?;
    let names = rows.iter().map(|row| row.get(0)).collect();
    let owners = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    Ok((names, owners))
}
