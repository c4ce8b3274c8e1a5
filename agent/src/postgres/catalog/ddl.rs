//! How objects are made and taken away: what statements for the other side are
//! written from.
//!
//! Read only when something differs, and never by the coordinator: definitions
//! hold literals. Everything is qualified, because every session's `search_path`
//! is `pg_catalog`.

use futures_util::future::try_join_all;
use pgportage_link::Failure;
use serde::Deserialize;
use tokio_postgres::{Client, Row};

use super::ddl_queries::DEFINITIONS;
use super::definition::normalise;
use super::object::identity;
use crate::postgres::sql_failure;

/// An object of a schema, as whoever writes statements has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectDefinition {
    /// What it is and its name.
    pub identity: String,
    /// The object that it comes and goes with.
    pub belongs_to: Option<String>,
    /// Makes it, or puts it in the place of another definition. Empty when it comes
    /// with what it belongs to, and when no statement is known.
    pub create: String,
    /// Takes it away.
    pub drop: String,
    /// Objects of one kind are made in this order, and taken away in the other.
    pub order: i64,
    /// What has to be equal for `create` to replace it. None: it never does.
    pub replaceable_as: Option<String>,
    /// Columns of a table or view, in order.
    pub columns: Vec<Column>,
    /// Labels of an enumeration, in order.
    pub labels: Vec<String>,
    /// Further statements, each of which can be run again without harm.
    pub settings: Vec<String>,
    /// What GRANT names it. Empty when it knows no privileges.
    pub grant_name: String,
    /// Who may do what with it, its owner left out.
    pub grants: Vec<PrivilegeGrant>,
    /// The same of one that has just been made.
    pub default_grants: Vec<PrivilegeGrant>,
    /// The name that ALTER TABLE takes. Empty for anything but a table.
    pub table_name: String,
}

/// A column. Names are quoted where they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its collation where that is not its type's.
    pub collation: String,
    /// Whether it takes no NULL.
    pub not_null: bool,
    /// Its default, or what it is generated from.
    pub default: String,
    /// As in `pg_attribute.attidentity`.
    pub identity: String,
    /// As in `pg_attribute.attgenerated`.
    pub generated: String,
    /// It comes from a parent of its table.
    pub inherited: bool,
}

/// A privilege that a role has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct PrivilegeGrant {
    /// The role, quoted where it must be, or PUBLIC.
    pub grantee: String,
    /// The privilege.
    pub privilege: String,
    /// Whether it may be granted on.
    pub grantable: bool,
}

/// What a query of [`DEFINITIONS`] says of one object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    belongs_to: Option<(String, Option<String>, String, String)>,
    create: String,
    drop: String,
    order: i64,
    replaceable_as: Option<String>,
    columns: Vec<Column>,
    labels: Vec<String>,
    settings: Vec<Option<String>>,
    grant_name: String,
    grants: Vec<PrivilegeGrant>,
    default_grants: Vec<PrivilegeGrant>,
    table_name: String,
}

/// The definitions of all objects of some kinds: the words before the name in an
/// identity. Kinds for which no statement is known have none.
///
/// # Errors
///
/// As [`sql_failure`].
pub async fn definitions(client: &Client, kinds: &[String]) -> Result<Vec<ObjectDefinition>, Failure> {
    let wanted: Vec<_> = DEFINITIONS.iter().filter(|query| kinds.iter().any(|kind| kind == query.kind)).collect();
    let answers = try_join_all(wanted.iter().map(|query| client.query(query.text, &[])))
        .await
        .map_err(|error| sql_failure(error, "read definitions"))?;
    wanted.iter().zip(&answers).flat_map(|(query, rows)| rows.iter().map(|row| definition(query.kind, row))).collect()
}

/// Whether two definitions, printed by different versions, are the same.
#[must_use]
pub fn same_definition(one: &str, other: &str) -> bool {
    one == other || normalise(one) == normalise(other)
}

fn definition(kind: &str, row: &Row) -> Result<ObjectDefinition, Failure> {
    let said: Said = serde_json::from_str(row.get(3)).map_err(|error| {
        Failure::new(pgportage_proto::Reason::Internal, "the catalog says something else than was asked")
            .because(&error)
    })?;
    Ok(ObjectDefinition {
        identity: identity(kind, row.get(0), row.get(1), row.get(2)),
        belongs_to: said
            .belongs_to
            .map(|(kind, schema, name, suffix)| identity(&kind, schema.as_deref(), &name, &suffix)),
        create: said.create.trim_end_matches([';', '\n', ' ']).to_owned(),
        drop: said.drop,
        order: said.order,
        replaceable_as: said.replaceable_as,
        columns: said.columns,
        labels: said.labels,
        settings: said.settings.into_iter().flatten().collect(),
        grant_name: said.grant_name,
        grants: said.grants,
        default_grants: said.default_grants,
        table_name: said.table_name,
    })
}
