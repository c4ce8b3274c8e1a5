//! Calling the other agent.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pgportage_link::dial::{self, Way};
use pgportage_link::http2::{FACT_MESSAGE_BYTES, Http2Settings};
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::status::from_status;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Effect, Failure, Remedy, trace};
use pgportage_migration::Participation;
use pgportage_postgres::{Secret, ServerVersion};
use pgportage_proto::v1::peer_service_client::PeerServiceClient;
use pgportage_proto::{MigrationId, Reason, v1};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::cutover::{Announcement, Resolution};
use super::packing::{Chunk, Compression, Packer, Packing};
use super::pump::CHUNKS_WAITING;
use super::speed::{self, Speeds};
use super::stream::{ArchiveStream, HeartbeatStream, Tunnel, TunnelStream};
use crate::comparison::Questions;
use crate::figures::Traffic;
use crate::role::ReplicationAccess;

/// How long a call that answers once may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the source agent may take to begin a dump: first it looks for the programs.
const DUMP_TIMEOUT: Duration = Duration::from_secs(60);

type Interceptor = fn(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>;
type Client = PeerServiceClient<InterceptedService<Channel, Interceptor>>;

/// Where another agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// At its own address, `host:port`.
    Direct(String),
    /// Through the coordinator, because the other agent has no address that this one can dial.
    Relay,
}

/// The other agents, each dialled when it is first needed.
///
/// One connection to each serves the calls. A tunnel's bytes have connections of their own, so that rows
/// never delay a `ResolveCutover`. All of them reconnect by themselves.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    identity: Identity,
    addresses: BTreeMap<String, PeerAddress>,
    relay: Relay,
    clock: Clock,
    compression: Compression,
    channels: Mutex<HashMap<String, Channel>>,
    measured: Mutex<HashMap<String, Measured>>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    packing: Packing,
    at: Instant,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// Keeps this agent's certificate, the addresses of the policy, the relay for agents without an
    /// address, and how the destination's owner wants rows to be packed. Dials no agent yet.
    pub fn new(
        identity: Identity,
        addresses: BTreeMap<String, PeerAddress>,
        relay: Relay,
        compression: Compression,
        clock: Clock,
    ) -> Self {
        let (channels, measured) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { identity, addresses, relay, clock, compression, channels, measured }))
    }

    /// Whether the policy reaches this agent through the coordinator.
    #[must_use]
    pub fn relayed(&self, peer: &str) -> bool {
        self.0.addresses.get(peer) == Some(&PeerAddress::Relay)
    }

    /// The other agent of a migration, connected.
    ///
    /// # Errors
    ///
    /// [`Reason::PolicyDenied`] when the policy has no address for it,
    /// [`Reason::PeerUnreachable`] (worth another try) when it does not answer,
    /// [`Reason::PeerRefused`] or [`Reason::WrongName`] when one end does not
    /// take the other's certificate; through the coordinator, those of
    /// [`Relay::open`] as well.
    pub async fn call(&self, participation: &Participation) -> Result<PeerClient, Failure> {
        let known = self.0.channels.lock().await.get(&participation.peer).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => {
                // Dialled without the lock: a peer that does not answer must not delay calls to other
                // peers. Two calls at once may both dial; the second connection stays.
                let channel = self.dial(participation, &Http2Settings::link()).await?;
                self.0.channels.lock().await.insert(participation.peer.clone(), channel.clone());
                channel
            }
        };
        Ok(self.client(participation, channel))
    }

    /// As [`Self::call`], over a connection of its own that ends with the client. It is one of `count`
    /// connections that carry much at the same time and share the bytes that may be in flight.
    pub async fn connect(&self, participation: &Participation, count: usize) -> Result<PeerClient, Failure> {
        let channel = self.dial(participation, &Http2Settings::link().shared_by(count)).await?;
        Ok(self.client(participation, channel))
    }

    /// On the destination: how the source agent is to pack what it sends. With [`Compression::Auto`] this
    /// measures the link, which takes a moment, unless that was done lately. When the measurement fails,
    /// the call still returns an answer. Dropping the future loses nothing.
    pub async fn packing(&self, participation: &Participation) -> Packing {
        let measured = self.0.measured.lock().await.get(&participation.peer).copied();
        let fresh = |measured: Measured| self.0.clock.now().duration_since(measured.at) < speed::BELIEVED_FOR;
        if self.0.compression == Compression::Auto
            && !measured.is_some_and(fresh)
            && let Err(failure) = self.measure(participation).await
        {
            tracing::warn!(%failure, detail = failure.detail, "the link could not be measured");
        }
        self.known_packing(participation).await
    }

    /// On the destination: measures the link and keeps the result.
    pub async fn measure(&self, participation: &Participation) -> Result<(), Failure> {
        let speeds = self.connect(participation, 1).await?.measure().await?;
        let packing = speeds.decide();
        tracing::info!(
            peer = participation.peer,
            link_bytes_per_second = speeds.link,
            packing_bytes_per_second = speeds.packing,
            ?packing,
            "measured the link"
        );
        let measured = Measured { packing, at: self.0.clock.now() };
        self.0.measured.lock().await.insert(participation.peer.clone(), measured);
        Ok(())
    }

    /// As [`Self::packing`], without measuring: a link that was never measured counts as slow.
    pub async fn known_packing(&self, participation: &Participation) -> Packing {
        match self.0.compression {
            Compression::Off => Packing::Plain,
            Compression::Zstd => Packing::Zstd,
            Compression::Auto => {
                self.0.measured.lock().await.get(&participation.peer).map_or(Packing::Zstd, |measured| measured.packing)
            }
        }
    }

    async fn dial(&self, participation: &Participation, settings: &Http2Settings) -> Result<Channel, Failure> {
        let peer = &participation.peer;
        let address = self.0.addresses.get(peer).ok_or_else(|| {
            Failure::new(Reason::PolicyDenied, format!("the policy has no address for agent {peer}"))
                .hint(format!("Add {peer} under [peers] in the policy file of this agent, then restart it."))
                .effect(Effect::None)
                .with("peer", peer)
        })?;
        let way = match address {
            PeerAddress::Direct(address) => Way::Direct(address.clone()),
            PeerAddress::Relay => Way::Relayed(Arc::new(self.0.relay.clone())),
        };
        let expected = self.0.identity.id_of(Role::Agent, peer)?;
        Ok(dial::channel_and_peer(way, &expected, &self.0.identity, settings).await?.0)
    }

    fn client(&self, participation: &Participation, channel: Channel) -> PeerClient {
        let interceptor: Interceptor = trace::interceptor;
        PeerClient {
            client: PeerServiceClient::with_interceptor(channel, interceptor)
                .max_decoding_message_size(FACT_MESSAGE_BYTES),
            migration: participation.migration.clone(),
            peer: participation.peer.clone(),
            clock: self.0.clock,
        }
    }
}

