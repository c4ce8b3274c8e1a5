//! Accepting connections: a bounded number of handshakes, each with a time limit. A
//! caller without an identity gets no further.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgportage_proto::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::http2::{HEADER_LIST_BYTES, Http2Settings, MAX_STREAMS};
use crate::identity::{PeerIdentity, SpiffeId};
use crate::tls::{Identity, explain, tls_error};
use crate::transport::BoxedTransport;
use crate::{Effect, Failure, authorise, trace};

/// Accepted connections waiting for the server to take them. It takes them at
/// once; more than a few means that it is stopping.
const ACCEPTED: usize = 16;

/// How connections are accepted and given up.
#[derive(Clone, Copy, Debug)]
pub struct ServeSettings {
    /// Windows and keepalive.
    pub http2: Http2Settings,
    /// How long a client may take for its handshake.
    pub handshake_timeout: Duration,
    /// Most handshakes under way at once. More wait in the listener's backlog.
    pub handshakes: usize,
    /// How long open calls may take to end once the server stops. Then their
    /// connections are closed.
    pub drain_timeout: Duration,
}

impl ServeSettings {
    /// For programs that are only told and asked.
    pub const fn control() -> Self {
        Self {
            http2: Http2Settings::control(),
            handshake_timeout: Duration::from_secs(5),
            handshakes: 64,
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// For an agent's end of the link.
    pub const fn link() -> Self {
        Self { http2: Http2Settings::link(), ..Self::control() }
    }

    /// For the coordinator, which relays as many bytes as a link carries. Only
    /// relays use the large windows: whatever else comes is read at once.
    pub const fn coordinator() -> Self {
        Self::link()
    }
}

/// A connection that came through the coordinator, before its handshake.
pub struct Relayed {
    /// Its bytes, not yet decrypted.
    pub transport: BoxedTransport,
    /// The only peer that this connection lets in: neither the coordinator, nor another
    /// agent that the coordinator may have joined us with.
    pub expected: SpiffeId,
}

impl std::fmt::Debug for Relayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relayed").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// Where connections come from.
#[derive(Debug)]
pub struct Entrance {
    listener: TcpListener,
    relayed: Option<mpsc::Receiver<Relayed>>,
}

impl From<TcpListener> for Entrance {
    fn from(listener: TcpListener) -> Self {
        Self { listener, relayed: None }
    }
}

/// A connection before its handshake.
struct Arrival {
    transport: BoxedTransport,
    expected: Option<SpiffeId>,
    /// For the log.
    from: String,
}

impl Entrance {
    /// Lets relayed connections in as well.
    #[must_use]
    pub fn and_relayed(self, relayed: mpsc::Receiver<Relayed>) -> Self {
        Self { relayed: Some(relayed), ..self }
    }

    /// The next connection. Losing the future loses none.
    async fn next(&mut self) -> io::Result<Arrival> {
        let relayed = async {
            match &mut self.relayed {
                Some(relayed) => relayed.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(Relayed { transport, expected }) = relayed => {
                Ok(Arrival { transport, from: format!("a relay, for {expected}"), expected: Some(expected) })
            }
            accepted = self.listener.accept() => {
                let (tcp, address) = accepted?;
                tcp.set_nodelay(true)?;
                Ok(Arrival { transport: Box::new(tcp), expected: None, from: address.to_string() })
            }
        }
    }
}

/// Opens a listener.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Reason::ConfigurationInvalid, format!("could not listen on {address}"))
            .detail(format!("The system said: {error}."))
            .hint("Is another process listening there? Choose another address or stop it.")
            .effect(Effect::None)
            .with("address", address)
    })
}

