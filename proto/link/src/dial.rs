//! Dialling another end: TCP or a relay, TLS, and the certainty that it took us.
//!
//! The channel reconnects by itself, each time with the newest certificate. What
//! went wrong, down to the TLS alert, is in the [`Failure`] that
//! [`channel`] returns, or that [`crate::status::from_status`] finds in a call
//! that needed a new connection.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use pgportage_proto::Reason;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::http2::{HEADER_LIST_BYTES, Http2Settings};
use crate::identity::{PeerIdentity, SpiffeId};
use crate::status::found_in;
use crate::tls::{Identity, SERVER_NAME, explain, tls_error};
use crate::transport::BoxedTransport;
use crate::{Effect, Failure, Remedy};

/// Not `https`: the connector below does TLS itself, and tonic refuses `https`
/// beside an own connector as soon as any crate turns on its TLS features.
const ORIGIN: &str = "http://peer.pgportage.invalid";

/// How long a relay may take beside what a direct connection may: two more
/// connections are made, by the two ends one after the other.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);

/// How another end is reached.
#[derive(Clone, Debug)]
pub enum Way {
    /// At its own address, `host:port`.
    Direct(String),
    /// Through the coordinator.
    Relayed(Arc<dyn Detour>),
}

/// A way to another agent that a third program opens: TLS over it proves which agent is
/// there, as it does over the network.
pub trait Detour: fmt::Debug + Send + Sync {
    /// Opens it. Dropping the future abandons the attempt.
    fn open_to<'a>(&'a self, peer: &'a SpiffeId) -> BoxFuture<'a, Result<BoxedTransport, Failure>>;
}

/// Connects to `address` (`host:port`) and makes sure that `expected` is there.
///
/// Returns once the other end has accepted our certificate. Dropping the future
/// abandons the attempt.
///
/// # Errors
///
/// [`Reason::PeerUnreachable`], worth another try, when there is no answer or no
/// TLS; [`Reason::PeerRefused`] or [`Reason::WrongName`] when one end does not
/// take the other's certificate. Nothing was called, so the effect is none.
pub async fn channel(
    address: &str,
    expected: &SpiffeId,
    identity: &Identity,
    settings: &Http2Settings,
) -> Result<Channel, Failure> {
    Ok(channel_and_peer(Way::Direct(address.to_owned()), expected, identity, settings).await?.0)
}

/// As [`channel`], by either way, and says which certificate the other end
/// showed: for records of who said what.
///
/// # Errors
///
/// As [`channel`], and those of [`Detour::open_to`].
pub async fn channel_and_peer(
    way: Way,
    expected: &SpiffeId,
    identity: &Identity,
    settings: &Http2Settings,
) -> Result<(Channel, PeerIdentity), Failure> {
    let dial = Arc::new(Dial {
        way,
        expected: expected.clone(),
        identity: identity.clone(),
        settings: *settings,
        peer: OnceLock::new(),
    });
    let dialled = Arc::clone(&dial);
    let connector = tower::service_fn(move |_: http::Uri| {
        let dial = Arc::clone(&dial);
        async move { dial.connect().await.map(TokioIo::new) }
    });
    // The connector keeps the time itself, to say how far it came.
    let channel = Endpoint::from_static(ORIGIN)
        .initial_stream_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.connection_window_bytes)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|error| found_in(&error).unwrap_or_else(|| dialled.unreachable().because(&error)))?;
    // A connection stands, so the handshake has verified a peer.
    let peer = dialled.peer.get().cloned().ok_or_else(|| dialled.unreachable())?;
    Ok((channel, peer))
}

struct Dial {
    way: Way,
    expected: SpiffeId,
    identity: Identity,
    settings: Http2Settings,
    /// The peer of the first connection; that of a later one is not recorded.
    peer: OnceLock<PeerIdentity>,
}

impl Dial {
    async fn connect(&self) -> Result<BufReader<TlsStream<BoxedTransport>>, Failure> {
        let config = self.identity.client_config(&self.expected)?;
        let attempt = async {
            let transport = self.transport().await?;
            let name = ServerName::try_from(SERVER_NAME).map_err(|error| self.unreachable().because(&error))?;
            let tls =
                TlsConnector::from(config).connect(name, transport).await.map_err(|error| self.refused(&error))?;
            // Verified in the handshake: it cannot be absent or malformed.
            let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
            if let Some(Ok(peer)) = certificate.map(PeerIdentity::from_certificate) {
                // Later connections of the channel do not change who was recorded.
                let _first = self.peer.set(peer);
            }
            // In TLS 1.3 the client is done before the server has looked at its
            // certificate. An HTTP/2 server speaks first: its first byte, or its
            // alert, says whether we are in.
            let mut tls = BufReader::with_capacity(16 << 10, tls);
            match tls.fill_buf().await {
                Ok([]) => Err(self.refused(&io::ErrorKind::ConnectionAborted.into())),
                Ok(_) => Ok(()),
                Err(error) => Err(self.refused(&error)),
            }?;
            Ok(tls)
        };
        let limit = match &self.way {
            Way::Direct(_) => self.settings.connect_timeout,
            Way::Relayed(_) => self.settings.connect_timeout + RELAY_TIMEOUT,
        };
        self.identity.clock().timeout(limit, attempt).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs_f64();
            Err(self.unreachable().detail(format!("No answer came within {seconds} seconds.")))
        })
    }

    async fn transport(&self) -> Result<BoxedTransport, Failure> {
        match &self.way {
            Way::Direct(address) => {
                let tcp = TcpStream::connect(address).await.map_err(|error| self.refused_by_network(&error))?;
                tcp.set_nodelay(true).map_err(|error| self.refused_by_network(&error))?;
                Ok(Box::new(tcp))
            }
            Way::Relayed(relay) => relay.open_to(&self.expected).await,
        }
    }

    fn unreachable(&self) -> Failure {
        let (role, name) = (self.expected.role(), self.expected.name());
        let at = match &self.way {
            Way::Direct(address) => format!("at {address}"),
            Way::Relayed(_) => "through the coordinator".to_owned(),
        };
        let failure = Failure::new(Reason::PeerUnreachable, format!("could not connect to {role} \"{name}\" {at}"))
            .remedy(Remedy::Wait)
            .effect(Effect::None)
            .with("peer", name);
        match &self.way {
            Way::Direct(address) => failure.with("address", address),
            Way::Relayed(_) => failure,
        }
    }

    fn refused_by_network(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            io::ErrorKind::ConnectionRefused => "Is it running, and is this its address?",
            io::ErrorKind::PermissionDenied => "Is there a firewall between?",
            _ => "Check the address, name resolution and the network between.",
        };
        self.unreachable().detail(format!("The network said: {error}.")).hint(hint).because(error)
    }

    fn refused(&self, error: &io::Error) -> Failure {
        let Some(tls) = tls_error(error) else {
            return self
                .unreachable()
                .detail(format!("The connection ended before it was ready: {error}."))
                .hint("Check that a pgportage process listens there. Its log may say more.")
                .because(error);
        };
        let told = explain(tls);
        Failure {
            reason: told.reason,
            remedy: if told.reason == Reason::PeerUnreachable { Remedy::Wait } else { Remedy::Operator },
            ..self.unreachable()
        }
        .detail(sentence(&told.message))
        .hint(told.hint)
        .because(error)
    }
}

/// A clause as a sentence.
pub(crate) fn sentence(clause: &str) -> String {
    let mut characters = clause.chars();
    match characters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), characters.as_str()),
        None => String::new(),
    }
}
