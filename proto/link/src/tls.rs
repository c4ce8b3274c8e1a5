//! Our own certificate, and the TLS configurations made from it.
//!
//! TLS 1.3 only, both ends always present a certificate, and no session is ever
//! resumed: rustls would carry the peer's certificate over unchecked. The
//! identity is checked inside the handshake, so that the refused end hears an
//! alert instead of a closed connection.
//!
//! The files are read again every few seconds. A new pair takes effect at the
//! next handshake; a bad one is reported and the old one stays in use.

mod explain;
mod sign;
mod verify;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use pgportage_proto::Reason;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_util::sync::CancellationToken;

pub(crate) use explain::{explain, tls_error};
pub use sign::{Signature, holder, is_signed_by};

use crate::identity::{PeerIdentity, Role, SpiffeId};
use crate::settings::IdentitySettings;
use crate::tls::verify::{ClientVerifier, ServerVerifier};
use crate::{Clock, Effect, Failure, Remedy};

/// How often the files are read again.
pub(crate) const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Sent as the server's name, which no verifier looks at: identities are SPIFFE ids.
pub(crate) const SERVER_NAME: &str = "peer.pgportage.invalid";

/// HTTP/2, the only protocol spoken.
const ALPN: &[u8] = b"h2";

/// A certificate and its key are a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Our own certificate, key and authority, always the newest good ones.
///
/// Cloning is cheap; clones see the same files and the same reloads.
#[derive(Clone, Debug)]
pub struct Identity {
    paths: IdentitySettings,
    current: Arc<ArcSwap<Material>>,
    clock: Clock,
}

/// What one state of the three files gives.
struct Material {
    own: PeerIdentity,
    certified_key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
    /// Tells one state of the files from another.
    fingerprint: u64,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the files and checks that they belong together: the key matches the
    /// certificate, the authority signed it, it is in force, and it carries one
    /// identity of ours. The key file must be readable by its owner only.
    pub fn load(paths: &IdentitySettings, clock: Clock) -> Result<Self, Failure> {
        let material = Files::read(paths)?.check(paths, clock)?;
        Ok(Self { paths: paths.clone(), current: Arc::new(ArcSwap::from_pointee(material)), clock })
    }

    /// Who we are.
    pub fn own(&self) -> PeerIdentity {
        self.current.load().own.clone()
    }

    /// The clocks this identity is checked by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The id of another program in our trust domain.
    pub fn id_of(&self, role: Role, name: &str) -> Result<SpiffeId, Failure> {
        SpiffeId::new(&self.current.load().own.trust_domain, role, name).map_err(|error| {
            Failure::new(Reason::RequestInvalid, error.to_string()).effect(Effect::None).with("name", name)
        })
    }

