//! Answering the other agent.
//!
//! **Invariant:** every method first makes sure that the caller's certificate names the other agent of the
//! migration in *this* agent's journal, and that this agent has the side that the method belongs to. Any
//! other caller gets the same answer whether or not the migration exists.

mod compare;
mod dump;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use pgportage_data_plane::drift;
use pgportage_data_plane::peer::{
    Announcement, CHUNKS_WAITING, Chunk, Packer, Packing, Resolution, carry, decode_held_point, decode_range,
    encode_conditions, encode_listing, encode_piece, encode_snapshot_table, make_noise, packing_speed,
};
use pgportage_data_plane::snapshot::Piece;
use pgportage_data_plane::statistics;
use pgportage_link::http2::FACT_MESSAGE_BYTES;
use pgportage_link::identity::{PeerIdentity, Role};
use pgportage_link::status::to_status;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_postgres::RelationName;
use pgportage_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use pgportage_proto::{MigrationId, Reason, Side, v1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::act::Handles;
use crate::policy::DestructiveAct;

/// How long the first message of a tunnel may take.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long this agent's own server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the calls of other agents.
#[derive(Clone, Debug)]
pub struct Service {
    handles: Handles,
    dumps: Arc<Semaphore>,
    measurements: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    tunnels: Arc<Semaphore>,
}

pub(crate) fn service(handles: Handles) -> PeerServiceServer<Service> {
    // A reader that waited for a session of the budget would fail in the end; the other agent tries again
    // when its reader is refused.
    let readers = usize::from(handles.settings.postgres.max_sessions).saturating_sub(SPARE_SESSIONS).max(1);
    let [dumps, measurements, readers, tunnels] =
        [DUMPS, MEASUREMENTS, readers, TUNNELS].map(|most| Arc::new(Semaphore::new(most)));
    PeerServiceServer::new(Service { handles, dumps, measurements, readers, tunnels })
        .max_decoding_message_size(FACT_MESSAGE_BYTES)
}

/// Most dumps at a time, of all migrations: each costs this machine a process and the server a session. A
/// caller beyond that is asked to try again.
const DUMPS: usize = 8;
/// One measurement of the link at a time, of all migrations: two would measure each other.
const MEASUREMENTS: usize = 1;
/// Sessions of the agent's budget that are not for reading ranges. The others limit how many ranges are
/// read at a time, of all migrations.
const SPARE_SESSIONS: usize = 6;
/// Most tunnels at a time, of all migrations: each costs this machine a few file
/// descriptors and the server a session.
const TUNNELS: usize = 256;

type Answer<T> = Result<Response<T>, Status>;
type StreamOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// The migration whose other agent is the caller.
    fn authorise(
        &self,
        caller: Option<&PeerIdentity>,
        migration: &str,
        side: Option<Side>,
    ) -> Result<Participation, Failure> {
        let caller = caller.ok_or_else(refused)?;
        // A malformed name is that of no migration.
        let migration = MigrationId::new(migration).map_err(|_| refused())?;
        let participation = self.handles.journal.participation(&migration)?;
        let Some(participation) = participation.filter(|known| caller.role == Role::Agent && known.peer == caller.name)
        else {
            tracing::warn!(peer = %caller.uri, migration.id = %migration, "refused a call over the link");
            return Err(refused());
        };
        if side.is_some_and(|side| side != participation.side) {
            return Err(Failure::new(
                Reason::PeerRefused,
                format!("this agent is the {} of migration {migration}", participation.side),
            )
            .hint("The two agents disagree about their sides: abort the migration and create it again.")
            .effect(Effect::None));
        }
        Ok(participation)
    }

    /// As [`Self::authorise`], for calls of the subscriber's agent about what this side publishes. That is
    /// the destination agent, or for the way back the source agent, if this agent's owner allows a way
    /// back.
    fn authorise_follower(&self, caller: Option<&PeerIdentity>, migration: &str) -> Result<Participation, Failure> {
        self.authorise_stream(caller, migration, Side::Destination)
    }

    /// As [`Self::authorise`], for calls of the publisher's agent about what this side follows.
    fn authorise_publisher(&self, caller: Option<&PeerIdentity>, migration: &str) -> Result<Participation, Failure> {
        self.authorise_stream(caller, migration, Side::Source)
    }

    /// `back`: the side on which the method belongs to the way back.
    fn authorise_stream(
        &self,
        caller: Option<&PeerIdentity>,
        migration: &str,
        back: Side,
    ) -> Result<Participation, Failure> {
        let participation = self.authorise(caller, migration, None)?;
        if participation.side == back && !self.handles.policy.destructive().allows(DestructiveAct::WayBack) {
            let message = format!("the policy of the {back}'s agent does not allow a way back");
            return Err(Failure::new(Reason::PeerRefused, message)
                .hint("Set `way_back = true` under [destructive] in its policy, then restart it.")
                .effect(Effect::None));
        }
        Ok(participation)
    }

    fn permit(&self, of: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(of).try_acquire_owned().map_err(|_| {
            Failure::new(Reason::PeerUnreachable, format!("this agent serves no more {what} at the moment"))
                .remedy(Remedy::Wait)
                .effect(Effect::None)
        })
    }
}

