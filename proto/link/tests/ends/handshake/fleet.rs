//! A fleet of good and bad certificates, and ends that use them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::{PeerIdentity, Role, SpiffeId};
use pgportage_link::issue::Authority;
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Failure, dial, health};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const HOUR: Duration = Duration::from_secs(3600);

/// An authority and a directory for what it issues.
pub(crate) struct Fleet {
    dir: TempDir,
    pub(crate) authority: Arc<Authority>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), "fleet.example", Clock).unwrap();
        Self { dir, authority: Arc::new(authority) }
    }

    pub(crate) fn issue(&self, role: Role, name: &str, validity: Duration) -> IdentitySettings {
        let issued = self.authority.issue(role, name, validity).unwrap();
        self.authority.write(&issued, &self.dir.path().join("out")).unwrap()
    }

    /// A further certificate of the same name, in another place.
    pub(crate) fn renew(&self, role: Role, name: &str) -> IdentitySettings {
        let issued = self.authority.issue(role, name, HOUR).unwrap();
        self.authority.write(&issued, &self.dir.path().join("renewed")).unwrap()
    }

    pub(crate) fn identity(&self, role: Role, name: &str) -> Identity {
        Identity::load(&self.issue(role, name, HOUR), Clock).unwrap()
    }

    pub(crate) fn short_identity(&self, role: Role, name: &str, validity: Duration) -> Identity {
        Identity::load(&self.issue(role, name, validity), Clock).unwrap()
    }

    /// An identity of this fleet that takes another's servers as well.
    pub(crate) fn identity_trusting(&self, role: Role, name: &str, other: &Self) -> Identity {
        let mut paths = self.issue(role, name, HOUR);
        paths.authority = self.dir.path().join("both.pem");
        let both = format!("{}{}", self.authority.certificate(), other.authority.certificate());
        std::fs::write(&paths.authority, both).unwrap();
        Identity::load(&paths, Clock).unwrap()
    }

    /// A certificate of this authority with any URIs.
    pub(crate) fn forge(&self, uris: &[&str]) -> Forged {
        let key = std::fs::read_to_string(self.dir.path().join("ca/ca-key.pem")).unwrap();
        Forged::new(uris, Signer::Authority { certificate: self.authority.certificate().to_owned(), key })
    }

    pub(crate) fn write_forged(&self, forged: &Forged, name: &str) -> IdentitySettings {
        let (certificate, key) = forged.pem();
        let file = |suffix: &str| self.dir.path().join(format!("{name}{suffix}"));
        let paths = IdentitySettings {
            certificate: file(".pem"),
            key: file("-key.pem"),
            authority: self.dir.path().join("ca/ca.pem"),
        };
        std::fs::write(&paths.certificate, certificate).unwrap();
        write_private(&paths.key, &key);
        paths
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The contents of a pair of files.
pub(crate) struct Files {
    certificate: String,
    key: String,
}

impl Files {
    pub(crate) fn take(paths: &IdentitySettings) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        Self { certificate: read(&paths.certificate), key: read(&paths.key) }
    }

    /// Puts both in place. A reload in between finds a pair that does not fit,
    /// and must keep the old one.
    pub(crate) fn put(&self, paths: &IdentitySettings) {
        std::fs::write(&paths.certificate, &self.certificate).unwrap();
        write_private(&paths.key, &self.key);
    }
}

enum Signer {
    Authority { certificate: String, key: String },
    Stranger,
    Itself,
}

/// A certificate that need not be right.
pub(crate) struct Forged {
    params: CertificateParams,
    signer: Signer,
}

