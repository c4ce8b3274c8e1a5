//! The findings of preflight, and the operator's consents.

use pgportage_proto::Reason;
use pgportage_report::finding::Severity;
use sha2::{Digest, Sha256};

/// One result of preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable identifier, with a page of its own.
    pub code: Reason,
    /// Whether the migration may start.
    pub severity: Severity,
    /// The object concerned, quoted. May be empty.
    pub object: String,
    /// One lowercase clause without a final period.
    pub message: String,
    /// What the agent read. Never a row's value. Where a consent is bound to it, nothing that changes by
    /// itself.
    pub evidence: String,
    /// The statement or setting that corrects it. May be empty.
    pub remedy: String,
    /// Whether the remedy needs a restart of the server.
    pub needs_restart: bool,
}

impl Finding {
    /// A finding about an object (may be empty), without evidence or remedy.
    pub fn new(code: Reason, severity: Severity, object: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            object: object.into(),
            message: message.into(),
            evidence: String::new(),
            remedy: String::new(),
            needs_restart: false,
        }
    }

    /// Adds what the agent read.
    #[must_use]
    pub fn evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }

    /// Adds the statement or setting that corrects it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Notes that the remedy needs a restart of the server.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.needs_restart = true;
        self
    }

    /// What a consent is bound to: SHA-256 over code, object and evidence.
    #[must_use]
    pub fn evidence_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [self.code.as_str(), &self.object, &self.evidence] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.finalize().into()
    }

    /// Whether the operator has agreed to exactly this.
    #[must_use]
    pub fn agreed(&self, consents: &[Consent]) -> bool {
        consents.iter().any(|consent| {
            consent.code == self.code
                && consent.object == self.object
                && consent.evidence_digest == self.evidence_digest()
        })
    }
}

/// The operator's agreement to one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// The finding's code.
    pub code: Reason,
    /// The finding's object.
    pub object: String,
    /// [`Finding::evidence_digest`]: agreement to other evidence does not count.
    pub evidence_digest: Vec<u8>,
}

/// Turns findings that the operator agreed to into notes. A refusal stays a refusal, even if the operator
/// agreed to it.
pub(super) fn apply_consents(findings: &mut [Finding], consents: &[Consent]) {
    for finding in findings.iter_mut().filter(|finding| finding.severity == Severity::Consent) {
        if finding.agreed(consents) {
            finding.severity = Severity::Note;
            finding.message.push_str(" (agreed to)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_counts_for_the_same_evidence_only() {
        let finding = |severity| {
            Finding::new(Reason::UnloggedNotMoved, severity, "public.t", "rows of an unlogged table are not moved")
                .evidence("unlogged")
        };
        let consent = Consent {
            code: Reason::UnloggedNotMoved,
            object: "public.t".to_owned(),
            evidence_digest: finding(Severity::Note).evidence_digest().to_vec(),
        };
        let mut findings = [
            finding(Severity::Consent),
            finding(Severity::Refuse),
            finding(Severity::Consent).evidence("other"),
            Finding { object: "public.u".to_owned(), ..finding(Severity::Consent) },
        ];
        apply_consents(&mut findings, &[consent]);
        assert_eq!(
            findings.map(|finding| finding.severity),
            [Severity::Note, Severity::Refuse, Severity::Consent, Severity::Consent]
        );
    }
}
