//! A coordinator's front that reads along: it stands between the agents and the
//! coordinator with the coordinator's certificate, takes part in every call and
//! writes down what it is told.
//!
//! Only who holds every key of a fleet can do that, as a test does. It sees what
//! the coordinator sees: the messages of sessions and relays, free of the TLS
//! around them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use futures_util::{Stream, StreamExt};
use pgportage_link::http2::{FACT_MESSAGE_BYTES, Http2Settings};
use pgportage_link::identity::{PeerIdentity, Role};
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::tls::{Identity, issued_paths};
use pgportage_link::{Clock, dial};
use pgportage_proto::v1;
use pgportage_proto::v1::relay_service_client::RelayServiceClient;
use pgportage_proto::v1::relay_service_server::{RelayService, RelayServiceServer};
use pgportage_proto::v1::session_service_client::SessionServiceClient;
use pgportage_proto::v1::session_service_server::{SessionService, SessionServiceServer};
use prost::Message;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// One agent's end of one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayRecord {
    /// Whether this agent asked for it; else it accepted.
    pub asked: bool,
    /// Bytes from the agent.
    pub from_agent: Vec<u8>,
    /// Bytes to the agent.
    pub to_agent: Vec<u8>,
}

/// Everything that was said.
#[derive(Debug, Default)]
pub struct Record {
    /// Messages of sessions, both ways.
    pub sessions: Vec<u8>,
    /// Every end of every relay.
    pub relays: Vec<RelayRecord>,
}

/// The front. Ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Wiretap {
    /// Where agents call.
    pub port: u16,
    record: Arc<Mutex<Record>>,
    _stop: DropGuard,
}

impl Wiretap {
    /// Stands before the coordinator at `address`, with the keys in
    /// `certificates`.
    ///
    /// # Errors
    ///
    /// When a certificate is missing or no port can be had.
    pub async fn start(address: &str, certificates: &Path) -> Result<Self> {
        let identity = load(certificates, Role::Coordinator, "control")?;
        let listener = serve::bind(([127, 0, 0, 1], 0).into()).await?;
        let port = listener.local_addr()?.port();
        let record = Arc::new(Mutex::new(Record::default()));
        let front = Front {
            address: address.to_owned(),
            certificates: certificates.to_owned(),
            identities: Arc::default(),
            record: Arc::clone(&record),
        };
        let mut routes = Routes::builder();
        routes
            .add_service(SessionServiceServer::new(front.clone()).max_decoding_message_size(FACT_MESSAGE_BYTES))
            .add_service(RelayServiceServer::new(front));
        let stop = CancellationToken::new();
        let serving =
            serve::serve(listener, identity, ServeSettings::coordinator(), routes.routes(), CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Ok(Self { port, record, _stop: stop.drop_guard() })
    }

    /// What was said so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(certificates: &Path, role: Role, name: &str) -> Result<Identity> {
    let paths = issued_paths(certificates, role, name);
    Identity::load(&paths, Clock).with_context(|| format!("the certificate of {role} {name}"))
}

#[derive(Clone)]
struct Front {
    address: String,
    certificates: PathBuf,
    identities: Arc<Mutex<HashMap<String, Identity>>>,
    record: Arc<Mutex<Record>>,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Front {
    /// A connection to the real coordinator in the caller's name.
    async fn as_caller<T>(&self, request: &Request<T>) -> Result<Channel, Status> {
        let caller = request
            .extensions()
            .get::<PeerIdentity>()
            .ok_or_else(|| Status::unauthenticated("no identity"))?
            .name
            .clone();
        let known = lock(&self.identities).get(&caller).cloned();
        let identity = match known {
            Some(identity) => identity,
            None => {
                load(&self.certificates, Role::Agent, &caller).map_err(|error| Status::internal(error.to_string()))?
            }
        };
        lock(&self.identities).insert(caller, identity.clone());
        let expected =
            identity.id_of(Role::Coordinator, "control").map_err(|failure| Status::internal(failure.message))?;
        dial::channel(&self.address, &expected, &identity, &Http2Settings::link())
            .await
            .map_err(|failure| Status::unavailable(failure.message))
    }

