//! Signatures outside a handshake, with the keys and by the rules of the handshake.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::server::danger::ClientCertVerifier as _;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::verify::ClientVerifier;
use super::{Identity, explain, internal, provider};
use crate::Failure;
use crate::identity::PeerIdentity;

/// A signature, and what it takes to check it.
#[derive(Debug)]
pub struct Signature {
    /// How it was made.
    pub scheme: SignatureScheme,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The signer's certificate, then those up to the authority.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Signs with the key of the newest certificate.
    ///
    /// # Errors
    ///
    /// [`pgportage_proto::Reason::Internal`] when the key does not sign what it
    /// signs in every handshake.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, Failure> {
        let certified_key = Arc::clone(&self.current.load().certified_key);
        let known = provider().signature_verification_algorithms.supported_schemes();
        let signer = certified_key
            .key
            .choose_scheme(&known)
            .ok_or_else(|| internal("the key of this certificate signs in no way that is known"))?;
        let bytes = signer.sign(message).map_err(|error| internal("the key cannot sign").because(&error))?;
        Ok(Signature { scheme: signer.scheme(), bytes, chain: certified_key.cert.clone() })
    }
}

/// Whose certificate this is, if an authority vouched for it at that time.
///
/// # Errors
///
/// A clause about the certificate.
pub fn holder(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    at: SystemTime,
) -> Result<PeerIdentity, String> {
    let (leaf, intermediates) = chain.split_first().ok_or("is missing")?;
    let own = PeerIdentity::from_certificate(leaf).map_err(|error| format!("is not acceptable: {error}"))?;
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    ClientVerifier::new(Arc::clone(roots), &provider(), own.trust_domain.clone())
        .map_err(|error| format!("cannot be checked: {error}"))?
        .verify_client_cert(leaf, intermediates, at)
        .map_err(|error| explain(&error).own)?;
    Ok(own)
}

/// Whether the holder of a certificate signed this message.
#[must_use]
pub fn is_signed_by(
    certificate: &CertificateDer<'_>,
    message: &[u8],
    scheme: SignatureScheme,
    signature: &[u8],
) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
    let known = provider().signature_verification_algorithms.mapping;
    known
        .iter()
        .filter(|(known, _)| *known == scheme)
        .flat_map(|(_, algorithms)| algorithms.iter())
        .any(|algorithm| certificate.verify_signature(*algorithm, message, signature).is_ok())
}
