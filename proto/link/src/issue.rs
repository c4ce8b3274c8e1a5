//! A small authority for a fleet that has none.
//!
//! Two files in a directory of mode 0700: `ca.pem`, which every program gets, and
//! `ca-key.pem`, which stays. Nothing here ever overwrites a file.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_proto::Reason;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Role, SpiffeId, check_trust_domain};
use crate::settings::IdentitySettings;
use crate::tls::issued_paths;
use crate::{Clock, Effect, Failure};

/// How long an authority made here lives.
pub(crate) const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());

/// How far the clocks of a fleet may differ.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(5 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca-key.pem";

/// Signs certificates for one trust domain.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    trust_domain: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
    clock: Clock,
}

/// A certificate and its key, in PEM form.
pub struct Issued {
    /// Whose they are.
    pub id: SpiffeId,
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
    /// When the certificate ends.
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority in `dir`, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when the trust domain breaks its rules, or
    /// there is an authority already, or the files cannot be written.
    pub fn create(dir: &Path, trust_domain: &str, clock: Clock) -> Result<Self, Failure> {
        check_trust_domain(trust_domain).map_err(|error| invalid(error.to_string()))?;
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("pgportage authority of {trust_domain}"));
        // As SPIFFE has it: the authority is named by its trust domain alone.
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = OffsetDateTime::from(clock.wall());
        params.not_before = now - CLOCK_ALLOWANCE;
        params.not_after = now + AUTHORITY_VALIDITY;
        let certificate = params.self_signed(&key).map_err(|error| unsigned().because(&error))?;

        make_dir(dir)?;
        // The key first: a certificate without a key would be worth nothing.
        write_new(&dir.join(KEY_FILE), &key.serialize_pem(), 0o600)?;
        write_new(&dir.join(CERTIFICATE_FILE), &certificate.pem(), 0o644)?;
        Self::load(dir, clock)
    }

    /// Reads the authority in `dir`.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when there is none, or not one of ours.
    pub fn load(dir: &Path, clock: Clock) -> Result<Self, Failure> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|error| {
                invalid(format!("\"{}\" cannot be read: {error}", path.display()))
                    .hint("Make an authority with \"pgportage certs init\", or give the directory of one.")
            })
        };
        let certificate = read(CERTIFICATE_FILE)?;
        let path = dir.join(CERTIFICATE_FILE);
        let foreign =
            |error: &dyn std::fmt::Display| invalid(format!("\"{}\" is no authority of ours: {error}", path.display()));
        let key = KeyPair::from_pem(&read(KEY_FILE)?)
            .map_err(|error| invalid(format!("\"{}\" holds no key", dir.join(KEY_FILE).display())).because(&error))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| foreign(&error))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| foreign(&error))?;
        let names = parsed.subject_alternative_name().map_err(|error| foreign(&error))?;
        let trust_domain = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
                _ => None,
            })
            .ok_or_else(|| foreign(&"it names no trust domain"))?
            .to_owned();
        check_trust_domain(&trust_domain).map_err(|error| foreign(&error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(foreign(&format!("its key is not the one in {KEY_FILE}")));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| foreign(&error))?;
        Ok(Self { certificate, trust_domain, not_after, issuer, clock })
    }

    /// The trust domain that this authority stands for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The authority's certificate in PEM form, for every program of the fleet.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate with a new key, good for both ends of a connection:
    /// agents are both. It never outlives the authority.
    pub fn issue(&self, role: Role, name: &str, validity: Duration) -> Result<Issued, Failure> {
        let id = SpiffeId::new(&self.trust_domain, role, name).map_err(|error| invalid(error.to_string()))?;
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{role} {name}"));
        params.subject_alt_names = vec![uri(&id.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::from(self.clock.wall());
        if self.not_after <= now {
            return Err(invalid("the authority has expired".to_owned())
                .hint("Make a new one with \"pgportage certs init\" and issue all certificates again."));
        }
        let not_after = now.checked_add(validity.try_into().unwrap_or(time::Duration::MAX));
        let not_after = not_after.map_or(self.not_after, |end| end.min(self.not_after));
        params.not_before = now - CLOCK_ALLOWANCE;
        params.not_after = not_after;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| unsigned().because(&error))?;
        Ok(Issued { id, certificate: certificate.pem(), key: key.serialize_pem(), not_after })
    }

    /// Writes a certificate and its key to `dir`, with the authority's
    /// certificate beside them: `<role>-<name>.pem`, `<role>-<name>-key.pem` and
    /// `ca.pem`.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when one of the files is there already, or
    /// cannot be written.
    pub fn write(&self, issued: &Issued, dir: &Path) -> Result<IdentitySettings, Failure> {
        let paths = issued_paths(dir, issued.id.role(), issued.id.name());
        make_dir(dir)?;
        // Told before anything is written, so that no half of a pair is left.
        for path in [&paths.key, &paths.certificate] {
            if path.try_exists().unwrap_or(true) {
                return Err(exists(path));
            }
        }
        match fs::read_to_string(&paths.authority) {
            Ok(there) if there == self.certificate => {}
            Ok(_) => {
                return Err(invalid(format!("\"{}\" is of another authority", paths.authority.display()))
                    .hint("Choose another directory, or move the old files away."));
            }
            Err(_) => write_new(&paths.authority, &self.certificate, 0o644)?,
        }
        write_new(&paths.key, &issued.key, 0o600)?;
        write_new(&paths.certificate, &issued.certificate, 0o644)?;
        Ok(paths)
    }
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| Failure::new(Reason::Internal, "could not make a key").effect(Effect::None).because(&error))
}

