//! Tables: those that must be published, and those that are.

use pgportage_link::Failure;
use tokio_postgres::Client;

use super::user_relation;
use crate::{RelationName, sql_failure};

/// The tables that a publication covers, our own included, sorted by name.
/// Empty when there is no such publication.
pub async fn published_tables(client: &Client, publication: &str) -> Result<Vec<RelationName>, Failure> {
    const TABLES: &str = "
        SELECT schemaname::text, tablename::text
          FROM pg_publication_tables
         WHERE pubname = $1
         ORDER BY schemaname::text COLLATE \"C\", tablename::text COLLATE \"C\"";
    let rows =
        client.query(TABLES, &[&publication]).await.map_err(|error| sql_failure(error, "list the published tables"))?;
    Ok(rows.iter().map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// Every table whose rows have to travel, sorted by name: permanent tables and the leaves of partitioned
/// ones. Leaves out those of the system, of extensions and ours, and unlogged and foreign tables.
pub async fn user_tables(client: &Client) -> Result<Vec<RelationName>, Failure> {
    const TABLES: &str = concat!(
        "
        SELECT n.nspname::text, c.relname::text
          FROM pg_class AS c
          JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND ",
        user_relation!(),
        "
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
    );
    let rows = client.query(TABLES, &[]).await.map_err(|error| sql_failure(error, "list the tables"))?;
    Ok(rows.iter().map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}