    fn begin_relay(&self, asked: bool) -> usize {
        let mut record = lock(&self.record);
        record.relays.push(RelayRecord { asked, ..RelayRecord::default() });
        record.relays.len() - 1
    }

    fn said<T: Message + 'static>(&self) -> impl Fn(&T) + Send + use<T> {
        let record = Arc::clone(&self.record);
        move |message| lock(&record).sessions.extend(message.encode_to_vec())
    }

    fn relayed<T: Piece>(
        &self,
        relay: usize,
        part: fn(&mut RelayRecord) -> &mut Vec<u8>,
    ) -> impl Fn(&T) + Send + use<T> {
        let record = Arc::clone(&self.record);
        move |message| part(&mut lock(&record).relays[relay]).extend(message.bytes())
    }
}

/// A message that carries bytes of a relay, or none.
trait Piece {
    fn bytes(&self) -> &[u8];
}

impl Piece for v1::OpenRelayRequest {
    fn bytes(&self) -> &[u8] {
        match &self.message {
            Some(v1::open_relay_request::Message::Chunk(chunk)) => chunk,
            Some(v1::open_relay_request::Message::PeerAgentId(_)) | None => &[],
        }
    }
}

impl Piece for v1::OpenRelayResponse {
    fn bytes(&self) -> &[u8] {
        &self.chunk
    }
}

impl Piece for v1::AcceptRelayRequest {
    fn bytes(&self) -> &[u8] {
        match &self.message {
            Some(v1::accept_relay_request::Message::Chunk(chunk)) => chunk,
            Some(v1::accept_relay_request::Message::RelayId(_)) | None => &[],
        }
    }
}

impl Piece for v1::AcceptRelayResponse {
    fn bytes(&self) -> &[u8] {
        &self.chunk
    }
}

/// Passes requests on. One that breaks ends in order: the caller is gone.
fn requests<T: Send + 'static>(
    inbound: Streaming<T>,
    note: impl Fn(&T) + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    inbound.filter_map(async |message| message.ok()).inspect(note)
}

fn responses<T: Send + 'static>(inbound: Streaming<T>, note: impl Fn(&T) + Send + 'static) -> Messages<T> {
    Box::pin(inbound.inspect(move |message| {
        if let Ok(message) = message {
            note(message);
        }
    }))
}

#[tonic::async_trait]
impl SessionService for Front {
    type AttachAgentStream = Messages<v1::AttachAgentResponse>;

    async fn attach_agent(
        &self,
        request: Request<Streaming<v1::AttachAgentRequest>>,
    ) -> Result<Response<Self::AttachAgentStream>, Status> {
        let mut client =
            SessionServiceClient::new(self.as_caller(&request).await?).max_encoding_message_size(FACT_MESSAGE_BYTES);
        let inbound = client.attach_agent(requests(request.into_inner(), self.said())).await?.into_inner();
        Ok(Response::new(responses(inbound, self.said())))
    }
}

#[tonic::async_trait]
impl RelayService for Front {
    type OpenRelayStream = Messages<v1::OpenRelayResponse>;

    async fn open_relay(
        &self,
        request: Request<Streaming<v1::OpenRelayRequest>>,
    ) -> Result<Response<Self::OpenRelayStream>, Status> {
        let mut client = RelayServiceClient::new(self.as_caller(&request).await?);
        let relay = self.begin_relay(true);
        let from_agent = self.relayed(relay, |relay| &mut relay.from_agent);
        let inbound = client.open_relay(requests(request.into_inner(), from_agent)).await?.into_inner();
        Ok(Response::new(responses(inbound, self.relayed(relay, |relay| &mut relay.to_agent))))
    }

    type AcceptRelayStream = Messages<v1::AcceptRelayResponse>;

    async fn accept_relay(
        &self,
        request: Request<Streaming<v1::AcceptRelayRequest>>,
    ) -> Result<Response<Self::AcceptRelayStream>, Status> {
        let mut client = RelayServiceClient::new(self.as_caller(&request).await?);
        let relay = self.begin_relay(false);
        let from_agent = self.relayed(relay, |relay| &mut relay.from_agent);
        let inbound = client.accept_relay(requests(request.into_inner(), from_agent)).await?.into_inner();
        Ok(Response::new(responses(inbound, self.relayed(relay, |relay| &mut relay.to_agent))))
    }
}
