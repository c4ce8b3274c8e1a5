//! Agents joined by a coordinator that does with their bytes what it likes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use pgportage_link::dial::{self, Way};
use pgportage_link::health as health_service;
use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::serve::{self, Entrance, Relayed, ServeSettings};
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Failure};
use pgportage_proto::v1::relay_service_server::{RelayService, RelayServiceServer};
use pgportage_proto::{Reason, v1};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::io::ReaderStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::fleet::{Fleet, health};
use super::{PATIENCE, assert_refused, id};

/// A coordinator in the middle: every relay that an agent opens or accepts is a
/// stream of bytes in the hands of the test.
struct Middle {
    address: String,
    identity: Identity,
    streams: mpsc::Receiver<DuplexStream>,
    _stop: DropGuard,
}

struct Front(mpsc::Sender<DuplexStream>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Front {
    async fn hand_over<T: Send + 'static>(
        &self,
        mut inbound: Streaming<T>,
        chunk: fn(T) -> Vec<u8>,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, Status>> + use<T>, Status> {
        inbound.message().await?;
        let (ours, theirs) = duplex(64 << 10);
        let (reader, mut writer) = split(ours);
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                if writer.write_all(&chunk(message)).await.is_err() {
                    return;
                }
            }
            // The test may have let go of it.
            drop(writer.shutdown().await);
        });
        self.0.send(theirs).await.unwrap();
        let lost = |error: std::io::Error| Status::unavailable(error.to_string());
        Ok(ReaderStream::new(reader).map_ok(|bytes| bytes.to_vec()).map_err(lost))
    }
}

#[tonic::async_trait]
impl RelayService for Front {
    type OpenRelayStream = Responses<v1::OpenRelayResponse>;

    async fn open_relay(
        &self,
        request: Request<Streaming<v1::OpenRelayRequest>>,
    ) -> Result<Response<Self::OpenRelayStream>, Status> {
        let chunk = |message: v1::OpenRelayRequest| match message.message {
            Some(v1::open_relay_request::Message::Chunk(chunk)) => chunk.to_vec(),
            other => panic!("not a chunk: {other:?}"),
        };
        let bytes = self.hand_over(request.into_inner(), chunk).await?;
        Ok(Response::new(Box::pin(bytes.map_ok(|chunk| v1::OpenRelayResponse { chunk: chunk.into() }))))
    }

    type AcceptRelayStream = Responses<v1::AcceptRelayResponse>;

    async fn accept_relay(
        &self,
        request: Request<Streaming<v1::AcceptRelayRequest>>,
    ) -> Result<Response<Self::AcceptRelayStream>, Status> {
        let chunk = |message: v1::AcceptRelayRequest| match message.message {
            Some(v1::accept_relay_request::Message::Chunk(chunk)) => chunk.to_vec(),
            other => panic!("not a chunk: {other:?}"),
        };
        let bytes = self.hand_over(request.into_inner(), chunk).await?;
        Ok(Response::new(Box::pin(bytes.map_ok(|chunk| v1::AcceptRelayResponse { chunk: chunk.into() }))))
    }
}

impl Middle {
    async fn start(fleet: &Fleet) -> Self {
        let identity = fleet.identity(Role::Coordinator, "main");
        let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, streams) = mpsc::channel(4);
        let routes = Routes::new(RelayServiceServer::new(Front(sender)));
        let stop = CancellationToken::new();
        let serving =
            serve::serve(listener, identity.clone(), ServeSettings::coordinator(), routes, CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { address, identity, streams, _stop: stop.drop_guard() }
    }

    fn relay(&self, identity: Identity) -> Relay {
        Relay::new(&self.address, "main", identity)
    }

    async fn stream(&mut self) -> DuplexStream {
        Clock.timeout(PATIENCE, self.streams.recv()).await.unwrap().unwrap()
    }

    /// Agent "a" on its way to agent "b", and the bytes of that way.
    async fn dialling(
        &mut self,
        identity: &Identity,
    ) -> (tokio::task::JoinHandle<Result<Channel, Failure>>, DuplexStream) {
        let identity = identity.clone();
        let way = Way::Relayed(Arc::new(self.relay(identity.clone())));
        let dialled = tokio::spawn(async move {
            let settings = Http2Settings::link();
            Ok(dial::channel_and_peer(way, &id(Role::Agent, "b"), &identity, &settings).await?.0)
        });
        (dialled, self.stream().await)
    }