/// The other agent of one migration. Cheap to clone.
#[derive(Clone)]
pub struct PeerClient {
    pub(super) client: Client,
    pub(super) migration: MigrationId,
    pub(super) peer: String,
    clock: Clock,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerClient")
            .field("migration", &self.migration)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What the other agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The name that it gives itself.
    pub agent: String,
    /// Its release, for people.
    pub software_version: String,
}

impl PeerClient {
    /// Asks whether the other agent knows the migration and this agent as its partner.
    ///
    /// # Errors
    ///
    /// [`Reason::PeerRefused`] when it does not, [`Reason::PeerUnreachable`] when it does not answer.
    pub async fn greet(&self) -> Result<Greeting, Failure> {
        let request = v1::GreetPeerRequest { migration_id: self.migration.to_string() };
        let response = self.within(CALL_TIMEOUT, self.client.clone().greet_peer(request)).await?;
        Ok(Greeting { agent: response.agent_id, software_version: response.software_version })
    }

    /// On the destination: asks the source agent for a login for the subscription, with a password made for
    /// this call. `system_identifier` is the destination cluster's own.
    pub async fn replication_access(&self, system_identifier: &str) -> Result<ReplicationAccess, Failure> {
        let request = v1::GetReplicationAccessRequest {
            migration_id: self.migration.to_string(),
            system_identifier: system_identifier.to_owned(),
        };
        let response = self.within(CALL_TIMEOUT, self.client.clone().get_replication_access(request)).await?;
        Ok(ReplicationAccess {
            role_name: response.role_name,
            password: Secret::new(response.password),
            database: response.database,
            publication_name: response.publication_name,
            slot_name: response.slot_name,
        })
    }

    /// On the destination: asks for the source's schema as an archive that a
    /// `pg_restore` of this version can read.
    pub async fn dump_schema(&self, pg_restore: ServerVersion) -> Result<ArchiveStream, Failure> {
        let request = v1::DumpSchemaRequest {
            migration_id: self.migration.to_string(),
            pg_restore_version_num: pg_restore.num(),
        };
        let messages = self.within(DUMP_TIMEOUT, self.client.clone().dump_schema(request)).await?;
        Ok(ArchiveStream::new(messages, &self.peer))
    }

    /// On the destination: lets the source agent send for a moment, and counts the bytes.
    async fn measure(&self) -> Result<Speeds, Failure> {
        let request = v1::MeasureLinkRequest { migration_id: self.migration.to_string() };
        let mut messages = self.within(CALL_TIMEOUT, self.client.clone().measure_link(request)).await?;
        let first = messages.message().await.map_err(from_status)?.unwrap_or_default();
        let (begin, mut bytes, mut end) = (self.clock.now(), 0, self.clock.now());
        let counting = async {
            while let Some(message) = messages.message().await.map_err(from_status)? {
                bytes += message.filler.len();
                end = self.clock.now();
            }
            Ok::<(), Failure>(())
        };
        // When a slow link has not delivered everything by then, the rest would say nothing new.
        if let Ok(counted) = self.clock.timeout(speed::NOISE_TIME * 2, counting).await {
            counted?;
        }
        let packing = u64::try_from(first.packed_bytes_per_second).unwrap_or(0);
        Ok(Speeds { link: speed::rate(bytes, end.duration_since(begin)), packing })
    }