/// The one answer to every caller that is not the other agent of a migration.
fn refused() -> Failure {
    Failure::new(Reason::PeerRefused, "this agent does not know you as the other agent of this migration")
        .hint("Check that the migration is known to both agents and names the right ones.")
        .effect(Effect::None)
}

#[tonic::async_trait]
impl PeerService for Service {
    async fn greet_peer(&self, request: Request<v1::GreetPeerRequest>) -> Answer<v1::GreetPeerResponse> {
        self.authorise(request.extensions().get(), &request.get_ref().migration_id, None).map_err(to_status)?;
        Ok(Response::new(v1::GreetPeerResponse {
            agent_id: self.handles.settings.name.clone(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_replication_access(
        &self,
        request: Request<v1::GetReplicationAccessRequest>,
    ) -> Answer<v1::GetReplicationAccessResponse> {
        let message = request.get_ref();
        let participation =
            self.authorise_follower(request.extensions().get(), &message.migration_id).map_err(to_status)?;
        let access = self.handles.roles.access(&participation, &message.system_identifier).await.map_err(to_status)?;
        tracing::info!(
            migration.id = %participation.migration,
            role = access.role_name,
            peer = participation.peer,
            "handed a login for its subscription to the other agent"
        );
        Ok(Response::new(v1::GetReplicationAccessResponse {
            role_name: access.role_name,
            password: access.password.expose().to_owned(),
            database: access.database,
            publication_name: access.publication_name,
            slot_name: access.slot_name,
        }))
    }

    type DumpSchemaStream = StreamOf<v1::DumpSchemaResponse>;

    async fn dump_schema(&self, request: Request<v1::DumpSchemaRequest>) -> Answer<Self::DumpSchemaStream> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, Some(Side::Source)).map_err(to_status)?;
        let restore_major = message.pg_restore_version_num / 10_000;
        let permit = self.permit(&self.dumps, "dumps").map_err(to_status)?;
        let pieces =
            dump::start(&self.handles, permit, &participation.database, restore_major).await.map_err(to_status)?;
        let stream = ReceiverStream::new(pieces).map(|piece| {
            let message = |piece: Option<Bytes>| v1::DumpSchemaResponse {
                complete: piece.is_none(),
                chunk: piece.unwrap_or_default(),
            };
            piece.map(message).map_err(to_status)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    type MeasureLinkStream = StreamOf<v1::MeasureLinkResponse>;

    async fn measure_link(&self, request: Request<v1::MeasureLinkRequest>) -> Answer<Self::MeasureLinkStream> {
        self.authorise(request.extensions().get(), &request.get_ref().migration_id, Some(Side::Source))
            .map_err(to_status)?;
        let permit = self.permit(&self.measurements, "measurements").map_err(to_status)?;
        let clock = self.handles.tasks.clock;
        // Keeps a core busy for twenty milliseconds: not one of those that serve other calls.
        let packing = tokio::task::spawn_blocking(move || packing_speed(clock)).await.unwrap_or(0);
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
        self.handles.tasks.spawn(async move {
            let _permit = permit;
            make_noise(clock, chunks).await;
        });
        let first = v1::MeasureLinkResponse {
            filler: Bytes::new(),
            packed_bytes_per_second: i64::try_from(packing).unwrap_or(i64::MAX),
        };
        let noise =
            ReceiverStream::new(waiting).map(|filler| v1::MeasureLinkResponse { filler, packed_bytes_per_second: 0 });
        Ok(Response::new(Box::pin(tokio_stream::iter([first]).chain(noise).map(Ok))))
    }

    async fn open_snapshot(&self, request: Request<v1::OpenSnapshotRequest>) -> Answer<v1::OpenSnapshotResponse> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, Some(Side::Source)).map_err(to_status)?;
        let held = decode_held_point(&message.held_point).map_err(to_status)?;
        let opened = self.handles.snapshots.open(&participation, held).await.map_err(to_status)?;
        Ok(Response::new(v1::OpenSnapshotResponse {
            consistent_point: opened.snapshot.consistent_point.clone(),
            tables: opened.tables().map(|(table, change)| encode_snapshot_table(table, change)).collect(),
        }))
    }

    type CopyRangeStream = StreamOf<v1::CopyRangeResponse>;

    async fn copy_range(&self, request: Request<v1::CopyRangeRequest>) -> Answer<Self::CopyRangeStream> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, Some(Side::Source)).map_err(to_status)?;
        let permit = self.permit(&self.readers, "readers").map_err(to_status)?;
        let snapshot =
            self.handles.snapshots.get(&participation.migration, &message.consistent_point).await.map_err(to_status)?;
        let packer = Packer::new(Packing::from_wire(message.compression()), self.handles.traffic.rows());
        let range = decode_range(request.into_inner()).map_err(to_status)?;
        let pieces = snapshot.read(range, packer).await.map_err(to_status)?;
        let stream = ReceiverStream::new(pieces).map(move |piece| {
            // Released with the stream.
            let _permit = &permit;
            let message = |piece| match piece {
                Piece::Rows(Chunk { bytes, zstd }) => v1::CopyRangeResponse { chunk: bytes, complete: false, zstd },
                Piece::Complete => v1::CopyRangeResponse { chunk: Bytes::new(), complete: true, zstd: false },
            };
            piece.map(message).map_err(to_status)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn release_snapshot(
        &self,
        request: Request<v1::ReleaseSnapshotRequest>,
    ) -> Answer<v1::ReleaseSnapshotResponse> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, Some(Side::Source)).map_err(to_status)?;
        self.handles.snapshots.release(&participation.migration, &message.consistent_point).await.map_err(to_status)?;
        Ok(Response::new(v1::ReleaseSnapshotResponse {}))
    }

    type ReadStatisticsStream = StreamOf<v1::ReadStatisticsResponse>;

    async fn read_statistics(&self, request: Request<v1::ReadStatisticsRequest>) -> Answer<Self::ReadStatisticsStream> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, Some(Side::Source)).map_err(to_status)?;
        let permit = self.permit(&self.readers, "readers").map_err(to_status)?;
        let packer = Packer::new(Packing::from_wire(message.compression()), self.handles.traffic.rows());
        let tables: Vec<_> = request.into_inner().tables.into_iter().map(RelationName::from).collect();
        let reading =
            statistics::read(&self.handles.door, &self.handles.tasks, &participation, &tables, permit, packer)
                .await
                .map_err(to_status)?;
        let first = tokio_stream::iter([Ok(encode_conditions(&reading.conditions))]);
        let pieces = ReceiverStream::new(reading.pieces).map(|piece| piece.map(encode_piece).map_err(to_status));
        Ok(Response::new(Box::pin(first.chain(pieces))))
    }

    type CompareRowsStream = StreamOf<v1::CompareRowsResponse>;

    async fn compare_rows(
        &self,
        request: Request<Streaming<v1::CompareRowsRequest>>,
    ) -> Answer<Self::CompareRowsStream> {
        use v1::compare_rows_request::Message;

        let caller = request.extensions().get::<PeerIdentity>().cloned();
        let mut questions = request.into_inner();
        let first = self
            .handles
            .tasks
            .clock
            .timeout(FIRST_MESSAGE_TIMEOUT, questions.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
        let Some(v1::CompareRowsRequest { message: Some(Message::MigrationId(migration)) }) = first else {
            return Err(to_status(
                Failure::new(Reason::RequestInvalid, "the first message of a comparison must name its migration")
                    .effect(Effect::None)
                    .with("field", "migration_id"),
            ));
        };
        let participation = self.authorise_follower(caller.as_ref(), &migration).map_err(to_status)?;
        let permit = self.permit(&self.readers, "readers").map_err(to_status)?;
        let (answers, waiting) = mpsc::channel(1);
        let handles = self.handles.clone();
        self.handles.tasks.spawn(async move {
            let _permit = permit;
            compare::answer(handles, participation, questions, answers).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    type OpenTunnelStream = StreamOf<v1::OpenTunnelResponse>;

    async fn open_tunnel(&self, request: Request<Streaming<v1::OpenTunnelRequest>>) -> Answer<Self::OpenTunnelStream> {
        use v1::open_tunnel_request::Message;

        let caller = request.extensions().get::<PeerIdentity>().cloned();
        let mut inbound = request.into_inner();
        let first = self
            .handles
            .tasks
            .clock
            .timeout(FIRST_MESSAGE_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
        let Some(v1::OpenTunnelRequest { message: Some(Message::MigrationId(migration)), compression, .. }) = first
        else {
            return Err(to_status(
                Failure::new(Reason::RequestInvalid, "the first message of a tunnel must name its migration")
                    .effect(Effect::None)
                    .with("field", "migration_id"),
            ));
        };
        let participation = self.authorise_follower(caller.as_ref(), &migration).map_err(to_status)?;
        let permit = self.permit(&self.tunnels, "tunnels").map_err(to_status)?;
        let address = &self.handles.settings.postgres.replication_address;
        let server = self.handles.tasks.clock.timeout(CONNECT_TIMEOUT, connect(address)).await;
        let unreachable = |text: String| {
            to_status(
                Failure::new(
                    Reason::ServerUnreachable,
                    format!("the {} server does not answer at {address}", participation.side),
                )
                .detail(format!("{text}."))
                .hint("Check `postgres.replication_address` in agent.toml on that machine.")
                .remedy(Remedy::Wait)
                .effect(Effect::None),
            )
        };
        let (reader, writer) = match server {
            Ok(Ok(halves)) => halves,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("No answer within {} seconds", CONNECT_TIMEOUT.as_secs()))),
        };
        let chunks = inbound.map(|item| match item {
            Ok(v1::OpenTunnelRequest { message: Some(Message::Chunk(bytes)), zstd, .. }) => Ok(Chunk { bytes, zstd }),
            Ok(_) => Err("a message that is no chunk".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        });
        let (outbound, waiting) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
        // A compression that this release does not know is not used.
        let packing = Packing::from_wire(v1::Compression::try_from(compression).unwrap_or_default());
        let packer = Packer::new(packing, self.handles.traffic.tunnel());
        let stop = self.handles.tasks.stop.clone();
        self.handles.tasks.spawn(async move {
            let _permit = permit;
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = carry(reader, writer, chunks, outbound, packer) => outcome,
            };
            match outcome {
                Ok(carried) => tracing::debug!(migration.id = %participation.migration, ?carried, "a tunnel ended"),
                Err(error) => tracing::debug!(migration.id = %participation.migration, %error, "a tunnel broke"),
            }
        });
        let reached = tokio_stream::iter([Chunk::default()]);
        let stream = reached
            .chain(ReceiverStream::new(waiting))
            .map(|Chunk { bytes, zstd }| Ok(v1::OpenTunnelResponse { chunk: bytes, zstd }));
        Ok(Response::new(Box::pin(stream)))
    }

    type WatchHeartbeatStream = StreamOf<v1::WatchHeartbeatResponse>;

    async fn watch_heartbeat(&self, request: Request<v1::WatchHeartbeatRequest>) -> Answer<Self::WatchHeartbeatStream> {
        let participation =
            self.authorise_publisher(request.extensions().get(), &request.get_ref().migration_id).map_err(to_status)?;
        let numbers =
            pgportage_data_plane::heartbeat::arrivals(&self.handles.door, &self.handles.tasks, &participation);
        let stream = numbers.map(|sequence| Ok(v1::WatchHeartbeatResponse { sequence }));
        Ok(Response::new(Box::pin(stream)))
    }

    type WatchSchemaStream = StreamOf<v1::WatchSchemaResponse>;

    async fn watch_schema(&self, request: Request<v1::WatchSchemaRequest>) -> Answer<Self::WatchSchemaStream> {
        let participation =
            self.authorise_follower(request.extensions().get(), &request.get_ref().migration_id).map_err(to_status)?;
        let listings = drift::published(&self.handles.door, &self.handles.tasks, &participation);
        let stream = listings.flat_map(|listing| tokio_stream::iter(encode_listing(listing)));
        Ok(Response::new(Box::pin(stream)))
    }

    type DefineObjectsStream = StreamOf<v1::DefineObjectsResponse>;

    /// Answers with nothing: agents of the previous release ask for definitions, and go on without them,
    /// naming what differs.
    async fn define_objects(&self, request: Request<v1::DefineObjectsRequest>) -> Answer<Self::DefineObjectsStream> {
        self.authorise_follower(request.extensions().get(), &request.get_ref().migration_id).map_err(to_status)?;
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    async fn resolve_cutover(&self, request: Request<v1::ResolveCutoverRequest>) -> Answer<v1::ResolveCutoverResponse> {
        use v1::resolve_cutover_response::Resolution as Wire;

        let message = request.get_ref();
        let participation =
            self.authorise_publisher(request.extensions().get(), &message.migration_id).map_err(to_status)?;
        let resolution =
            self.handles.switchovers.resolve(&participation, message.cutover_epoch).await.map_err(to_status)?;
        let resolution = match resolution {
            Resolution::Opened => Wire::Opened,
            Resolution::WillNotOpen => Wire::WillNotOpen,
        };
        Ok(Response::new(v1::ResolveCutoverResponse { resolution: resolution.into() }))
    }

    async fn announce_cutover(
        &self,
        request: Request<v1::AnnounceCutoverRequest>,
    ) -> Answer<v1::AnnounceCutoverResponse> {
        let message = request.get_ref();
        let participation =
            self.authorise(request.extensions().get(), &message.migration_id, None).map_err(to_status)?;
        let announcement = decode_announcement(message).map_err(to_status)?;
        let clients_wait = self
            .handles
            .switchovers
            .on_announcement(&participation, message.cutover_epoch, announcement)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::AnnounceCutoverResponse { clients_wait }))
    }
}

fn decode_announcement(message: &v1::AnnounceCutoverRequest) -> Result<Announcement, Failure> {
    use v1::announce_cutover_request::Announcement as Wire;

    let invalid = |field| {
        Failure::new(Reason::RequestInvalid, "the other agent announces something that is not known here")
            .hint("Run the same release on both agents.")
            .effect(Effect::None)
            .with("field", field)
    };
    match message.announcement() {
        Wire::LocksNext => {
            let left = message.time_left.and_then(|left| Duration::try_from(left).ok());
            Ok(Announcement::LocksNext { time_left: left.ok_or_else(|| invalid("time_left"))? })
        }
        Wire::GivenUp => Ok(Announcement::GivenUp),
        Wire::Opened => Ok(Announcement::Opened),
        Wire::Unspecified => Err(invalid("announcement")),
    }
}

type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Connects to `host:port` or, when the host is a directory, to the Unix socket
/// in it.
async fn connect(address: &str) -> std::io::Result<Halves> {
    if let Some((directory, port)) = address.rsplit_once(':').filter(|(host, _)| host.starts_with('/')) {
        let (reader, writer) = UnixStream::connect(format!("{directory}/.s.PGSQL.{port}")).await?.into_split();
        return Ok((Box::new(reader), Box::new(writer)));
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((Box::new(reader), Box::new(writer)))
}
