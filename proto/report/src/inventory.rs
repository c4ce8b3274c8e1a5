//! What a server is and holds, as its agent has read it. The serde forms are the
//! coordinator's: it stores them.

use pgportage_proto::{RelationName, quote_ident, v1};
use serde::{Deserialize, Serialize};

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its name, as `CREATE EXTENSION` takes it, unquoted.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a server is, and what the database on it needs, in names and numbers.
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
    /// What the plan shows of this side. Absent from agents of before, and where the database does not
    /// exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_material: Option<Box<PlanMaterial>>,
}

/// What a plan shows of one side.
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
    /// Name of the role that the agent logs in as, for the statements that the plan shows.
    pub agent_role_name: String,
    /// Whether the agent's role is a superuser.
    pub agent_is_superuser: bool,
    /// The role that the other side replicates with.
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

/// Sessions of the same role and application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGroup {
    /// Their role.
    pub role_name: String,
    /// Their `application_name`.
    pub application_name: String,
    /// How many sessions there are.
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
    #[must_use]
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
    #[must_use]
    pub fn for_the_destination(&self) -> Self {
        Self { plan_material: None, ..self.clone() }
    }
}

impl From<Inventory> for v1::Inventory {
    fn from(inventory: Inventory) -> Self {
        let extension = |Extension { name, version }| v1::Extension { name, version };
        Self {
            server_version_num: inventory.server_version_num,
            system_identifier: inventory.system_identifier,
            encoding: inventory.encoding,
            collation: inventory.collation,
            extensions: inventory.extensions.into_iter().map(extension).collect(),
            role_names: inventory.role_names,
            table_count: inventory.table_count,
            relation_count: inventory.relation_count,
            size_bytes: inventory.size_bytes,
            pg_dump_version_num: inventory.pg_dump_version_num,
            identity_full_tables: inventory.identity_full_tables.into_iter().map(Into::into).collect(),
            owner_role_names: inventory.owner_role_names,
            plan_material: inventory.plan_material.map(|material| Box::new((*material).into())),
        }
    }
}

impl From<v1::Inventory> for Inventory {
    fn from(sent: v1::Inventory) -> Self {
        let extension = |v1::Extension { name, version }| Extension { name, version };
        Self {
            server_version_num: sent.server_version_num,
            system_identifier: sent.system_identifier,
            encoding: sent.encoding,
            collation: sent.collation,
            extensions: sent.extensions.into_iter().map(extension).collect(),
            role_names: sent.role_names,
            table_count: sent.table_count,
            relation_count: sent.relation_count,
            size_bytes: sent.size_bytes,
            pg_dump_version_num: sent.pg_dump_version_num,
            identity_full_tables: sent.identity_full_tables.into_iter().map(Into::into).collect(),
            owner_role_names: sent.owner_role_names,
            plan_material: sent.plan_material.map(|material| Box::new((*material).into())),
        }
    }
}

impl From<PlanMaterial> for v1::PlanMaterial {
    fn from(material: PlanMaterial) -> Self {
        let table = |PlannedTable { name, size_bytes, readable }| v1::PlannedTable {
            name: Some(name.into()),
            size_bytes,
            readable,
        };
        let group = |SessionGroup { role_name, application_name, session_count }| v1::SessionGroup {
            role_name,
            application_name,
            session_count,
        };
        let grant = |ConnectGrant { role_name, grantable }| v1::ConnectGrant { role_name, grantable };
        let role = |PlannedRole { role_name, premade, connects }| v1::PlannedRole { role_name, premade, connects };
        Self {
            tables: material.tables.into_iter().map(table).collect(),
            sequences: material.sequences.into_iter().map(Into::into).collect(),
            unusable_schema_names: material.unusable_schema_names,
            index_count: material.index_count,
            foreign_key_count: material.foreign_key_count,
            trigger_count: material.trigger_count,
            sessions: material.sessions.into_iter().map(group).collect(),
            connect_grants: material.connect_grants.into_iter().map(grant).collect(),
            read_only_default: material.read_only_default,
            agent_role_name: material.agent_role_name,
            agent_is_superuser: material.agent_is_superuser,
            replication_role: Some(role(material.replication_role)),
            canary_role: Some(role(material.canary_role)),
            bypass_row_security: material.bypass_row_security,
        }
    }
}

impl From<v1::PlanMaterial> for PlanMaterial {
    fn from(sent: v1::PlanMaterial) -> Self {
        let table = |table: v1::PlannedTable| PlannedTable {
            name: table.name.map(RelationName::from).unwrap_or_default(),
            size_bytes: table.size_bytes,
            readable: table.readable,
        };
        let group = |v1::SessionGroup { role_name, application_name, session_count }| SessionGroup {
            role_name,
            application_name,
            session_count,
        };
        let grant = |v1::ConnectGrant { role_name, grantable }| ConnectGrant { role_name, grantable };
        let role = |role: Option<v1::PlannedRole>| {
            let v1::PlannedRole { role_name, premade, connects } = role.unwrap_or_default();
            PlannedRole { role_name, premade, connects }
        };
        Self {
            tables: sent.tables.into_iter().map(table).collect(),
            sequences: sent.sequences.into_iter().map(Into::into).collect(),
            unusable_schema_names: sent.unusable_schema_names,
            index_count: sent.index_count,
            foreign_key_count: sent.foreign_key_count,
            trigger_count: sent.trigger_count,
            sessions: sent.sessions.into_iter().map(group).collect(),
            connect_grants: sent.connect_grants.into_iter().map(grant).collect(),
            read_only_default: sent.read_only_default,
            agent_role_name: sent.agent_role_name,
            agent_is_superuser: sent.agent_is_superuser,
            replication_role: role(sent.replication_role),
            canary_role: role(sent.canary_role),
            bypass_row_security: sent.bypass_row_security,
        }
    }
}
