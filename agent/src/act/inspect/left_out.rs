//! What native replication does not carry, object by object, and what becomes of it. **Nothing is left out
//! without a finding.**

use pgportage_link::Failure;
use pgportage_migration::names::replication_name;
use pgportage_postgres::catalog::user_relation;
use pgportage_postgres::{RelationName, quote_ident, quote_literal};
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;
use tokio_postgres::Client;

use super::Finding;
use super::examination::{Examination, each, one};

/// Everything in the database that native replication does not carry, for the report of *verify*, in the
/// words of preflight.
///
/// # Errors
///
/// What the server reports.
pub async fn not_replicated(client: &Client) -> Result<Vec<Finding>, Failure> {
    let mut findings = sequences_in(client).await?;
    findings.extend(large_objects_in(client).await?);
    findings.extend(unlogged_in(client).await?);
    findings.extend(foreign_in(client).await?);
    findings.extend(materialized_views_in(client).await?);
    findings.extend(extension_tables_in(client).await?);
    Ok(findings)
}

pub(super) async fn sequences(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    sequences_in(x.in_database()?).await
}

async fn sequences_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    const COUNT: &str = concat!(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND ",
        user_relation!()
    );
    let count: i64 = one(client, COUNT, &[]).await?.get(0);
    let finding = Finding::new(
        Reason::SequencesAtCutover,
        Severity::Note,
        "",
        "sequences do not replicate; the cutover sets all of them",
    )
    .evidence(format!("{count} sequences"));
    Ok((count > 0).then_some(finding).into_iter().collect())
}

pub(super) async fn large_objects(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    large_objects_in(x.in_database()?).await
}

async fn large_objects_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    let exist: bool = one(client, "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)", &[]).await?.get(0);
    // Without the count, which changes while applications write.
    let finding =
        Finding::new(Reason::LargeObjectsNotMoved, Severity::Consent, "pg_largeobject", "large objects are not moved")
            .evidence("the database has large objects")
            .remedy("move them into a table, or copy them by hand after the cutover");
    Ok(exist.then_some(finding).into_iter().collect())
}

pub(super) async fn unlogged(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    unlogged_in(x.in_database()?).await
}

async fn unlogged_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    const TABLES: &str = concat!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND ",
        user_relation!(),
        " ORDER BY 1, 2"
    );
    each(client, TABLES, &[], |row| {
        let table = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string();
        Finding::new(
            Reason::UnloggedNotMoved,
            Severity::Consent,
            table.clone(),
            "the table is unlogged: it is made on the destination, its rows are not moved",
        )
        .evidence("unlogged")
        .remedy(format!("ALTER TABLE {table} SET LOGGED"))
    })
    .await
}

pub(super) async fn foreign(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    foreign_in(x.in_database()?).await
}

async fn foreign_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    const TABLES: &str = concat!(
        "SELECT n.nspname::text, c.relname::text, s.srvname::text
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
           JOIN pg_foreign_table AS f ON f.ftrelid = c.oid JOIN pg_foreign_server AS s ON s.oid = f.ftserver WHERE ",
        user_relation!(),
        " ORDER BY 1, 2"
    );
    each(client, TABLES, &[], |row| {
        Finding::new(
            Reason::ForeignTableNotMoved,
            Severity::Note,
            RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string(),
            "the foreign table is made on the destination; its rows stay where they are, and the destination has to \
             reach that server",
        )
        .evidence(format!("server {}", quote_ident(row.get(2))))
    })
    .await
}

pub(super) async fn materialized_views(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    materialized_views_in(x.in_database()?).await
}

async fn materialized_views_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    const VIEWS: &str = concat!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relkind = 'm' AND ",
        user_relation!(),
        " ORDER BY 1, 2"
    );
    each(client, VIEWS, &[], |row| {
        let view = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string();
        Finding::new(
            Reason::MaterializedViewEmpty,
            Severity::Consent,
            view.clone(),
            "the materialized view cannot be read on the destination until it is refreshed there",
        )
        .evidence("materialized view")
        .remedy(format!("after the cutover, on the destination: REFRESH MATERIALIZED VIEW {view}"))
    })
    .await
}

pub(super) async fn extension_tables(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    extension_tables_in(x.in_database()?).await
}

