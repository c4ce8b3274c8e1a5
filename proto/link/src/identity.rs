//! Who is at the other end.
//!
//! Every program and operator has exactly one URI in the subject alternative names of
//! their certificate: `spiffe://<trust-domain>/pgportage/<role>/<name>`. Common
//! names and host names mean nothing here.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The path segment that sets our identities apart from others in the same
/// trust domain.
const SEGMENT: &str = "pgportage";

/// What a certificate's holder is in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Decides and commands. One per fleet, possibly on several machines.
    Coordinator,
    /// Works beside one PostgreSQL server.
    Agent,
    /// A person, or a program acting for one.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] = &[Self::Coordinator, Self::Agent, Self::Operator];

    /// The role as it is written in an identity.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text).ok_or_else(|| IdentityError::Role(text.to_owned()))
    }
}

/// What is wrong with an identity or with the certificate that carries it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The URI has another form than ours.
    #[error("identity \"{0}\" does not have the form spiffe://<trust-domain>/pgportage/<role>/<name>")]
    Form(String),
    /// The trust domain breaks its rules.
    #[error(
        "trust domain \"{0}\" must be 1 to 255 lowercase letters, digits, dots, dashes and underscores, \
         and begin with a letter or digit"
    )]
    TrustDomain(String),
    /// There is no such role.
    #[error("role \"{0}\" is none of coordinator, agent and operator")]
    Role(String),
    /// The name breaks its rules.
    #[error(
        "name \"{0}\" must be 1 to 63 lowercase letters, digits and dashes, \
         and begin and end with a letter or digit"
    )]
    Name(String),
    /// The certificate cannot be read.
    #[error("certificate cannot be read: {0}")]
    Unreadable(String),
    /// The certificate may sign others, so it is an authority's and no program's.
    #[error("certificate is one of an authority, not of a coordinator, agent or operator")]
    Authority,
    /// Not exactly one URI.
    #[error("certificate must name exactly one URI as its subject alternative name, but names {0}")]
    UriCount(usize),
}

/// An identity as it is written in certificates and configuration:
/// `spiffe://<trust-domain>/pgportage/<role>/<name>`.
///
/// Values of this type obey the rules of each part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: String,
    role: Role,
    name: String,
}

impl SpiffeId {
    /// Puts an identity together.
    pub fn new(trust_domain: &str, role: Role, name: &str) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain)?;
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=63).contains(&name.len())
            && name.chars().all(|c| inner(c) || c == '-')
            && name.starts_with(inner)
            && name.ends_with(inner);
        if !fits {
            return Err(IdentityError::Name(name.to_owned()));
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), role, name: name.to_owned() })
    }

    /// The trust domain: the fleet under one authority.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name, unique among those of the same role.
    pub fn name(&self) -> &str {
        &self.name
    }
}

pub(crate) fn check_trust_domain(text: &str) -> Result<(), IdentityError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=255).contains(&text.len())
        && text.chars().all(|c| inner(c) || matches!(c, '.' | '-' | '_'))
        && text.starts_with(inner);
    if fits { Ok(()) } else { Err(IdentityError::TrustDomain(text.to_owned())) }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{SEGMENT}/{}/{}", self.trust_domain, self.role, self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(text.to_owned());
        let parts: Vec<&str> = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/').collect();
        match parts.as_slice() {
            [trust_domain, segment, role, name] if *segment == SEGMENT => Self::new(trust_domain, role.parse()?, name),
            _ => Err(form()),
        }
    }
}

/// Who is at the other end of a connection, as its certificate proved.
///
/// Every request carries it in its extensions:
/// `request.extensions().get::<PeerIdentity>()`. Take it before `into_inner()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The trust domain, the same as our own.
    pub trust_domain: String,
    /// What the peer is.
    pub role: Role,
    /// The peer's name.
    pub name: String,
    /// The whole identity, as records keep it.
    pub uri: String,
    /// The certificate's serial number in hexadecimal, as records keep it.
    pub serial: String,
    /// When the certificate ends, and the connection with it.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Reads the identity out of a certificate. Says nothing about whether the
    /// certificate is valid: the handshake does that.
    ///
    /// # Errors
    ///
    /// When the certificate is an authority's, or does not carry exactly one
    /// well-formed identity.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let unreadable = |problem: &dyn fmt::Display| IdentityError::Unreadable(problem.to_string());
        let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|e| unreadable(&e))?;
        if !rest.is_empty() {
            return Err(unreadable(&"bytes follow its end"));
        }
        // A malformed or repeated extension must not read as "not an authority".
        let authority =
            certificate.basic_constraints().map_err(|e| unreadable(&e))?.is_some_and(|basic| basic.value.ca);
        if authority {
            return Err(IdentityError::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|e| unreadable(&e))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else {
            return Err(IdentityError::UriCount(uris.len()));
        };
        let id: SpiffeId = uri.parse()?;
        let not_after = certificate.validity().not_after.to_datetime();
        Ok(Self {
            role: id.role(),
            uri: id.to_string(),
            name: id.name,
            trust_domain: id.trust_domain,
            serial: certificate.serial.to_str_radix(16),
            not_after: not_after.into(),
        })
    }

    /// The identity without the certificate's particulars.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { trust_domain: self.trust_domain.clone(), role: self.role, name: self.name.clone() }
    }
}

impl fmt::Display for PeerIdentity {
    /// `agent "db-7"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_written() {
        let text = "spiffe://fleet.example/pgportage/agent/db-7";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.trust_domain(), id.role(), id.name()), ("fleet.example", Role::Agent, "db-7"));
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn malformed_identities_are_refused() {
        let long = format!("spiffe://fleet/pgportage/agent/{}", "a".repeat(64));
        let cases = [
            ("", "identity "),
            ("https://fleet/pgportage/agent/a", "identity "),
            ("SPIFFE://fleet/pgportage/agent/a", "identity "),
            ("spiffe://fleet/other/agent/a", "identity "),
            ("spiffe://fleet/pgportage/agent", "identity "),
            ("spiffe://fleet/pgportage/agent/a/", "identity "),
            ("spiffe://fleet/pgportage/agent/a/b", "identity "),
            ("spiffe:///pgportage/agent/a", "trust domain "),
            ("spiffe://Fleet/pgportage/agent/a", "trust domain "),
            ("spiffe://fleet:1/pgportage/agent/a", "trust domain "),
            ("spiffe://u@fleet/pgportage/agent/a", "trust domain "),
            ("spiffe://fleet/pgportage/Agent/a", "role "),
            ("spiffe://fleet/pgportage/root/a", "role "),
            ("spiffe://fleet/pgportage/agent/", "name "),
            ("spiffe://fleet/pgportage/agent/A", "name "),
            ("spiffe://fleet/pgportage/agent/-a", "name "),
            ("spiffe://fleet/pgportage/agent/a-", "name "),
            ("spiffe://fleet/pgportage/agent/a?b", "name "),
            ("spiffe://fleet/pgportage/agent/a%2f", "name "),
            (long.as_str(), "name "),
        ];
        for (text, subject) in cases {
            let error = text.parse::<SpiffeId>().unwrap_err().to_string();
            assert!(error.starts_with(subject), "{text}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", b"-----BEGIN CERTIFICATE-----"] {
            let error = PeerIdentity::from_certificate(&CertificateDer::from(bytes)).unwrap_err();
            assert!(matches!(error, IdentityError::Unreadable(_)), "{error}");
        }
    }
}