    /// The newest configuration for accepting connections.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// A configuration for one connection to `expected`, with the newest
    /// certificate.
    ///
    /// # Errors
    ///
    /// [`Reason::Internal`] when rustls refuses what it accepted at loading.
    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, Failure> {
        let material = self.current.load();
        let provider = provider();
        let verifier = ServerVerifier::new(Arc::clone(&material.roots), &provider, expected.clone())
            .map_err(|error| internal("the authority cannot be used").because(&error))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| internal("TLS 1.3 is not available").because(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.certified_key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// Reads the files again. Says whether they have changed.
    ///
    /// # Errors
    ///
    /// When the new files are bad. The old ones stay in use.
    pub fn reload(&self) -> Result<bool, Failure> {
        let files = Files::read(&self.paths)?;
        let old = self.current.load();
        if files.fingerprint() == old.fingerprint {
            return Ok(false);
        }
        let material = files.check(&self.paths, self.clock)?;
        if material.own.uri != old.own.uri {
            // Peers know this process by its name; so do our journals.
            return Err(invalid(
                &self.paths.certificate,
                &format!("names {}, but this process runs as {}", material.own.uri, old.own.uri),
            ));
        }
        self.current.store(Arc::new(material));
        Ok(true)
    }

    /// Reads the files again every [`RELOAD_INTERVAL`] until `stop`. Safe to
    /// drop. Each new problem is logged once.
    pub async fn keep_fresh(self, stop: CancellationToken) {
        let mut reported = String::new();
        while stop.run_until_cancelled(self.clock.sleep(RELOAD_INTERVAL)).await.is_some() {
            let identity = self.clone();
            let outcome = match tokio::task::spawn_blocking(move || identity.reload()).await {
                Ok(outcome) => outcome,
                Err(error) => Err(internal("reading the certificate failed").because(&error)),
            };
            match outcome {
                Ok(true) => {
                    let own = self.own();
                    tracing::info!(identity = %own.uri, serial = %own.serial, "the certificate was replaced");
                    reported.clear();
                }
                Ok(false) => reported.clear(),
                Err(failure) if failure.message != reported => {
                    tracing::warn!(
                        reason = %failure.reason,
                        detail = %failure.detail,
                        "{failure}; the certificate in use stays"
                    );
                    reported = failure.message;
                }
                Err(_) => {}
            }
        }
    }
}

#[derive(Hash)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

impl Files {
    fn read(paths: &IdentitySettings) -> Result<Self, Failure> {
        Ok(Self {
            certificate: read(&paths.certificate, false)?,
            key: read(&paths.key, true)?,
            authority: read(&paths.authority, false)?,
        })
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self, paths: &IdentitySettings, clock: Clock) -> Result<Material, Failure> {
        let chain = certificates(&paths.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| invalid(&paths.key, "holds no private key").because(&error))?;
        let roots = Arc::new(roots(&paths.authority, &self.authority)?);
        let provider = provider();

        let leaf = &chain[0];
        let own =
            PeerIdentity::from_certificate(leaf).map_err(|error| invalid(&paths.certificate, &error.to_string()))?;
        self.check_chain(paths, &chain, &own, &roots, clock)?;
        let certified_key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            invalid(&paths.key, &format!("does not belong to {}", paths.certificate.display())).because(&error)
        })?;
        let certified_key = Arc::new(certified_key);

        let verifier = ClientVerifier::new(Arc::clone(&roots), &provider, own.trust_domain.clone())
            .map_err(|error| invalid(&paths.authority, "cannot be used").because(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| internal("TLS 1.3 is not available").because(&error))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certified_key))));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Ok(Material { own, certified_key, roots, server: Arc::new(server), fingerprint: self.fingerprint() })
    }

    /// Looks at our own certificate as the other end will: better to hear at
    /// start that it has expired than from every peer.
    fn check_chain(
        &self,
        paths: &IdentitySettings,
        chain: &[CertificateDer<'static>],
        own: &PeerIdentity,
        roots: &Arc<RootCertStore>,
        clock: Clock,
    ) -> Result<(), Failure> {
        let provider = provider();
        let now = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        let refused = |error: rustls::Error| {
            let told = explain(&error);
            invalid(&paths.certificate, &told.own).hint(told.hint)
        };
        if matches!(own.role, Role::Agent | Role::Operator) {
            ClientVerifier::new(Arc::clone(roots), &provider, own.trust_domain.clone())
                .map_err(|error| invalid(&paths.authority, "cannot be used").because(&error))?
                .verify_client_cert(&chain[0], &chain[1..], now)
                .map_err(refused)?;
        }
        if matches!(own.role, Role::Agent | Role::Coordinator) {
            let name = ServerName::try_from(SERVER_NAME)
                .map_err(|error| internal("the server name is malformed").because(&error))?;
            ServerVerifier::new(Arc::clone(roots), &provider, own.id())
                .map_err(|error| invalid(&paths.authority, "cannot be used").because(&error))?
                .verify_server_cert(&chain[0], &chain[1..], &name, &[], now)
                .map_err(refused)?;
        }
        Ok(())
    }
}

/// The authorities in a file, for a program without an identity of its own.
pub fn authorities(path: &Path) -> Result<Arc<RootCertStore>, Failure> {
    roots(path, &read(path, false)?).map(Arc::new)
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path, pem)? {
        roots.add(root).map_err(|error| invalid(path, "holds a certificate that is no authority").because(&error))?;
    }
    Ok(roots)
}

/// Passed everywhere, so that nothing depends on a default of the process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// At least one certificate.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(path, "is not in PEM form").because(&error))?;
    if certificates.is_empty() { Err(invalid(path, "holds no certificate")) } else { Ok(certificates) }
}

/// Reads one file. A `private` one must belong to us or to root, and no other user
/// may read it.
fn read(path: &Path, private: bool) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| {
        invalid(path, &format!("cannot be read: {error}"))
            .hint("Give the path of a file that this user may read, or make one with \"pgportage certs issue\".")
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if private {
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(invalid(path, &format!("may be read by others (mode {mode:04o})"))
                .hint(format!("Run: chmod 600 {}", path.display())));
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own && metadata.uid() != 0 {
            return Err(invalid(path, &format!("belongs to user {}, not to this process", metadata.uid()))
                .hint(format!("Run: chown {own} {}", path.display())));
        }
    }
    let mut contents = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut contents).map_err(unreadable)?;
    Ok(contents)
}

fn invalid(path: &Path, problem: &str) -> Failure {
    Failure::new(Reason::ConfigurationInvalid, format!("\"{}\" {problem}", path.display()))
        .effect(Effect::None)
        .with("file", path.display())
}

fn internal(message: &str) -> Failure {
    Failure::new(Reason::Internal, message).effect(Effect::None).remedy(Remedy::Operator)
}

/// Where the three files usually are, when they were made by `certs issue` in
/// `dir`.
pub fn issued_paths(dir: &Path, role: Role, name: &str) -> IdentitySettings {
    let file = |suffix: &str| -> PathBuf { dir.join(format!("{role}-{name}{suffix}")) };
    IdentitySettings { certificate: file(".pem"), key: file("-key.pem"), authority: dir.join("ca.pem") }
}
