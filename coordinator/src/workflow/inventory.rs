//! What a server is and holds, as its agent has read it.

use pgportage_proto::{RelationName, quote_ident};
use serde::{Deserialize, Serialize};

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a server is, and what the database on it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// `server_version_num`.
    pub server_version_num: i32,
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// The database's encoding.
    pub encoding: String,
    /// The database's collation.
    pub collation: String,
    /// Its extensions.
    pub extensions: Vec<Extension>,
    /// Roles that the schema names.
    pub role_names: Vec<String>,
    /// Tables that will be published.
    pub table_count: i32,
    /// Relations of every kind.
    pub relation_count: i32,
    /// Size of the database.
    pub size_bytes: i64,
    /// Version of the agent's pg_dump. Zero if absent.
    pub pg_dump_version_num: i32,
    /// Tables that get `REPLICA IDENTITY FULL`, as the operator agreed.
    pub identity_full_tables: Vec<RelationName>,
    /// Those of the roles that own something.
    pub owner_role_names: Vec<String>,
    /// What the plan names. Absent from agents of before, and where the database does
    /// not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_material: Option<Box<PlanMaterial>>,
}

/// What a plan names of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanMaterial {
    /// Tables that will be published.
    pub tables: Vec<PlannedTable>,
    /// Every sequence.
    pub sequences: Vec<RelationName>,
    /// Schemas of those tables that the replication role may not use yet.
    pub unusable_schema_names: Vec<String>,
    /// Indexes of those tables.
    pub index_count: i32,
    /// Their foreign keys.
    pub foreign_key_count: i32,
    /// Their triggers.
    pub trigger_count: i32,
    /// Other sessions of the database.
    pub sessions: Vec<SessionGroup>,
    /// Who holds CONNECT.
    pub connect_grants: Vec<ConnectGrant>,
    /// `default_transaction_read_only` of the database. Empty if it is not set.
    pub read_only_default: String,
    /// The role that the agent logs in as.
    pub agent_role_name: String,
    /// Whether that is a superuser.
    pub agent_is_superuser: bool,
    /// The role that the other side replicates as.
    pub replication_role: PlannedRole,
    /// The role whose refused login proves a fence.
    pub canary_role: PlannedRole,
    /// Whether the replication role has to bypass row-level security.
    pub bypass_row_security: bool,
}

/// One table that will be published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTable {
    /// Its name.
    pub name: RelationName,
    /// Its size without its indexes.
    pub size_bytes: i64,
    /// Whether the replication role may read it already.
    pub readable: bool,
}

/// Sessions that have role and application in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGroup {
    /// The role.
    pub role_name: String,
    /// The application.
    pub application_name: String,
    /// How many.
    pub session_count: i32,
}

/// One holder of CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectGrant {
    /// The role. Empty: PUBLIC.
    pub role_name: String,
    /// Whether it may grant that to others.
    pub grantable: bool,
}

impl ConnectGrant {
    /// The holder, as statements name it.
    pub fn grantee(&self) -> String {
        if self.role_name.is_empty() { "PUBLIC".to_owned() } else { quote_ident(&self.role_name) }
    }
}

/// A role of the migration's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRole {
    /// Its name.
    pub role_name: String,
    /// Whether it was made beforehand.
    pub premade: bool,
    /// Whether it holds CONNECT by a grant of its own.
    pub connects: bool,
}

impl Inventory {
    /// What the destination's agent compares with what it finds. The plan's names are
    /// the coordinator's own affair.
    pub fn for_the_destination(&self) -> Self {
        Self { plan_material: None, ..self.clone() }
    }
}
