//! Every object of a schema, as a name and the hash of its definition.
//!
//! A database that pg_dump and pg_restore have carried to another version has the same objects there. Left
//! out on purpose: comments, tablespaces, statistics, the private column option `pg_attver`, publications
//! and subscriptions, members of extensions, and everything of ours, our roles in access lists included.
//! Access lists are compared by effect, without `MAINTAIN`, which came with 17.

use futures_util::future::try_join_all;
use pgportage_link::Failure;
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, Row};

use super::definition::normalise;
use super::queries::{OBJECTS, ObjectQuery};
use crate::{RelationName, quote_ident, sql_failure};

/// One object of a schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaObject {
    /// Its kind and name, for example `index public.orders_pkey`.
    pub identity: String,
    /// SHA-256 of its definition.
    pub digest: [u8; 32],
}

/// Every object of the database that both sides must have, sorted by identity.
pub async fn schema_objects(client: &Client) -> Result<Vec<SchemaObject>, Failure> {
    // Pipelined, without a common snapshot. A caller that needs the objects to stand still calls this
    // behind the barrier or the fence.
    let answers = try_join_all(OBJECTS.iter().map(|query| client.query(query.text, &[])))
        .await
        .map_err(|error| sql_failure(error, "read the catalog"))?;
    let mut objects: Vec<_> =
        OBJECTS.iter().zip(&answers).flat_map(|(query, rows)| rows.iter().map(|row| object(query, row))).collect();
    objects.sort();
    Ok(objects)
}

/// SHA-256 over [`schema_objects`]: equal on two servers whose objects are.
pub async fn catalog_digest(client: &Client) -> Result<[u8; 32], Failure> {
    Ok(digest_of(&schema_objects(client).await?))
}

/// The digest of a list of objects, sorted as [`schema_objects`] sorts them.
pub fn digest_of(objects: &[SchemaObject]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for object in objects {
        hash.update(object.identity.as_bytes());
        hash.update([0]);
        hash.update(object.digest);
    }
    hash.finalize().into()
}

fn object(query: &ObjectQuery, row: &Row) -> SchemaObject {
    let text = |index| row.get::<_, Option<String>>(index).unwrap_or_default();
    let (name, suffix, exact, printed) = (text(1), text(2), text(3), text(4));
    let mut hash = Sha256::new();
    hash.update(exact.as_bytes());
    hash.update([0]);
    hash.update(normalise(&printed).as_bytes());
    SchemaObject { identity: identity(query.kind, row.get(0), &name, &suffix), digest: hash.finalize().into() }
}

/// An object's kind and name. `schema` is none for an object outside of schemas.
pub(super) fn identity(kind: &str, schema: Option<&str>, name: &str, suffix: &str) -> String {
    match schema {
        Some(schema) => format!("{kind} {}{suffix}", RelationName::new(schema, name)),
        None => format!("{kind} {}{suffix}", quote_ident(name)),
    }
}
