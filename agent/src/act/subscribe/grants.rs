//! The rights that the replication role needs to read for the initial copy.
//!
//! Granted with the slot, not with the role. In between the schema is dumped, and the dump would carry a
//! grant to a role that the destination lacks. Only missing rights are granted. The ledger keeps the list
//! of them, in the same transaction, so that exactly these are revoked.

use std::collections::BTreeSet;

use pgportage_link::Failure;
use pgportage_migration::ledger;
use pgportage_migration::ledger::Ownership;
use pgportage_migration::names;
use pgportage_postgres::{Purpose, RelationName, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb};
use serde::{Deserialize, Serialize};

use crate::act::Context;

const ACTION: ActKind = ActKind::CreateSlot;

const UNREADABLE_TABLES: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1 AND NOT has_table_privilege($2, c.oid, 'SELECT')";

const UNREADABLE_SCHEMAS: &str = "\
SELECT DISTINCT n.nspname::text
FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1 AND NOT has_schema_privilege($2, n.oid, 'USAGE')";

const ROLE_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";

const RELATION_EXISTS: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2)";

const SCHEMA_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";

const BATCH: usize = 200;

/// One privilege that the agent granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Grant {
    Schema { schema: String },
    Table { schema: String, relation: String },
}

/// Grants the missing rights, and notes them in the ledger. The row is there also when nothing is missing:
/// it says that the slot, which comes next, is ours. Grants nothing on the destination: the way back copies
/// nothing, so its role reads nothing.
pub(super) async fn grant_reading(cx: &Context) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "let the replication role read the published tables");
    let publication = names::replication_name(&cx.participation.migration);
    let role = cx.roles.replication(&cx.participation);
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    let (mut schemas, mut tables) = (Vec::<String>::new(), Vec::new());
    if cx.participation.side == Side::Source {
        let rows = transaction.query(UNREADABLE_SCHEMAS, &[&publication, &role]).await.map_err(failure)?;
        schemas.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        let rows = transaction.query(UNREADABLE_TABLES, &[&publication, &role]).await.map_err(failure)?;
        tables.extend(rows.iter().map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1))));
    }
    let grantee = quote_ident(&role);
    for schema in &schemas {
        let statement = format!("GRANT USAGE ON SCHEMA {} TO {grantee}", quote_ident(schema));
        transaction.batch_execute(&statement).await.map_err(failure)?;
    }
    for batch in tables.chunks(BATCH) {
        let list: Vec<String> = batch.iter().map(ToString::to_string).collect();
        let statement = format!("GRANT SELECT ON TABLE {} TO {grantee}", list.join(", "));
        transaction.batch_execute(&statement).await.map_err(failure)?;
    }
    // A command that is carried out again adds to its row.
    let mut granted = match ledger::recorded(&transaction, &cx.command_id).await? {
        Some(row) => read(&row.result)?,
        None => BTreeSet::new(),
    };
    granted.extend(schemas.into_iter().map(|schema| Grant::Schema { schema }));
    granted.extend(tables.into_iter().map(|table| Grant::Table { schema: table.schema, relation: table.relation }));
    let list = serde_json::to_vec(&granted)
        .map_err(|error| Failure::new(Reason::Internal, "cannot encode the list of grants").because(&error))?;
    ledger::record_with(&transaction, cx.entry(), ACTION, Verb::Perform, Some(&list)).await?;
    transaction.commit().await.map_err(failure)
}

/// Revokes what the agent granted, by the ledger.
pub(crate) async fn revoke_reading(cx: &Context) -> Result<(), Failure> {
    if cx.participation.side == Side::Destination {
        return Ok(());
    }
    let failure = |error| sql_failure(error, "revoke what the replication role could read");
    let role = cx.roles.replication(&cx.participation);
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    if ledger::ownership(&transaction, &cx.participation).await? != Ownership::Ours
        || !transaction.query_one(ROLE_EXISTS, &[&role]).await.map_err(failure)?.get::<_, bool>(0)
    {
        return Ok(());
    }
    let mut granted = BTreeSet::new();
    for result in ledger::results(&transaction, ACTION).await? {
        granted.extend(read(&result)?);
    }
    let grantee = quote_ident(&role);
    for grant in granted {
        let (exists, statement) = match &grant {
            Grant::Schema { schema } => (
                transaction.query_one(SCHEMA_EXISTS, &[schema]).await,
                format!("REVOKE USAGE ON SCHEMA {} FROM {grantee}", quote_ident(schema)),
            ),
            Grant::Table { schema, relation } => (
                transaction.query_one(RELATION_EXISTS, &[schema, relation]).await,
                format!("REVOKE SELECT ON TABLE {} FROM {grantee}", RelationName::new(schema, relation)),
            ),
        };
        // A schema or table that was dropped since took its grants along.
        if exists.map_err(failure)?.get(0) {
            transaction.batch_execute(&statement).await.map_err(failure)?;
        }
    }
    ledger::record(&transaction, cx.entry(), ACTION, Verb::Undo).await?;
    transaction.commit().await.map_err(failure)
}

fn read(result: &[u8]) -> Result<BTreeSet<Grant>, Failure> {
    if result.is_empty() {
        return Ok(BTreeSet::new());
    }
    serde_json::from_slice(result).map_err(|error| {
        Failure::new(Reason::ObjectConflict, "the ledger's list of grants is unreadable")
            .hint("Schema pgportage was changed by hand. Revoke the replication role's grants by hand.")
            .because(&error)
    })
}
