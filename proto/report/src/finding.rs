//! What a finding means for the migration.

use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

/// What a finding means, worst first. The serde form is the coordinator's and the CLI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration cannot start.
    Refuse,
    /// The operator has to agree first.
    Consent,
    /// For information.
    Note,
}

impl From<Severity> for v1::finding::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Refuse => Self::Refuse,
            Severity::Consent => Self::Consent,
            Severity::Note => Self::Note,
        }
    }
}

impl From<v1::finding::Severity> for Severity {
    /// What is not stated, or not known to this release, is no pass.
    fn from(sent: v1::finding::Severity) -> Self {
        match sent {
            v1::finding::Severity::Refuse | v1::finding::Severity::Unspecified => Self::Refuse,
            v1::finding::Severity::Consent => Self::Consent,
            v1::finding::Severity::Note => Self::Note,
        }
    }
}