fn uri(text: &str) -> Result<SanType, Failure> {
    Ok(SanType::URI(text.try_into().map_err(|error| unsigned().because(&error))?))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| unwritable(dir, &error))
}

/// Writes a file that must not be there yet, and does not return before it is on
/// the disk.
fn write_new(path: &Path, contents: &str, mode: u32) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(contents.as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(unwritable(path, &error)),
    }
}

fn exists(path: &Path) -> Failure {
    invalid(format!("\"{}\" exists already", path.display()))
        .hint("Nothing is overwritten. Choose another directory, or move the old file away.")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    invalid(format!("\"{}\" cannot be written: {error}", path.display()))
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::ConfigurationInvalid, message).effect(Effect::None)
}

fn unsigned() -> Failure {
    Failure::new(Reason::Internal, "could not sign a certificate").effect(Effect::None)
}

/// Where an authority's certificate is.
pub fn authority_file(dir: &Path) -> PathBuf {
    dir.join(CERTIFICATE_FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tls::Identity;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_authority_issues_what_a_process_loads() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
        Authority::create(&ca, "fleet.example", Clock).unwrap();
        assert_eq!((mode(&ca), mode(&ca.join(KEY_FILE))), (0o700, 0o600));

        let authority = Authority::load(&ca, Clock).unwrap();
        for &role in Role::ALL {
            let issued = authority.issue(role, "db-7", DAY).unwrap();
            let paths = authority.write(&issued, &out).unwrap();
            assert_eq!(mode(&paths.key), 0o600);
            let own = Identity::load(&paths, Clock).unwrap().own();
            assert_eq!((own.role, own.name.as_str()), (role, "db-7"));
            assert_eq!(own.uri, format!("spiffe://fleet.example/pgportage/{role}/db-7"));
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other, out) = (dir.path().join("ca"), dir.path().join("other"), dir.path().join("out"));
        let authority = Authority::create(&ca, "fleet", Clock).unwrap();
        let key = fs::read(ca.join(KEY_FILE)).unwrap();
        assert!(Authority::create(&ca, "fleet", Clock).unwrap_err().message.contains("exists already"));
        assert_eq!(fs::read(ca.join(KEY_FILE)).unwrap(), key);

        let paths = authority.write(&authority.issue(Role::Agent, "a", DAY).unwrap(), &out).unwrap();
        let before = fs::read(&paths.certificate).unwrap();
        let again = authority.write(&authority.issue(Role::Agent, "a", DAY).unwrap(), &out);
        assert!(again.unwrap_err().message.contains("exists already"));
        assert_eq!(fs::read(&paths.certificate).unwrap(), before);

        let other = Authority::create(&other, "fleet", Clock).unwrap();
        let mixed = other.write(&other.issue(Role::Agent, "b", DAY).unwrap(), &out);
        assert!(mixed.unwrap_err().message.contains("another authority"));
    }

    #[test]
    fn malformed_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Authority::create(dir.path(), "Fleet/x", Clock).is_err());
        let authority = Authority::create(dir.path(), "fleet", Clock).unwrap();
        for name in ["", "../a", "A", "a/b", "a b"] {
            assert_eq!(authority.issue(Role::Agent, name, DAY).unwrap_err().reason, Reason::ConfigurationInvalid);
        }
    }
}
