//! `certs init` and `certs issue`: a private authority, for a fleet that has none.
//!
//! Works on files alone and opens no connection.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pgportage_link::identity::{IdentityError, Role};
use pgportage_link::issue::{self, Authority};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::{Clock, Effect, Failure};
use pgportage_proto::Reason;
use serde::Serialize;
use time::OffsetDateTime;

use crate::arguments::{Certs, CertsAct, CertsInit, CertsIssue};
use crate::exit::Exit;
use crate::terminal::Terminal;

#[derive(Debug, Serialize)]
struct NewAuthority {
    /// The certificate that every program of the fleet gets.
    certificate: PathBuf,
    /// The trust domain it stands for.
    trust_domain: String,
}

#[derive(Debug, Serialize)]
struct NewCertificate {
    /// The identity in the certificate.
    id: String,
    /// The files, as the `identity` section of a configuration names them.
    files: IdentitySettings,
    /// When the certificate ends.
    #[serde(skip)]
    not_after: SystemTime,
}

pub(crate) fn certs(terminal: &Terminal, arguments: &Certs) -> Result<Exit, Failure> {
    match &arguments.act {
        CertsAct::Init(arguments) => init(terminal, arguments),
        CertsAct::Issue(arguments) => issue(terminal, arguments),
    }?;
    Ok(Exit::Done)
}

fn init(terminal: &Terminal, arguments: &CertsInit) -> Result<(), Failure> {
    let made = make(&arguments.directory, &arguments.trust_domain)?;
    let text = format!(
        "made the authority of {}: {}\nkeep the key beside it secret: its holder can issue any certificate of the fleet\n",
        made.trust_domain,
        made.certificate.display()
    );
    terminal.result(&text, &made);
    Ok(())
}

fn issue(terminal: &Terminal, arguments: &CertsIssue) -> Result<(), Failure> {
    let role: Role = arguments
        .role
        .parse()
        .map_err(|error: IdentityError| Failure::new(Reason::RequestInvalid, error.to_string()).effect(Effect::None))?;
    let out = arguments.out.as_ref().unwrap_or(&arguments.directory);
    let made = certify(&arguments.directory, role, &arguments.name, out, arguments.days)?;
    let text = format!(
        "issued {} until {}\n\nfor the configuration of its holder:\n\n[identity]\n{}",
        made.id,
        OffsetDateTime::from(made.not_after).date(),
        pgportage_link::settings::print(&made.files)?
    );
    terminal.result(&text, &made);
    Ok(())
}

/// Makes an authority in `dir`. Nothing is overwritten.
fn make(dir: &Path, trust_domain: &str) -> Result<NewAuthority, Failure> {
    let authority = Authority::create(dir, trust_domain, Clock)?;
    Ok(NewAuthority { certificate: issue::authority_file(dir), trust_domain: authority.trust_domain().to_owned() })
}

/// Issues a certificate by the authority in `dir` and writes it, its key and the
/// authority's certificate to `out_dir`. Nothing is overwritten. A certificate
/// never outlives its authority.
fn certify(dir: &Path, role: Role, name: &str, out_dir: &Path, days: u32) -> Result<NewCertificate, Failure> {
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
    use crate::arguments::DEFAULT_DAYS;

    #[test]
    fn what_is_issued_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
        let made = make(&ca, "fleet.example").unwrap();
        assert!(made.certificate.is_file());
        let issued = certify(&ca, Role::Operator, "anna", &out, DEFAULT_DAYS).unwrap();
        assert_eq!(Identity::load(&issued.files, Clock).unwrap().own().uri, issued.id);
        assert!(certify(&ca, Role::Operator, "anna", &out, DEFAULT_DAYS).is_err());
        assert!(certify(&out, Role::Operator, "bert", &out, DEFAULT_DAYS).is_err());
    }
}
