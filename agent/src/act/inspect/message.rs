//! Inventories, findings and consents as messages of the contract.

use pgportage_link::Failure;
use pgportage_proto::v1;
use pgportage_report::inventory::Inventory;

use super::{CheckServer, CheckServerResult, Consent, Finding};
use crate::message::missing;

pub(super) fn decode(message: v1::CheckServer) -> Result<CheckServer, Failure> {
    Ok(CheckServer {
        source: message.source.map(Inventory::from),
        consents: message.consents.into_iter().map(consent).collect::<Result<_, _>>()?,
        way_back: message.way_back,
    })
}

pub(super) fn encode(result: CheckServerResult) -> v1::CheckServerResult {
    v1::CheckServerResult {
        inventory: Some(result.inventory.into()),
        findings: result.findings.into_iter().map(Into::into).collect(),
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
            severity: v1::finding::Severity::from(finding.severity).into(),
            evidence_digest: finding.evidence_digest().to_vec(),
            object: finding.object,
            message: finding.message,
            evidence: finding.evidence,
            remedy: finding.remedy,
            needs_restart: finding.needs_restart,
        }
    }
}
