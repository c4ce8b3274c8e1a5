//! The coordinator's end of relays.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use pgportage_link::status::to_status;
use pgportage_link::{Clock, Remedy};
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::relay_service_server::RelayService;
use pgportage_proto::{Reason, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::caller;
use crate::engine::Engine;
use crate::message::refusal;
use crate::metrics::Figures;
use crate::relay::{CHUNKS_WAITING, Exchange, Inbound, Leg, Place, carry, unavailable};

/// How long the first message of a stream may take.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(5);

/// The service for agents that cannot dial each other. Relays until `stop`.
#[derive(Clone, Debug)]
pub(crate) struct RelayFront {
    pub engine: Engine,
    pub exchange: Exchange,
    pub figures: Figures,
    pub clock: Clock,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

type Responses<T> = BoxStream<'static, Result<T, Status>>;

impl RelayFront {
    async fn first<T>(&self, inbound: &mut Streaming<T>) -> Result<T, Status> {
        let first = self.clock.timeout(FIRST_MESSAGE_LIMIT, inbound.message()).await;
        first.ok().transpose()?.flatten().ok_or_else(|| invalid("the first message of a relay did not come"))
    }

    /// Carries a relay to its end, which no later than the agents' last common
    /// migration is.
    async fn run(self, asker: String, acceptor: String, near: Leg, far: Leg, place: Place) {
        let over = async {
            while let Some(mut migration) = self.engine.shared_migration(&asker, &acceptor) {
                // An error means that the coordinator ends.
                if migration.wait_for(|overview| overview.state.terminal()).await.is_err() {
                    return;
                }
            }
        };
        tracing::info!("a relay was opened");
        self.figures.relay(true);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => tracing::info!("a relay was closed: the coordinator stops"),
            () = over => tracing::info!("a relay was closed: its agents have no migration in common any more"),
            outcome = carry(near, far, |bytes| self.figures.relayed(bytes)) => match outcome {
                Ok(carried) => tracing::info!(?carried, "a relay has ended"),
                Err(status) => tracing::info!(reason = status.message(), "a relay broke"),
            },
        }
        self.figures.relay(false);
        drop(place);
    }
}

#[tonic::async_trait]
impl RelayService for RelayFront {
    type OpenRelayStream = Responses<v1::OpenRelayResponse>;

    async fn open_relay(
        &self,
        request: Request<Streaming<v1::OpenRelayRequest>>,
    ) -> Result<Response<Self::OpenRelayStream>, Status> {
        use v1::open_relay_request::Message;

        let asker = caller(&request)?.name;
        let mut inbound = request.into_inner();
        let Some(Message::PeerAgentId(acceptor)) = self.first(&mut inbound).await?.message else {
            return Err(invalid("the first message of a relay must name the other agent"));
        };
        if self.engine.shared_migration(&asker, &acceptor).is_none() {
            tracing::warn!(agent.id = asker, peer = acceptor, "refused a relay");
            return Err(to_status(
                refusal(Reason::PeerRefused, "the coordinator knows no migration of these two agents")
                    .detail("Agents are relayed to each other while they have a migration that is not over."),
            ));
        }
        let offer = self.exchange.offer(&asker, &acceptor).map_err(to_status)?;
        if !self.engine.fleet().attached(&acceptor) {
            return Err(to_status(unavailable(&format!("agent {acceptor} is not attached to the coordinator"))));
        }
        self.engine.fleet().tell(
            &acceptor,
            Down::RelayOffer(v1::RelayOffer { relay_id: offer.id.to_string(), peer_agent_id: asker.clone() }),
        );
        let (far, place) = offer.accepted().await.map_err(to_status)?;
        let chunks = inbound.map(|request| match request?.message {
            Some(Message::Chunk(chunk)) => Ok(chunk),
            Some(Message::PeerAgentId(_)) | None => Err(invalid("a message of a relay that is no chunk")),
        });
        let (near, outbound) = leg(chunks.boxed());
        let span = tracing::info_span!("relay", agent.id = asker, peer = acceptor);
        self.tasks.spawn(self.clone().run(asker, acceptor, near, far, place).instrument(span));
        let responses = outbound.map(|chunk| chunk.map(|chunk| v1::OpenRelayResponse { chunk }));
        Ok(Response::new(responses.boxed()))
    }

    type AcceptRelayStream = Responses<v1::AcceptRelayResponse>;

    async fn accept_relay(
        &self,
        request: Request<Streaming<v1::AcceptRelayRequest>>,
    ) -> Result<Response<Self::AcceptRelayStream>, Status> {
        use v1::accept_relay_request::Message;

        let acceptor = caller(&request)?.name;
        let mut inbound = request.into_inner();
        let Some(Message::RelayId(id)) = self.first(&mut inbound).await?.message else {
            return Err(invalid("the first message of a relay must name it"));
        };
        let chunks = inbound.map(|request| match request?.message {
            Some(Message::Chunk(chunk)) => Ok(chunk),
            Some(Message::RelayId(_)) | None => Err(invalid("a message of a relay that is no chunk")),
        });
        let (leg, outbound) = leg(chunks.boxed());
        self.exchange.accept(&id, &acceptor, leg).map_err(|failure| {
            tracing::warn!(agent.id = acceptor, relay.id = id, "refused to join a relay");
            to_status(failure)
        })?;
        let responses = outbound.map(|chunk| chunk.map(|chunk| v1::AcceptRelayResponse { chunk }));
        Ok(Response::new(responses.boxed()))
    }
}

fn leg(inbound: Inbound) -> (Leg, ReceiverStream<Result<Bytes, Status>>) {
    let (outbound, chunks) = mpsc::channel(CHUNKS_WAITING);
    (Leg { inbound, outbound }, ReceiverStream::new(chunks))
}

fn invalid(message: &str) -> Status {
    to_status(refusal(Reason::RequestInvalid, message).remedy(Remedy::Operator))
}
