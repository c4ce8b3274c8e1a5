//! Whether the source's catalog has changed since P0.
//!
//! The digest that both sides can compute reads every definition, which takes too long under a barrier.
//! Here it is enough to see *that* something changed, on one server, within minutes. So this adds up hashes
//! of the columns that a definition consists of, and row versions where the rows hold nothing else.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::sql_failure;
use pgportage_proto::Reason;
use tokio_postgres::{Client, Statement};

/// Leaves out the system's schemas, temporary ones and ours. Columns of `pg_class` that change with every
/// VACUUM (`relpages` and the like) are left out too, and so are temporary relations.
const FINGERPRINT: &str = "\
WITH n AS (
    SELECT oid FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage')
      AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'
), c AS (
    SELECT * FROM pg_class WHERE relnamespace IN (SELECT oid FROM n)
)
SELECT concat_ws(' ',
    (SELECT md5(string_agg(concat_ws(',', oid, relname, relnamespace, relkind, relowner, relpersistence,
                relreplident, relrowsecurity, relforcerowsecurity, relispartition, reloptions, relacl), ';' ORDER BY oid))
     FROM c),
    (SELECT md5(string_agg(concat_ws(',', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attidentity,
                attgenerated, attcollation, attisdropped), ';' ORDER BY attrelid, attnum))
     FROM pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM c)),
    (SELECT md5(string_agg(concat_ws(',', oid, xmin), ';' ORDER BY oid))
     FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM c)),
    (SELECT md5(string_agg(concat_ws(',', oid, conname, convalidated, xmin), ';' ORDER BY oid))
     FROM pg_constraint WHERE connamespace IN (SELECT oid FROM n)),
    (SELECT md5(string_agg(concat_ws(',', indexrelid, indisvalid, indisreplident, indisprimary), ';' ORDER BY indexrelid))
     FROM pg_index WHERE indrelid IN (SELECT oid FROM c)),
    (SELECT md5(string_agg(concat_ws(',', oid, tgenabled, xmin), ';' ORDER BY oid))
     FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM c)),
    (SELECT md5(string_agg(concat_ws(',', oid, xmin), ';' ORDER BY oid))
     FROM pg_proc WHERE pronamespace IN (SELECT oid FROM n)),
    (SELECT md5(string_agg(concat_ws(',', oid, typname), ';' ORDER BY oid))
     FROM pg_type WHERE typnamespace IN (SELECT oid FROM n)),
    (SELECT md5(string_agg(concat_ws(',', inhrelid, inhparent), ';' ORDER BY inhrelid, inhparent)) FROM pg_inherits),
    (SELECT md5(string_agg(concat_ws(',', oid, enumtypid, enumlabel), ';' ORDER BY oid)) FROM pg_enum),
    (SELECT md5(string_agg(concat_ws(',', oid, nspname, nspowner), ';' ORDER BY oid))
     FROM pg_namespace WHERE oid IN (SELECT oid FROM n))
)";

/// The state of a database's definitions, to be compared on the same session.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    statement: Statement,
    /// Differs as soon as a definition was changed.
    text: String,
}

impl Fingerprint {
    pub(crate) async fn take(client: &Client) -> Result<Self, Failure> {
        let failure = |error| sql_failure(error, "read the catalog's fingerprint");
        let statement = client.prepare(FINGERPRINT).await.map_err(failure)?;
        let text = read(client, &statement).await?;
        Ok(Self { statement, text })
    }

    /// # Errors
    ///
    /// [`Reason::SchemaDiffers`] when the schema was changed since the fingerprint was taken.
    pub(crate) async fn prove_unchanged(&self, client: &Client) -> Result<(), Failure> {
        if read(client, &self.statement).await? == self.text {
            return Ok(());
        }
        Err(Failure::new(Reason::SchemaDiffers, "the schema was changed during the cutover")
            .hint("Stop schema changes, run `pgportage verify`, and try the cutover again.")
            .remedy(Remedy::Operator)
            .effect(Effect::None))
    }
}

async fn read(client: &Client, statement: &Statement) -> Result<String, Failure> {
    let row =
        client.query_one(statement, &[]).await.map_err(|error| sql_failure(error, "read the catalog's fingerprint"))?;
    Ok(row.get(0))
}
