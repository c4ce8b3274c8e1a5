//! Where the PostgreSQL of the subscriber enters the link: the destination's, and for the way back the
//! source's.
//!
//! One listener for each migration, on an address that only this machine reaches. Its port is chosen once
//! and kept in the journal, because it stands in the subscription on the server: after a restart of the
//! agent the subscription finds the tunnel where it was. Each connection becomes one `OpenTunnel` call.
//! While the other agent is away, connections are closed at once, and PostgreSQL tries again by itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgportage_link::Effect;
use pgportage_link::Failure;
use pgportage_link::Remedy;
use pgportage_link::Tasks;
use pgportage_link::http2::MAX_STREAMS;
use pgportage_link::settings::{Problems, Validate};
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, Note};
use pgportage_proto::MigrationId;
use pgportage_proto::Reason;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures::LinkTraffic;
use crate::peer::{PeerClient, Peers, Tunnel, carry};

/// Connections of one migration at a time: as many streams as one connection of the link carries. A
/// subscription has one connection and each table synchronisation another; a dozen of those is many.
const CONNECTIONS: usize = MAX_STREAMS as usize;
/// Pause after a failed `accept`, which means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a listener that could not be bound at start is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(2);

/// Where the server's own subscription enters the link.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelSettings {
    /// Address to listen on. A loopback address, unless the server is on another machine.
    pub address: std::net::IpAddr,
    /// First port of the range; each migration gets one.
    pub first_port: u16,
    /// Last port of the range.
    pub last_port: u16,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        // Sixteen ports: few migrations go to one server at the same time, because each takes workers of
        // that server.
        Self { address: std::net::Ipv4Addr::LOCALHOST.into(), first_port: 7440, last_port: 7455 }
    }
}

impl Validate for TunnelSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.first_port == 0 {
            problems.add("first_port", "must not be 0");
        }
        if self.first_port > self.last_port {
            problems.add("last_port", "must not be below first_port");
        }
    }
}

/// The listeners of this agent. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tunnels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: TunnelSettings,
    journal: Journal,
    peers: Peers,
    traffic: LinkTraffic,
    tasks: Tasks,
    listening: Mutex<HashMap<MigrationId, Listening>>,
    /// Held while a port is chosen: each migration gets one, and no two get the same.
    choosing: tokio::sync::Mutex<()>,
}

