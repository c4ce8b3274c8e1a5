//! Findings and the operator's agreement to them.

use pgportage_report::Digest;
pub(crate) use pgportage_report::finding::Severity;
use serde::{Deserialize, Serialize};

/// One result of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable identifier. Kept as text: a newer agent may know more.
    pub code: String,
    pub severity: Severity,
    /// The object concerned, quoted. May be empty.
    pub object: String,
    /// One lowercase clause.
    pub message: String,
    /// What was read. Never row values.
    pub evidence: String,
    /// SHA-256 of the evidence.
    pub evidence_digest: Digest,
    /// The statement or setting that mends it. May be empty.
    pub remedy: String,
    pub needs_restart: bool,
}

/// The operator's agreement to one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    pub code: String,
    pub object: String,
    /// The finding's digest: agreement to other evidence does not count.
    pub evidence_digest: Digest,
}

impl Consent {
    /// Whether this is the agreement to that finding.
    pub fn covers(&self, finding: &Finding) -> bool {
        self.code == finding.code && self.object == finding.object && self.evidence_digest == finding.evidence_digest
    }
}