/// Only tables that the extension declares to hold the user's rows.
async fn extension_tables_in(client: &Client) -> Result<Vec<Finding>, Failure> {
    const TABLES: &str = "
        SELECT n.nspname::text, c.relname::text, e.extname::text
          FROM pg_extension AS e CROSS JOIN unnest(e.extconfig) AS config (oid)
          JOIN pg_class AS c ON c.oid = config.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' ORDER BY 1, 2";
    each(client, TABLES, &[], |row| {
        Finding::new(
            Reason::ExtensionTableNotMoved,
            Severity::Consent,
            RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string(),
            "rows that users put into a table of an extension are not moved",
        )
        .evidence(format!("extension {}", quote_ident(row.get(2))))
    })
    .await
}

pub(super) async fn publications(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const PUBLICATIONS: &str = "SELECT pubname::text FROM pg_publication WHERE pubname !~ '^pgportage' ORDER BY 1";
    each(x.in_database()?, PUBLICATIONS, &[], |row| {
        Finding::new(
            Reason::PublicationNotMoved,
            Severity::Note,
            quote_ident(row.get(0)),
            "the publication is not moved; its subscribers have to be pointed at the destination",
        )
    })
    .await
}

pub(super) async fn slots(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const SLOTS: &str = "
        SELECT slot_name::text, plugin::text FROM pg_replication_slots
         WHERE database = $1 AND slot_name <> $2 AND slot_name !~ '^pgportage' ORDER BY 1";
    each(x.server, SLOTS, &[&x.database, &replication_name(x.migration)], |row| {
        Finding::new(
            Reason::SlotNotMoved,
            Severity::Note,
            quote_ident(row.get(0)),
            "the replication slot is not moved; its reader has to be pointed at the destination",
        )
        .evidence(format!("plugin {}", row.get::<_, String>(1)))
    })
    .await
}

/// Settings of the database, and of roles in it: pg_dump leaves them out when the database exists already.
pub(super) async fn settings(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const SETTINGS: &str = "
        SELECT r.rolname::text, s.config FROM (SELECT setrole, setdatabase, unnest(setconfig) AS config
                                                 FROM pg_db_role_setting) AS s
          JOIN pg_database AS d ON d.oid = s.setdatabase AND d.datname = current_database()
          LEFT JOIN pg_roles AS r ON r.oid = s.setrole
         WHERE coalesce(r.rolname, '') !~ '^pgportage'
         ORDER BY 1 NULLS FIRST, 2";
    let database = quote_ident(x.database);
    each(x.in_database()?, SETTINGS, &[], |row| {
        let role: Option<String> = row.get(0);
        let config: String = row.get(1);
        let (name, value) = config.split_once('=').unwrap_or((&config, ""));
        let target = match role {
            Some(role) => format!("ROLE {} IN DATABASE {database}", quote_ident(&role)),
            None => format!("DATABASE {database}"),
        };
        Finding::new(Reason::SettingNotMoved, Severity::Note, target.clone(), "the setting is not moved")
            .evidence(name)
            .remedy(format!(
                "on the destination: ALTER {target} SET {} TO {}",
                quote_ident(name),
                quote_literal(value).trim()
            ))
    })
    .await
}

pub(super) async fn tablespaces(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const TABLESPACES: &str = concat!(
        "SELECT t.spcname::text, count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
           JOIN pg_tablespace AS t ON t.oid = c.reltablespace WHERE ",
        user_relation!(),
        " GROUP BY 1 ORDER BY 1"
    );
    each(x.in_database()?, TABLESPACES, &[], |row| {
        Finding::new(
            Reason::TablespaceNotMoved,
            Severity::Note,
            quote_ident(row.get(0)),
            "relations of this tablespace go to the destination database's default one",
        )
        .evidence(format!("{} relations", row.get::<_, i64>(1)))
    })
    .await
}

pub(super) async fn invalid_indexes(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const INDEXES: &str = concat!(
        "SELECT n.nspname::text, c.relname::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
           JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relkind = 'i' AND ",
        user_relation!(),
        " ORDER BY 1, 2"
    );
    each(x.in_database()?, INDEXES, &[], |row| {
        let index = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string();
        Finding::new(Reason::IndexInvalid, Severity::Note, index.clone(), "the index is invalid and is not moved")
            .remedy(format!("REINDEX INDEX CONCURRENTLY {index}, or DROP INDEX {index}"))
    })
    .await
}