    /// Agent "b", who lets "a" in by a relay, and the bytes of that way.
    async fn serving(&mut self, identity: &Identity) -> (DropGuard, DuplexStream) {
        let (entrance, relayed) = mpsc::channel(1);
        let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let (reporter, service) = health_service::service().await;
        reporter.serving().await;
        let stop = CancellationToken::new();
        let serving = serve::serve(
            Entrance::from(listener).and_relayed(relayed),
            identity.clone(),
            ServeSettings::link(),
            Routes::new(service),
            CancellationToken::new(),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        let transport = Box::new(self.relay(identity.clone()).accept("an id").await.unwrap());
        entrance.send(Relayed { transport, expected: id(Role::Agent, "a") }).await.unwrap();
        (stop.drop_guard(), self.stream().await)
    }
}

#[tokio::test]
async fn agents_speak_to_each_other_through_a_relay() {
    let fleet = Fleet::new();
    let mut middle = Middle::start(&fleet).await;
    let (dialled, mut near) = middle.dialling(&fleet.identity(Role::Agent, "a")).await;
    let (_serving, mut far) = middle.serving(&fleet.identity(Role::Agent, "b")).await;
    let carried = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    let channel = dialled.await.unwrap().unwrap();
    health(channel.clone()).await.unwrap();
    drop(channel);
    let (there, back) = Clock.timeout(PATIENCE, carried).await.unwrap().unwrap().unwrap_or((1, 1));
    assert!(there > 0 && back > 0);
}

#[tokio::test]
async fn whoever_answers_in_the_middle_is_refused_by_the_one_who_dials() {
    let fleet = Fleet::new();
    let mut middle = Middle::start(&fleet).await;
    let strangers = [middle.identity.clone(), fleet.identity(Role::Agent, "rome"), fleet.identity(Role::Operator, "b")];
    let dialling = fleet.identity(Role::Agent, "a");
    for stranger in strangers {
        let (dialled, near) = middle.dialling(&dialling).await;
        let shown = stranger.own().uri;
        let answered = TlsAcceptor::from(stranger.server_config()).accept(near).await;
        assert!(answered.is_err(), "{shown} was believed");
        let failure = dialled.await.unwrap().unwrap_err();
        assert_refused(&failure, Reason::WrongName, &shown);
        assert_eq!(failure.message, "could not connect to agent \"b\" through the coordinator");
    }
}

#[tokio::test]
async fn whoever_dials_from_the_middle_is_refused_by_the_one_who_answers() {
    let fleet = Fleet::new();
    let mut middle = Middle::start(&fleet).await;
    let callers = [
        (middle.identity.clone(), false),
        (fleet.identity(Role::Agent, "rome"), false),
        (fleet.identity(Role::Operator, "a"), false),
        (fleet.identity(Role::Agent, "a"), true),
    ];
    let serving = fleet.identity(Role::Agent, "b");
    for (caller, welcome) in callers {
        let (_serving, far) = middle.serving(&serving).await;
        let config = caller.client_config(&id(Role::Agent, "b")).unwrap();
        let name = ServerName::try_from("x.invalid").unwrap();
        let mut tls = TlsConnector::from(config).connect(name, far).await.unwrap();
        // An HTTP/2 server speaks first to whom it lets in.
        let heard = Clock.timeout(PATIENCE, tls.read(&mut [0; 1])).await.unwrap();
        assert_eq!(heard.is_ok_and(|count| count > 0), welcome, "{}", caller.own().uri);
    }
}

#[tokio::test]
async fn a_relay_that_breaks_ends_what_runs_through_it() {
    let fleet = Fleet::new();
    let mut middle = Middle::start(&fleet).await;
    let (dialled, near) = middle.dialling(&fleet.identity(Role::Agent, "a")).await;
    drop(near);
    let failure = Clock.timeout(PATIENCE, dialled).await.unwrap().unwrap().unwrap_err();
    assert_refused(&failure, Reason::PeerUnreachable, "ended before it was ready");
}