impl Forged {
    fn new(uris: &[&str], signer: Signer) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Self { params, signer }.between(-HOUR.as_secs().cast_signed(), HOUR.as_secs().cast_signed())
    }

    pub(crate) fn by_stranger(uri: &str) -> Self {
        Self::new(&[uri], Signer::Stranger)
    }

    pub(crate) fn self_signed(uri: &str) -> Self {
        Self::new(&[uri], Signer::Itself)
    }

    fn between(mut self, from_seconds: i64, to_seconds: i64) -> Self {
        let now = OffsetDateTime::from(Clock.wall());
        self.params.not_before = now + time::Duration::seconds(from_seconds);
        self.params.not_after = now + time::Duration::seconds(to_seconds);
        self
    }

    pub(crate) fn expired(self) -> Self {
        self.between(-7200, -3600)
    }

    pub(crate) fn not_yet_valid(self) -> Self {
        self.between(3600, 7200)
    }

    pub(crate) fn with_authority_bit(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    pub(crate) fn for_servers_only(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    pub(crate) fn for_clients_only(mut self) -> Self {
        self.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    fn pem(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = match &self.signer {
            Signer::Itself => self.params.self_signed(&key).unwrap(),
            Signer::Authority { certificate, key: ca_key } => {
                let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(ca_key).unwrap()).unwrap();
                self.params.signed_by(&key, &issuer).unwrap()
            }
            Signer::Stranger => {
                let mut params = CertificateParams::default();
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
                self.params.signed_by(&key, &stranger).unwrap()
            }
        };
        (certificate.pem(), key.serialize_pem())
    }

    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.pem();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        (vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
    }
}

/// Asks about the process as a whole.
pub(crate) fn whole() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

/// One small call.
pub(crate) async fn health(channel: Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel).check(whole()).await.map(drop)
}

/// Dials one address.
pub(crate) struct Dialler {
    pub(crate) address: String,
    pub(crate) connect_timeout: Duration,
}

impl Dialler {
    pub(crate) async fn dial(&self, expected: &SpiffeId, identity: &Identity) -> Result<Channel, Failure> {
        let settings = Http2Settings { connect_timeout: self.connect_timeout, ..Http2Settings::control() };
        dial::channel(&self.address, expected, identity, &settings).await
    }
}

/// A good server with nothing but health.
pub(crate) struct Server {
    pub(crate) address: String,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
}

impl Server {
    pub(crate) async fn start(identity: Identity) -> Self {
        Self::start_with(identity, |_| {}).await
    }

    pub(crate) async fn start_at(address: &str, identity: Identity) -> Self {
        Self::start_on(serve::bind(address.parse().unwrap()).await.unwrap(), identity, ServeSettings::control()).await
    }

    pub(crate) async fn start_with(identity: Identity, change: impl FnOnce(&mut ServeSettings)) -> Self {
        let mut settings = ServeSettings::control();
        change(&mut settings);
        let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        Self::start_on(listener, identity, settings).await
    }

    async fn start_on(listener: TcpListener, identity: Identity, settings: ServeSettings) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let (reporter, service) = health::service().await;
        reporter.serving().await;
        let routes = Routes::new(service);
        let task = tokio::spawn(serve::serve(listener, identity, settings, routes, stop.clone()));
        Self { address, stop, task }
    }

    pub(crate) async fn dial(&self, expected: &SpiffeId, identity: &Identity) -> Result<Channel, Failure> {
        dial::channel(&self.address, expected, identity, &Http2Settings::control()).await
    }

    /// The serial number of the certificate it shows to newcomers.
    pub(crate) async fn serial(&self) -> String {
        let tls = connect(&self.address, None).await.unwrap();
        let certificate = &tls.get_ref().1.peer_certificates().unwrap()[0];
        PeerIdentity::from_certificate(certificate).unwrap().serial
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        Clock.timeout(super::PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A server that shows a forged certificate, and asks for none.
pub(crate) struct ForgedServer {
    pub(crate) address: String,
    task: JoinHandle<()>,
}

pub(crate) async fn forged_server(certificate: &Forged) -> ForgedServer {
    let (chain, key) = certificate.der();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            drop(acceptor.accept(tcp).await);
        }
    });
    ForgedServer { address, task }
}

impl ForgedServer {
    pub(crate) async fn dial(&self, expected: &SpiffeId, identity: &Identity) -> Result<Channel, Failure> {
        dial::channel(&self.address, expected, identity, &Http2Settings::control()).await
    }
}

impl Drop for ForgedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects with any certificate or none, takes any server, and reads the first
/// byte: the server speaks first, or sends an alert.
pub(crate) async fn raw_client(address: &str, certificate: Option<&Forged>) -> io::Result<()> {
    let mut tls = connect(address, certificate).await?;
    let mut first = [0; 1];
    tls.read_exact(&mut first).await.map(drop)
}

async fn connect(address: &str, certificate: Option<&Forged>) -> io::Result<client::TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAnything));
    let mut config = match certificate {
        Some(certificate) => {
            let (chain, key) = certificate.der();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("x.invalid").unwrap(), tcp).await
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct TakeAnything;

impl ServerCertVerifier for TakeAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
