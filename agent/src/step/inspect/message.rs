//! What servers are, what was found and what was agreed to, as the contract has it.

use pgportage_link::Failure;
use pgportage_proto::v1;

use super::{CheckServer, CheckServerResult, Consent, Extension, Finding, Inventory, Severity};
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
        identity_full_tables: inventory.identity_full_tables.into_iter().map(Into::into).collect(),
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
