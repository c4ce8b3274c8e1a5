//! *Both sides*: settings and catalogs are read; nothing is changed.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, Side, v1};
use serde::{Deserialize, Serialize};

use super::super::finding::{Consent, Finding};
use super::super::inventory::{
    ConnectGrant, Extension, Inventory, PlanMaterial, PlannedRole, PlannedTable, SessionGroup,
};
use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::missing;

pub(crate) static ACT: Act = Act::of::<CheckServer>();

/// What a server is checked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckServer {
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
pub(crate) struct CheckServerResult {
    /// What the server is and holds.
    pub inventory: Inventory,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Kind for CheckServer {
    const KIND: ActKind = ActKind::CheckServer;
    type Outcome = CheckServerResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self {
            source: match given.side {
                Side::Source => None,
                Side::Destination => Some(given.source?.for_the_destination()),
            },
            consents: given.consents.to_vec(),
            way_back: given.reverse,
        })
    }

    fn send(&self) -> Message {
        let Self { source, consents, way_back } = self;
        Message::CheckServer(v1::CheckServer {
            source: source.as_ref().map(v1::Inventory::from),
            consents: consents.iter().map(v1::Consent::from).collect(),
            way_back: *way_back,
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CheckServer(result) = produced else { return Err(something_else()) };
        Ok(CheckServerResult {
            inventory: result.inventory.ok_or_else(|| missing("inventory"))?.into(),
            findings: result.findings.into_iter().map(Finding::from).collect(),
        })
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        vec![remark("read settings and catalogs; nothing is changed")].into()
    }
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