/// Serves `routes` to every caller that proves an identity of ours, each call by the
/// table in [`crate::authorise`].
///
/// Returns after `stop`, once open calls have ended or the drain limit has
/// passed; no connection outlives it. The caller should tell long streams to end
/// when `stop` is cancelled. Dropping the future closes all
/// connections at once.
///
/// # Errors
///
/// [`Reason::Internal`] when the server ends by itself, which it never should.
pub async fn serve(
    entrance: impl Into<Entrance>,
    identity: Identity,
    settings: ServeSettings,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let clock = identity.clock();
    let http2 = settings.http2;
    // Cancelled when this function ends, however it ends.
    let over = CancellationToken::new();
    let _end = over.clone().drop_guard();
    let connections = incoming(entrance.into(), identity, settings, &over);
    let server = Server::builder()
        .initial_stream_window_size(http2.stream_window_bytes)
        .initial_connection_window_size(http2.connection_window_bytes)
        .http2_keepalive_interval(Some(http2.keepalive_interval))
        .http2_keepalive_timeout(Some(http2.keepalive_timeout))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .trace_fn(trace::server_span)
        .layer(authorise::layer(clock))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    tokio::pin!(server);
    let outcome = tokio::select! {
        outcome = &mut server => outcome,
        () = async { stop.cancelled().await; clock.sleep(settings.drain_timeout).await } => {
            tracing::warn!("calls were still open at the end of the drain; their connections are closed");
            Ok(())
        }
    };
    outcome.map_err(|error| {
        Failure::new(Reason::Internal, "the server ended unexpectedly").effect(Effect::None).because(&error)
    })
}

/// Accepts, shakes hands, and passes on. Ends when the receiver is dropped.
fn incoming(
    mut entrance: Entrance,
    identity: Identity,
    settings: ServeSettings,
    over: &CancellationToken,
) -> ReceiverStream<io::Result<PeerStream>> {
    let (accepted, receiver) = mpsc::channel(ACCEPTED);
    let over = over.clone();
    let clock = identity.clock();
    // Ends with the receiver or with `over`, both of which `serve` owns.
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(settings.handshakes));
        let handshakes = TaskTracker::new();
        loop {
            let next = async {
                // Waiting here leaves the rest in the backlog.
                let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
                entrance.next().await.map(|arrival| (permit, arrival))
            };
            let (permit, arrival) = tokio::select! {
                biased;
                () = accepted.closed() => break,
                () = over.cancelled() => break,
                next = next => match next {
                    Ok(next) => next,
                    Err(error) => {
                        // Out of file descriptors, most likely: not the client's fault.
                        tracing::warn!(%error, "could not accept a connection");
                        clock.sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (accepted, identity, over) = (accepted.clone(), identity.clone(), over.clone());
            handshakes.spawn(async move {
                let from = arrival.from.clone();
                let handshake = handshake(arrival, &identity, over.clone());
                let outcome = tokio::select! {
                    outcome = clock.timeout(settings.handshake_timeout, handshake) => outcome,
                    () = over.cancelled() => return,
                };
                drop(permit);
                match outcome {
                    Ok(Ok(stream)) => {
                        tracing::debug!(from, peer = %stream.peer.uri, "accepted a connection");
                        // The server stopped in between: dropping closes it.
                        drop(accepted.send(Ok(stream)).await);
                    }
                    Ok(Err(error)) => {
                        let reason = tls_error(&error).map_or_else(|| error.to_string(), |tls| explain(tls).message);
                        tracing::warn!(from, reason, "refused a connection");
                    }
                    Err(_) => {
                        let reason = "the handshake took too long";
                        tracing::warn!(from, reason, "refused a connection");
                    }
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(arrival: Arrival, identity: &Identity, over: CancellationToken) -> io::Result<PeerStream> {
    let io = TlsAcceptor::from(identity.server_config()).accept(arrival.transport).await?;
    // The verifier has looked at it already; without it nothing is known about the peer.
    let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| io::Error::other("the client presented no certificate"))?;
    let peer = PeerIdentity::from_certificate(certificate).map_err(io::Error::other)?;
    if let Some(expected) = arrival.expected
        && peer.id() != expected
    {
        return Err(io::Error::other(format!("the certificate names {}, not {expected}", peer.uri)));
    }
    let clock = identity.clock();
    let remaining = peer.not_after.duration_since(clock.wall()).unwrap_or_default();
    let uri = peer.uri.clone();
    let end = async move {
        tokio::select! {
            () = over.cancelled_owned() => {}
            () = clock.sleep(remaining) => {
                tracing::info!(peer = %uri, "closed a connection: the certificate it began with has expired");
            }
        }
    };
    Ok(PeerStream { io, peer, end: Box::pin(end) })
}

/// A connection whose other end is known.
pub struct PeerStream {
    io: TlsStream<BoxedTransport>,
    peer: PeerIdentity,
    /// Resolves when the server is over, because tonic leaves connection tasks
    /// behind, or when the peer's certificate ends: it connects again with the
    /// newest one, if it has one.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer().clone()
    }
}

impl PeerStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
