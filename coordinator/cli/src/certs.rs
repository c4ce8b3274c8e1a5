//! `pgportage certs`: a private authority, for a fleet that has none.
//!
//! Works on files alone and opens no connection.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pgportage_link::identity::Role;
use pgportage_link::issue::{self, Authority};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::{Clock, Failure};
use serde::Serialize;

/// How long a certificate lives unless the operator says otherwise: long enough
/// for a fleet that is moved once, short enough to be renewed on purpose.
pub(crate) const DEFAULT_DAYS: u32 = 90;

#[derive(Debug, Serialize)]
pub(crate) struct NewAuthority {
    /// The certificate that every program of the fleet gets.
    pub certificate: PathBuf,
    /// The trust domain it stands for.
    pub trust_domain: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct NewCertificate {
    /// The identity in the certificate.
    pub id: String,
    /// The files, as the `identity` section of a configuration names them.
    pub files: IdentitySettings,
    /// When the certificate ends.
    #[serde(skip)]
    pub not_after: SystemTime,
}

/// Makes an authority in `dir`. Nothing is overwritten.
pub(crate) fn init(dir: &Path, trust_domain: &str) -> Result<NewAuthority, Failure> {
    let authority = Authority::create(dir, trust_domain, Clock)?;
    Ok(NewAuthority { certificate: issue::authority_file(dir), trust_domain: authority.trust_domain().to_owned() })
}

/// Issues a certificate by the authority in `dir` and writes it, its key and the
/// authority's certificate to `out_dir`. Nothing is overwritten. A certificate
/// never outlives its authority.
pub(crate) fn issue(dir: &Path, role: Role, name: &str, out_dir: &Path, days: u32) -> Result<NewCertificate, Failure> {
    let authority = Authority::load(dir, Clock)?;
    let validity = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    let issued = authority.issue(role, name, validity)?;
    let files = authority.write(&issued, out_dir)?;
    Ok(NewCertificate { id: issued.id.to_string(), files, not_after: issued.not_after.into() })
}

#[cfg(test)]
mod tests {
    use pgportage_link::tls::Identity;

    use super::*;

    #[test]
    fn what_is_issued_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
        let made = init(&ca, "fleet.example").unwrap();
        assert!(made.certificate.is_file());
        let issued = issue(&ca, Role::Operator, "anna", &out, DEFAULT_DAYS).unwrap();
        assert_eq!(Identity::load(&issued.files, Clock).unwrap().own().uri, issued.id);
        assert!(issue(&ca, Role::Operator, "anna", &out, DEFAULT_DAYS).is_err());
        assert!(issue(&out, Role::Operator, "bert", &out, DEFAULT_DAYS).is_err());
    }
}
