//! *inspect*: whether a server can take its part in a migration.
//!
//! Reads settings and catalogs, changes nothing. What it says is data:
//! findings, each with the statement that mends it. A question that could not
//! be answered is a finding too, and never a pass.

mod finding;

use crate::postgres::RelationName;

pub use finding::{Consent, Finding, Severity};

/// Asks whether a server can take the given part in a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckServer {
    /// Destination: what the source said about itself.
    pub source: Option<Inventory>,
    /// What the operator has agreed to.
    pub consents: Vec<Consent>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckServerResult {
    /// What the server is and holds.
    pub inventory: Inventory,
    /// What was found, worst first. Includes what the operator agreed to.
    pub findings: Vec<Finding>,
}

/// What a server is and what the database on it needs, in names and numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The value of `server_version_num`.
    pub server_version_num: i32,
    /// The cluster's system identifier, as decimal digits.
    pub system_identifier: String,
    /// The database's encoding, for example `UTF8`.
    pub encoding: String,
    /// The database's collation provider and locale.
    pub collation: String,
    /// Extensions installed in the database, `plpgsql` left out.
    pub extensions: Vec<Extension>,
    /// Roles that the schema names as owner or grantee, sorted.
    pub role_names: Vec<String>,
    /// Those of them that own something, sorted.
    pub owner_role_names: Vec<String>,
    /// Number of tables that will be published.
    pub table_count: i32,
    /// Number of relations of every kind, indexes included.
    pub relation_count: i32,
    /// Size of the database.
    pub size_bytes: i64,
    /// Version of the agent's pg_dump as a `server_version_num`. Zero if absent.
    pub pg_dump_version_num: i32,
    /// Tables without a usable replica identity that the operator agreed to
    /// give `REPLICA IDENTITY FULL`.
    pub identity_full_tables: Vec<RelationName>,
}

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// The version installed.
    pub version: String,
}