/// Dropping it ends the listener and its connections.
#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Tunnels {
    /// No listener is there yet.
    pub fn new(settings: TunnelSettings, journal: Journal, peers: Peers, traffic: LinkTraffic, tasks: Tasks) -> Self {
        let (listening, choosing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { settings, journal, peers, traffic, tasks, listening, choosing }))
    }

    /// Makes sure that the migration has a listener, and returns its address. The address is the same for
    /// as long as the migration lives, restarts included.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when no port of the range is free, or another process uses the port
    /// that stands in the subscription.
    pub async fn ensure(&self, participation: &Participation) -> Result<SocketAddr, Failure> {
        let migration = &participation.migration;
        let _choosing = self.0.choosing.lock().await;
        if let Some(listening) = self.listening().get(migration) {
            return Ok(listening.address);
        }
        let settings = &self.0.settings;
        let noted = self.0.journal.note(migration, Note::TunnelPort)?.and_then(|text| text.parse::<u16>().ok());
        let listener = match noted {
            Some(port) => bind(settings.address, port).await.map_err(|error| taken(settings.address, port, &error))?,
            None => {
                let listener = self.bind_free().await?;
                let port = local(&listener)?.port();
                // Noted before the caller learns the port: the port must survive a crash.
                self.0.journal.set_note(migration, Note::TunnelPort, &port.to_string())?;
                listener
            }
        };
        let address = local(&listener)?;
        let stop = self.0.tasks.stop.child_token();
        self.listening().insert(migration.clone(), Listening { address, stop: stop.clone() });
        tracing::info!(migration.id = %migration, %address, "listening for the subscription");
        self.0.tasks.spawn(accept(self.clone(), participation.clone(), listener, stop));
        Ok(address)
    }

    /// Ends a migration's listener and its connections. The port stays noted
    /// until the journal forgets the migration.
    pub fn close(&self, migration: &MigrationId) {
        self.listening().remove(migration);
    }

    /// At start: listens again for every migration that had a listener. Returns at once; a port that is
    /// taken is tried again until it is free.
    pub fn resume(&self) -> Result<(), Failure> {
        for participation in self.0.journal.participations()? {
            let noted = self.0.journal.note(&participation.migration, Note::TunnelPort)?.is_some();
            if !noted {
                continue;
            }
            let tunnels = self.clone();
            self.0.tasks.spawn(async move {
                let Inner { journal, tasks, .. } = &*tunnels.0;
                while let Err(failure) = tunnels.ensure(&participation).await {
                    tracing::warn!(migration.id = %participation.migration, %failure, "the subscription cannot reach us");
                    tokio::select! {
                        biased;
                        () = tasks.stop.cancelled() => return,
                        () = tasks.clock.sleep(BIND_PAUSE) => {}
                    }
                    // The migration may have ended meanwhile.
                    if !matches!(journal.participation(&participation.migration), Ok(Some(_))) {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    fn listening(&self) -> MutexGuard<'_, HashMap<MigrationId, Listening>> {
        self.0.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first port of the range that is free and not another migration's.
    async fn bind_free(&self) -> Result<TcpListener, Failure> {
        let settings = &self.0.settings;
        let mut reserved = Vec::new();
        for participation in self.0.journal.participations()? {
            reserved.extend(
                self.0
                    .journal
                    .note(&participation.migration, Note::TunnelPort)?
                    .and_then(|text| text.parse::<u16>().ok()),
            );
        }
        for port in (settings.first_port..=settings.last_port).filter(|port| !reserved.contains(port)) {
            match bind(settings.address, port).await {
                Ok(listener) => return Ok(listener),
                Err(error) => tracing::debug!(port, %error, "a port of the tunnel's range cannot be had"),
            }
        }
        Err(Failure::new(
            Reason::ConfigurationInvalid,
            format!(
                "no port from {} to {} is free on {} for the tunnel",
                settings.first_port, settings.last_port, settings.address
            ),
        )
        .hint("Widen `tunnel.first_port` and `tunnel.last_port` in agent.toml, then restart the agent.")
        .effect(Effect::None))
    }
}

async fn bind(address: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    // tokio sets SO_REUSEADDR: old connections from before a restart do not prevent the bind.
    TcpListener::bind((address, port)).await
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| {
        Failure::new(Reason::Internal, "could not read a listener's own address").effect(Effect::None).because(&error)
    })
}

fn taken(address: IpAddr, port: u16, error: &std::io::Error) -> Failure {
    Failure::new(
        Reason::ConfigurationInvalid,
        format!("could not listen on {address}:{port}, which the subscription knows"),
    )
    .detail(format!("The system said: {error}."))
    .hint("Stop whatever listens there.")
    .remedy(Remedy::Wait)
    .effect(Effect::None)
    .because(error)
}

/// Accepts connections until told to stop. Then it closes them without waiting.
async fn accept(tunnels: Tunnels, participation: Participation, listener: TcpListener, stop: CancellationToken) {
    let connections = TaskTracker::new();
    // One connection of the link for all of this migration, made when first needed, ended with the
    // listener.
    let peer = Arc::new(OnceCell::new());
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection of the subscription");
                tunnels.0.tasks.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(migration.id = %participation.migration, "too many connections to the tunnel; one was closed");
            continue;
        };
        let (tunnels, participation, stop) = (tunnels.clone(), participation.clone(), stop.clone());
        let peer = Arc::clone(&peer);
        connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = connection(&tunnels, &participation, &peer, stream) => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Carries one connection of this agent's server to the other agent's server.
async fn connection(tunnels: &Tunnels, participation: &Participation, peer: &OnceCell<PeerClient>, stream: TcpStream) {
    let migration = &participation.migration;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(migration.id = %migration, %error, "a connection to the tunnel was gone at once");
        return;
    }
    let opened = async {
        let peer = peer.get_or_try_init(|| tunnels.0.peers.connect(participation, 1)).await?;
        let packing = tunnels.0.peers.known_packing(participation).await;
        peer.open_tunnel(packing, tunnels.0.traffic.tunnel()).await
    };
    let Tunnel { outbound, inbound, packer } = match opened.await {
        Ok(tunnel) => tunnel,
        Err(failure) => {
            tracing::warn!(migration.id = %migration, %failure, detail = failure.detail, "could not open a tunnel");
            return;
        }
    };
    let (reader, writer) = stream.into_split();
    match carry(reader, writer, inbound, outbound, packer).await {
        Ok(carried) => tracing::debug!(migration.id = %migration, ?carried, "a tunnel ended"),
        Err(error) => tracing::debug!(migration.id = %migration, %error, "a tunnel broke"),
    }
}