    /// On the destination: opens a session of the source that answers questions about rows.
    pub async fn compare_rows(&self) -> Result<Questions, Failure> {
        use v1::compare_rows_request::Message;

        let (questions, asked) = mpsc::channel::<v1::CompareRowsRequest>(1);
        let first = v1::CompareRowsRequest { message: Some(Message::MigrationId(self.migration.to_string())) };
        let requests = tokio_stream::iter([first]).chain(ReceiverStream::new(asked));
        let answers = self.within(CALL_TIMEOUT, self.client.clone().compare_rows(requests)).await?;
        Ok(Questions::new(questions, answers, &self.peer))
    }

    /// On the source: asks the destination agent to report which heartbeats arrive.
    pub async fn watch_heartbeat(&self) -> Result<HeartbeatStream, Failure> {
        let request = v1::WatchHeartbeatRequest { migration_id: self.migration.to_string() };
        self.within(CALL_TIMEOUT, self.client.clone().watch_heartbeat(request)).await.map(HeartbeatStream::new)
    }

    /// On the source: asks the destination agent how a cutover in doubt ended. Asking again gives the same
    /// answer.
    ///
    /// # Errors
    ///
    /// What the destination reports, or [`Reason::PeerUnreachable`]: then the doubt stays.
    pub async fn resolve_cutover(&self, cutover_epoch: i64) -> Result<Resolution, Failure> {
        use v1::resolve_cutover_response::Resolution as Wire;

        let request = v1::ResolveCutoverRequest { migration_id: self.migration.to_string(), cutover_epoch };
        let response = self.within(CALL_TIMEOUT, self.client.clone().resolve_cutover(request)).await?;
        match response.resolution() {
            Wire::Opened => Ok(Resolution::Opened),
            Wire::WillNotOpen => Ok(Resolution::WillNotOpen),
            Wire::Unspecified => {
                Err(Failure::new(Reason::CutoverInDoubt, "the destination's agent gave no answer that is known here")
                    .hint("Run the same release on both agents.")
                    .effect(Effect::None))
            }
        }
    }

    /// Tells the other agent of a switchover what happens on this side. Returns whether clients of the
    /// other side's poolers wait. Telling it again does no harm.
    ///
    /// # Errors
    ///
    /// What the other agent reports, or [`Reason::PeerUnreachable`]: then the other agent may have heard it
    /// or not.
    pub async fn announce_cutover(&self, cutover_epoch: i64, announcement: Announcement) -> Result<bool, Failure> {
        use v1::announce_cutover_request::Announcement as Wire;

        let (wire, time_left) = match announcement {
            Announcement::LocksNext { time_left } => (Wire::LocksNext, prost_types::Duration::try_from(time_left).ok()),
            Announcement::GivenUp => (Wire::GivenUp, None),
            Announcement::Opened => (Wire::Opened, None),
        };
        let request = v1::AnnounceCutoverRequest {
            migration_id: self.migration.to_string(),
            cutover_epoch,
            announcement: wire.into(),
            time_left,
        };
        Ok(self.within(CALL_TIMEOUT, self.client.clone().announce_cutover(request)).await?.clients_wait)
    }

    /// On the destination: opens one connection to the source's server. Returns when the source agent has
    /// reached that server. The caller packs what its own server sends with the tunnel's packer.
    ///
    /// # Errors
    ///
    /// [`Reason::ServerUnreachable`] when the source agent does not reach its server,
    /// [`Reason::PeerUnreachable`] when this agent does not reach the source agent.
    pub async fn open_tunnel(&self, packing: Packing, traffic: Traffic) -> Result<Tunnel, Failure> {
        use v1::open_tunnel_request::Message;

        let (outbound, chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
        let first = v1::OpenTunnelRequest {
            message: Some(Message::MigrationId(self.migration.to_string())),
            compression: packing.to_wire().into(),
            zstd: false,
        };
        let requests =
            tokio_stream::iter([first]).chain(ReceiverStream::new(chunks).map(|chunk| v1::OpenTunnelRequest {
                message: Some(Message::Chunk(chunk.bytes)),
                compression: v1::Compression::Unspecified.into(),
                zstd: chunk.zstd,
            }));
        let mut client = self.client.clone();
        let opening = async move {
            let mut inbound = client.open_tunnel(requests).await?;
            // The first message is empty and says that the server was reached.
            match inbound.get_mut().message().await? {
                Some(_reached) => Ok(inbound),
                None => Err(tonic::Status::unavailable("the tunnel ended before it was open")),
            }
        };
        let inbound = self.within(CALL_TIMEOUT, opening).await?;
        Ok(Tunnel { outbound, inbound: TunnelStream::new(inbound), packer: Packer::new(packing, traffic) })
    }

    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        match self.clock.timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(from_status(status).with("peer", &self.peer)),
            Err(_) => Err(Failure::new(Reason::PeerUnreachable, format!("agent {} did not answer in time", self.peer))
                .detail(format!("No answer came within {} seconds.", limit.as_secs()))
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown)
                .with("peer", &self.peer)),
        }
    }
}
