//! Preflight: what servers are, what was found, what was agreed to.

use pgportage_link::Failure;
use pgportage_proto::v1;

use super::missing;
use crate::postgres::RelationName;
use crate::step::inspect::{CheckServer, CheckServerResult, Consent, Extension, Finding, Inventory, Severity};

pub(super) fn decode_check(message: v1::CheckServer) -> Result<CheckServer, Failure> {
    Ok(CheckServer {
        source: message.source.map(decode),
        consents: message.consents.into_iter().map(consent).collect::<Result<_, _>>()?,
        way_back: message.way_back,
    })
}

pub(super) fn encode_check(result: CheckServerResult) -> v1::CheckServerResult {
    v1::CheckServerResult {
        inventory: Some(encode(result.inventory)),
        findings: result.findings.into_iter().map(finding).collect(),
    }
}

fn decode(inventory: v1::Inventory) -> Inventory {
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
        identity_full_tables: inventory
            .identity_full_tables
            .into_iter()
            .map(|name| RelationName::new(name.schema_name, name.relation_name))
            .collect(),
    }
}

fn encode(inventory: Inventory) -> v1::Inventory {
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
    }
}

fn consent(consent: v1::Consent) -> Result<Consent, Failure> {
    Ok(Consent {
        code: consent.code.parse().map_err(|_| missing("consents.code"))?,
        object: consent.object,
        evidence_digest: consent.evidence_digest,
    })
}

pub(super) fn finding(finding: Finding) -> v1::Finding {
    v1::Finding {
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
