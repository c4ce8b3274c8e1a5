//! TLS errors in words that say whose certificate is at fault.

use std::error::Error as StdError;
use std::io;

use pgportage_proto::Reason;
use rustls::{AlertDescription, CertificateError, Error};

use crate::tls::verify::Refusal;

pub(crate) struct Explanation {
    /// Which reason it has for the caller.
    pub(crate) reason: Reason,
    /// A clause about the connection.
    pub(crate) message: String,
    /// A clause about a certificate of our own that fails this way.
    pub(crate) own: String,
    pub(crate) hint: &'static str,
}

/// The TLS error inside an I/O error, if there is one.
pub(crate) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // An `io::Error` hides the error it carries from `source()`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Says what a TLS error means and what to do about it.
pub(crate) fn explain(error: &Error) -> Explanation {
    match error {
        Error::InvalidCertificate(problem) => theirs(problem),
        Error::AlertReceived(alert) => ours(*alert),
        Error::NoCertificatesPresented => Explanation {
            reason: Reason::PeerRefused,
            message: "the other end presented no certificate".to_owned(),
            own: "is missing".to_owned(),
            hint: "Configure the other end with a certificate from \"pgportage certs issue\".",
        },
        Error::InvalidMessage(_) => Explanation {
            reason: Reason::PeerUnreachable,
            message: "the other end does not speak TLS".to_owned(),
            own: error.to_string(),
            hint: "Check the address: another program may listen there.",
        },
        other => Explanation {
            reason: Reason::PeerUnreachable,
            message: format!("the TLS handshake failed: {other}"),
            own: other.to_string(),
            hint: "Check that both ends run compatible releases.",
        },
    }
}

/// We refuse their certificate.
fn theirs(problem: &CertificateError) -> Explanation {
    let (reason, clause, hint) = match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            Reason::PeerRefused,
            "has expired".to_owned(),
            "Issue a new certificate with \"pgportage certs issue\", and check both clocks.",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Reason::PeerRefused, "is not valid yet".to_owned(), "Check the clocks of both machines.")
        }
        CertificateError::Revoked => {
            (Reason::PeerRefused, "is revoked".to_owned(), "Issue a new certificate with \"pgportage certs issue\".")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            Reason::PeerRefused,
            "is not signed by our authority".to_owned(),
            "Both ends need certificates of the same authority: compare their ca.pem.",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            Reason::PeerRefused,
            "is not meant for this end of a connection".to_owned(),
            "Issue it with both usages, client and server authentication.",
        ),
        CertificateError::Other(other) => match other.0.downcast_ref::<Refusal>() {
            Some(Refusal::Name { expected, found }) => (
                Reason::WrongName,
                format!("names {found}, not {expected}"),
                "Check the address: another program listens there, or the name in the configuration is wrong.",
            ),
            Some(refusal @ (Refusal::Identity(_) | Refusal::TrustDomain { .. })) => (
                Reason::PeerRefused,
                format!("is not acceptable: {refusal}"),
                "Issue the certificate with \"pgportage certs issue\".",
            ),
            None => (Reason::PeerRefused, format!("is not acceptable: {}", other.0), ""),
        },
        problem => (Reason::PeerRefused, format!("is not acceptable: {problem:?}"), ""),
    };
    Explanation { reason, message: format!("the certificate of the other end {clause}"), own: clause, hint }
}

/// They refuse ours. The alert is all they say; their log has the rest.
fn ours(alert: AlertDescription) -> Explanation {
    let (clause, hint) = match alert {
        AlertDescription::CertificateExpired => (
            "because it has expired or is not valid yet".to_owned(),
            "Issue a new certificate with \"pgportage certs issue\", and check both clocks.",
        ),
        // The latter when both authorities have the same name.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => (
            "because another authority signed it".to_owned(),
            "Both ends need certificates of the same authority: compare their ca.pem.",
        ),
        AlertDescription::CertificateRequired => {
            ("because there is none".to_owned(), "Configure this end with a certificate.")
        }
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => (
            "because of the identity in it".to_owned(),
            "It must carry exactly one URI of the fleet's trust domain. The log of the other end says more.",
        ),
        other => (format!("with the alert {other:?}"), "The log of the other end says more."),
    };
    Explanation {
        reason: Reason::PeerRefused,
        message: format!("the other end refuses our certificate {clause}"),
        own: format!("is refused {clause}"),
        hint,
    }
}
