//! *Both sides*: settings and catalogs are read; nothing is changed.

use pgportage_link::Failure;
use pgportage_proto::{RelationName, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::finding::{Consent, Finding};
use super::super::state::State;
use super::super::statement::{Basis, Statements, remark};
use super::super::{ActKind, ActRef, Side};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::missing;

/// See the module.
pub static CHECK_SERVER: Act = Act {
    kind: ActKind::CheckServer,
    input: |state, act, _| input(state, act),
    send,
    produces: |outcome| matches!(outcome, Outcome::CheckServer(_)),
    receive,
    statements,
};

/// What a server is checked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckServer {
    /// What the source said about itself. For the destination only.
    pub source: Option<Inventory>,
    /// What the operator has agreed to.
    pub consents: Vec<Consent>,
    /// Whether each side takes the other's part, too.
    #[serde(default)]
    pub way_back: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckServerResult {
    /// What the server is and holds.
    pub inventory: Inventory,
    /// What was found.
    pub findings: Vec<Finding>,
}

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

fn input(state: &State, act: ActRef) -> Option<Input> {
    Some(Input::CheckServer(CheckServer {
        source: match act.row()?.side {
            Side::Source => None,
            Side::Destination => Some(state.source_inventory()?.for_the_destination()),
        },
        consents: state.consents.clone(),
        way_back: state.way_back,
    }))
}

impl Inventory {
    /// What the destination's agent compares with what it finds. The plan's names are
    /// the coordinator's own affair.
    #[must_use]
    pub fn for_the_destination(&self) -> Self {
        Self { plan_material: None, ..self.clone() }
    }
}

fn send(input: &Input) -> Option<Message> {
    let Input::CheckServer(CheckServer { source, consents, way_back }) = input else { return None };
    Some(Message::CheckServer(v1::CheckServer {
        source: source.as_ref().map(v1::Inventory::from),
        consents: consents.iter().map(v1::Consent::from).collect(),
        way_back: *way_back,
    }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CheckServer(result) = produced else { return Err(something_else()) };
    Ok(Outcome::CheckServer(CheckServerResult {
        inventory: result.inventory.ok_or_else(|| missing("inventory"))?.into(),
        findings: result.findings.into_iter().map(Finding::from).collect(),
    }))
}

impl From<&Inventory> for v1::Inventory {
    fn from(value: &Inventory) -> Self {
        let extension =
            |extension: &Extension| v1::Extension { name: extension.name.clone(), version: extension.version.clone() };
        Self {
            server_version_num: value.server_version_num,
            system_identifier: value.system_identifier.clone(),
            encoding: value.encoding.clone(),
            collation: value.collation.clone(),
            extensions: value.extensions.iter().map(extension).collect(),
            role_names: value.role_names.clone(),
            table_count: value.table_count,
            relation_count: value.relation_count,
            size_bytes: value.size_bytes,
            pg_dump_version_num: value.pg_dump_version_num,
            identity_full_tables: value.identity_full_tables.iter().map(v1::RelationName::from).collect(),
            owner_role_names: value.owner_role_names.clone(),
            plan_material: None,
        }
    }
}

impl From<v1::Inventory> for Inventory {
    fn from(value: v1::Inventory) -> Self {
        let extension = |it: v1::Extension| Extension { name: it.name, version: it.version };
        Self {
            server_version_num: value.server_version_num,
            system_identifier: value.system_identifier,
            encoding: value.encoding,
            collation: value.collation,
            extensions: value.extensions.into_iter().map(extension).collect(),
            role_names: value.role_names,
            table_count: value.table_count,
            relation_count: value.relation_count,
            size_bytes: value.size_bytes,
            pg_dump_version_num: value.pg_dump_version_num,
            identity_full_tables: value.identity_full_tables.into_iter().map(RelationName::from).collect(),
            owner_role_names: value.owner_role_names,
            plan_material: value.plan_material.map(|material| Box::new((*material).into())),
        }
    }
}

impl From<v1::PlanMaterial> for PlanMaterial {
    fn from(value: v1::PlanMaterial) -> Self {
        let table = |table: v1::PlannedTable| PlannedTable {
            name: table.name.map(RelationName::from).unwrap_or_default(),
            size_bytes: table.size_bytes,
            readable: table.readable,
        };
        let role = |role: Option<v1::PlannedRole>| {
            let role = role.unwrap_or_default();
            PlannedRole { role_name: role.role_name, premade: role.premade, connects: role.connects }
        };
        let group = |group: v1::SessionGroup| SessionGroup {
            role_name: group.role_name,
            application_name: group.application_name,
            session_count: group.session_count,
        };
        let grant = |it: v1::ConnectGrant| ConnectGrant { role_name: it.role_name, grantable: it.grantable };
        Self {
            tables: value.tables.into_iter().map(table).collect(),
            sequences: value.sequences.into_iter().map(RelationName::from).collect(),
            unusable_schema_names: value.unusable_schema_names,
            index_count: value.index_count,
            foreign_key_count: value.foreign_key_count,
            trigger_count: value.trigger_count,
            sessions: value.sessions.into_iter().map(group).collect(),
            connect_grants: value.connect_grants.into_iter().map(grant).collect(),
            read_only_default: value.read_only_default,
            agent_role_name: value.agent_role_name,
            agent_is_superuser: value.agent_is_superuser,
            replication_role: role(value.replication_role),
            canary_role: role(value.canary_role),
            bypass_row_security: value.bypass_row_security,
        }
    }
}

fn statements(_basis: &Basis<'_>) -> Statements {
    vec![remark("read settings and catalogs; nothing is changed")].into()
}
