//! Inventories, findings and consents as messages of the contract.

use pgportage_link::Failure;
use pgportage_proto::v1;

use super::{
    CheckServer, CheckServerResult, Consent, Extension, Finding, Inventory, PlanMaterial, PlannedRole, Severity,
};
use crate::message::{missing, relations};

pub(super) fn decode(message: v1::CheckServer) -> Result<CheckServer, Failure> {
    Ok(CheckServer {
        source: message.source.map(decode_inventory),
        consents: message.consents.into_iter().map(consent).collect::<Result<_, _>>()?,
        way_back: message.way_back,
    })
}

pub(super) fn encode(result: CheckServerResult) -> v1::CheckServerResult {
    v1::CheckServerResult {
        inventory: Some(encode_inventory(result.inventory)),
        findings: result.findings.into_iter().map(Into::into).collect(),
    }
}

fn decode_inventory(inventory: v1::Inventory) -> Inventory {
    Inventory {
        server_version_num: inventory.server_version_num,
        system_identifier: inventory.system_identifier,
        encoding: inventory.encoding,
        collation: inventory.collation,
        extensions: inventory
            .extensions
            .into_iter()
            .map(|extension| Extension { name: extension.name, version: extension.version })
            .collect(),
        role_names: inventory.role_names,
        owner_role_names: inventory.owner_role_names,
        table_count: inventory.table_count,
        relation_count: inventory.relation_count,
        size_bytes: inventory.size_bytes,
        pg_dump_version_num: inventory.pg_dump_version_num,
        identity_full_tables: relations(inventory.identity_full_tables),
        // Only the coordinator needs it.
        plan_material: None,
    }
}

fn encode_inventory(inventory: Inventory) -> v1::Inventory {
    v1::Inventory {
        server_version_num: inventory.server_version_num,
        system_identifier: inventory.system_identifier,
        encoding: inventory.encoding,
        collation: inventory.collation,
        extensions: inventory
            .extensions
            .into_iter()
            .map(|extension| v1::Extension { name: extension.name, version: extension.version })
            .collect(),
        role_names: inventory.role_names,
        owner_role_names: inventory.owner_role_names,
        table_count: inventory.table_count,
        relation_count: inventory.relation_count,
        size_bytes: inventory.size_bytes,
        pg_dump_version_num: inventory.pg_dump_version_num,
        identity_full_tables: inventory.identity_full_tables.into_iter().map(v1::RelationName::from).collect(),
        plan_material: inventory.plan_material.map(|material| Box::new(plan_material(*material))),
    }
}

fn plan_material(material: PlanMaterial) -> v1::PlanMaterial {
    let role = |role: PlannedRole| v1::PlannedRole {
        role_name: role.role_name,
        premade: role.premade,
        connects: role.connects,
    };
    v1::PlanMaterial {
        tables: material
            .tables
            .into_iter()
            .map(|table| v1::PlannedTable {
                name: Some(table.name.into()),
                size_bytes: table.size_bytes,
                readable: table.readable,
            })
            .collect(),
        sequences: material.sequences.into_iter().map(v1::RelationName::from).collect(),
        unusable_schema_names: material.unusable_schema_names,
        index_count: material.index_count,
        foreign_key_count: material.foreign_key_count,
        trigger_count: material.trigger_count,
        sessions: material
            .sessions
            .into_iter()
            .map(|group| v1::SessionGroup {
                role_name: group.role_name,
                application_name: group.application_name,
                session_count: group.session_count,
            })
            .collect(),
        connect_grants: material
            .access
            .grants
            .into_iter()
            .map(|grant| v1::ConnectGrant { role_name: grant.grantee.unwrap_or_default(), grantable: grant.grantable })
            .collect(),
        read_only_default: material.access.read_only_default.unwrap_or_default(),
        agent_role_name: material.agent_role_name,
        agent_is_superuser: material.agent_is_superuser,
        replication_role: Some(role(material.replication_role)),
        canary_role: Some(role(material.canary_role)),
        bypass_row_security: material.bypass_row_security,
    }
}

fn consent(consent: v1::Consent) -> Result<Consent, Failure> {
    Ok(Consent {
        code: consent.code.parse().map_err(|_| missing("consents.code"))?,
        object: consent.object,
        evidence_digest: consent.evidence_digest,
    })
}

impl From<Finding> for v1::Finding {
    fn from(finding: Finding) -> Self {
        Self {
            code: finding.code.as_str().to_owned(),
            severity: match finding.severity {
                Severity::Note => v1::finding::Severity::Note,
                Severity::Consent => v1::finding::Severity::Consent,
                Severity::Refuse => v1::finding::Severity::Refuse,
            }
            .into(),
            evidence_digest: finding.evidence_digest().to_vec(),
            object: finding.object,
            message: finding.message,
            evidence: finding.evidence,
            remedy: finding.remedy,
            needs_restart: finding.needs_restart,
        }
    }
}
