//! What makes a certificate acceptable: the authority's signature, its dates and
//! its usage, as webpki checks them, and then the identity.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

use crate::identity::{IdentityError, PeerIdentity, SpiffeId};

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It carries no identity of ours.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It comes from another fleet under the same authority.
    #[error("certificate belongs to trust domain \"{found}\", not to \"{expected}\"")]
    TrustDomain { expected: String, found: String },
    /// It is valid, of another program than the one that was dialled.
    #[error("certificate names {found}, not {expected}")]
    Name { expected: SpiffeId, found: SpiffeId },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// Accepts every certificate with one identity in our trust domain. `authorise` decides
/// for each request what its caller may call.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        trust_domain: String,
    ) -> Result<Self, VerifierBuilderError> {
        let inner = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?;
        Ok(Self { inner, trust_domain })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let found = PeerIdentity::from_certificate(end_entity).map_err(Refusal::from)?;
        if found.trust_domain != self.trust_domain {
            return Err(Refusal::TrustDomain { expected: self.trust_domain.clone(), found: found.trust_domain }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts exactly one identity.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    expected: SpiffeId,
}

impl ServerVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        expected: SpiffeId,
    ) -> Result<Self, VerifierBuilderError> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?;
        Ok(Self { inner, expected })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // webpki checks the host name last, after signatures, dates and usage.
        // Our certificates have none, so that one complaint, and no other, is
        // passed over. Tests with certificates bad in each other way guard this.
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        let found = PeerIdentity::from_certificate(end_entity).map_err(Refusal::from)?.id();
        if found != self.expected {
            return Err(Refusal::Name { expected: self.expected.clone(), found }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
