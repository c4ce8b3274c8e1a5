//! The certificate of a cutover or rollback: what both agents state about it, each
//! under the signature of its own key, and how the holder of the file checks it without
//! asking a coordinator, an agent or a database.
//!
//! A [`Statement`] is JSON text. Its exact bytes are signed, stored, handed out and
//! checked; no program writes it anew. The key is that of the agent's certificate, so
//! the authority of the fleet vouches for the signer. What is signed begins with a
//! context of its own: no signature of a handshake can pass for one of these, nor
//! the other way round.
//!
//! **Invariant:** only an agent's key can make a certificate that is proved. The
//! coordinator that stores it cannot, an operator cannot, and the holder of the file
//! cannot. They can withhold it, and hand out another one that is just as true.

mod statement;
mod story;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pgportage_link::identity::{PeerIdentity, Role};
use pgportage_link::tls::{self, Identity, Signature};
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

pub use statement::{
    Account, Comparison, Direction, Entered, FORMAT, Left, Listing, Moment, Phase, Rows, Sequence, Server, Statement,
    TableSet, Verification, Written, hex,
};
pub use story::{Check, Report};

/// What is signed begins with this and a zero byte. The content of a handshake's
/// signature begins with 64 blanks.
const CONTEXT: &[u8] = b"pgportage switch statement 1\0";

const FILE_FORMAT: &str = "pgportage switch certificate 1";

/// How far the checking machine's clock may be behind the agents' clocks.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(5 * 60);

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// The statement, as it was signed.
    pub statement: String,
    /// TLS number of the signature scheme.
    pub scheme: u16,
    /// The signature, over [`CONTEXT`] and the statement.
    #[serde(with = "base64_text")]
    pub signature: Vec<u8>,
    /// The signer's certificate in DER form, then those between it and the
    /// authority.
    pub chain: Vec<Der>,
}

/// A certificate in DER form, written in standard base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Der(#[serde(with = "base64_text")] pub Vec<u8>);

/// Both statements, as a file holds them. Nothing beside them: a reader might believe
/// what is not signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchCertificate {
    format: String,
    statements: Vec<SignedStatement>,
}

/// The authorities that vouch for agents.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads the certificates of one or several authorities, in PEM form.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        tls::authorities(path).map(Self)
    }
}

impl SignedStatement {
    /// Signs a statement in the name of this process.
    pub fn sign(statement: &Statement, identity: &Identity) -> Result<Self, Failure> {
        let statement = serde_json::to_string(statement)
            .map_err(|error| Failure::new(Reason::Internal, "the statement cannot be written").because(&error))?;
        let Signature { scheme, bytes, chain } = identity.sign(&signed_content(&statement))?;
        let chain = chain.iter().map(|certificate| Der(certificate.to_vec())).collect();
        Ok(Self { statement, scheme: scheme.into(), signature: bytes, chain })
    }

    /// Reads what is stated. Does not look at the signature.
    ///
    /// # Errors
    ///
    /// A clause that says what is wrong with it.
    pub fn read(&self) -> Result<Statement, String> {
        let statement: Statement =
            serde_json::from_str(&self.statement).map_err(|error| format!("cannot be read: {error}"))?;
        match statement.format {
            FORMAT => Ok(statement),
            other => Err(format!("has format {other}, and this release knows {FORMAT}")),
        }
    }

    /// Reads what is stated, if the agent that it names signed it, and one of the
    /// authorities vouched for that agent then.
    fn open(&self, authorities: &Authorities, now: SystemTime) -> Result<(Statement, PeerIdentity), String> {
        let statement = self.read()?;
        let chain: Vec<_> =
            self.chain.iter().map(|certificate| CertificateDer::from(certificate.0.as_slice())).collect();
        let stated_at = statement.statement_time.time();
        let signer = tls::holder(&authorities.0, &chain, stated_at)
            .map_err(|problem| format!("is signed with a certificate that {problem}"))?;
        let content = signed_content(&self.statement);
        if !tls::is_signed_by(&chain[0], &content, SignatureScheme::from(self.scheme), &self.signature) {
            return Err(format!(
                "does not bear the signature of {signer}: it was changed, or it was made without that agent's key"
            ));
        }
        if signer.role != Role::Agent {
            return Err(format!("is signed by {signer}, who is no agent"));
        }
        if signer.uri != statement.agent {
            return Err(format!("speaks for {}, but {} signed it", statement.agent, signer.uri));
        }
        if stated_at > now + CLOCK_ALLOWANCE {
            return Err(format!("is dated {}, which is still to come", statement.statement_time));
        }
        Ok((statement, signer))
    }
}

impl SwitchCertificate {
    /// Puts statements together, in any order.
    pub fn new(statements: Vec<SignedStatement>) -> Self {
        Self { format: FILE_FORMAT.to_owned(), statements }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Reason::CertificateNotProved`] when it is no certificate of a switchover, or one
    /// of a form that this release does not know.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let not_one = |why: &str| {
            Failure::new(Reason::CertificateNotProved, format!("this is no certificate of a switchover: {why}"))
                .hint("Give a file that `pgportage certificate save` has written.")
                .effect(Effect::None)
        };
        let certificate: Self = serde_json::from_str(text).map_err(|error| not_one(&error.to_string()))?;
        if certificate.format != FILE_FORMAT {
            return Err(not_one(&format!("its format is {:?}, not {FILE_FORMAT:?}", certificate.format)));
        }
        Ok(certificate)
    }

    /// As a file holds it.
    pub fn text(&self) -> String {
        // Strings and numbers only: writing them cannot fail.
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// The statements.
    pub fn statements(&self) -> &[SignedStatement] {
        &self.statements
    }

    /// Checks everything that can be checked offline. `now` only tells statements from
    /// the future.
    #[must_use]
    pub fn verify(&self, authorities: &Authorities, now: SystemTime) -> Report {
        let opened = self.statements.iter().map(|signed| (signed.read().ok(), signed.open(authorities, now)));
        story::report(opened.collect())
    }
}

fn signed_content(statement: &str) -> Vec<u8> {
    [CONTEXT, statement.as_bytes()].concat()
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
