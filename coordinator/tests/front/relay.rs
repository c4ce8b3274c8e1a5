//! Relays: who gets one, who joins one, and that agents reach each other by
//! them and nobody else does.

use std::net::SocketAddr;
use std::time::Duration;

use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::status::from_status;
use pgportage_link::{Clock, Failure, Remedy};
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::relay_service_client::RelayServiceClient;
use pgportage_proto::{Reason, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::house::{House, Operator, PATIENCE, Run};
use crate::scripted::Scripted;

fn relay(house: &House, address: SocketAddr, agent: &str) -> Relay {
    Relay::new(&address.to_string(), "control", house.identity(Role::Agent, agent))
}

/// A coordinator, both agents attached, and a migration that is not over.
async fn migrating(house: &House) -> (Run, Operator, Scripted, Scripted) {
    let run = house.start().await;
    let (berlin, _) = Scripted::attach(house, run.address, "berlin").await;
    let (oslo, _) = Scripted::attach(house, run.address, "oslo").await;
    berlin.beat_on();
    oslo.beat_on();
    let mut operator = house.operator(run.address).await;
    operator.create().await.unwrap();
    (run, operator, berlin, oslo)
}

async fn offer(agent: &mut Scripted) -> v1::RelayOffer {
    loop {
        match agent.hear().await {
            Ok(Some(Down::RelayOffer(offer))) => return offer,
            Ok(Some(_)) => {}
            other => panic!("no offer but {other:?}"),
        }
    }
}

/// Asks for `peer`, with anybody's certificate.
async fn ask(house: &House, run: &Run, (role, name): (Role, &str), peer: &str) -> Failure {
    use v1::open_relay_request::Message;
    let mut client = RelayServiceClient::new(house.channel(run.address, role, name).await);
    let first = v1::OpenRelayRequest { message: Some(Message::PeerAgentId(peer.to_owned())) };
    from_status(client.open_relay(tokio_stream::iter([first])).await.unwrap_err())
}

/// Accepts a relay, with anybody's certificate.
async fn join(house: &House, run: &Run, (role, name): (Role, &str), id: &str) -> Failure {
    use v1::accept_relay_request::Message;
    let mut client = RelayServiceClient::new(house.channel(run.address, role, name).await);
    let first = v1::AcceptRelayRequest { message: Some(Message::RelayId(id.to_owned())) };
    from_status(client.accept_relay(tokio_stream::iter([first])).await.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_between_the_agents_of_a_migration() {
    let house = House::new();
    let (run, mut operator, mut berlin, mut oslo) = migrating(&house).await;
    // Either agent may ask.
    for (asker, acceptor, session) in [("berlin", "oslo", &mut oslo), ("oslo", "berlin", &mut berlin)] {
        let peer = house.identity(Role::Agent, asker).id_of(Role::Agent, acceptor).unwrap();
        let near = relay(&house, run.address, asker);
        let asking = tokio::spawn(async move { near.open(&peer).await });
        let offered = offer(session).await;
        assert_eq!(offered.peer_agent_id, asker);
        let mut far = relay(&house, run.address, acceptor).accept(&offered.relay_id).await.unwrap();
        let mut near = asking.await.unwrap().unwrap();

        // More than any window on the way holds.
        let sent: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert!(heard == expected, "{} of {} bytes", heard.len(), expected.len());
        // The end of one direction is not that of the other.
        far.write_all(b"answered after the end").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(writer.await.unwrap(), b"answered after the end");
    }

    // The end of the migration is that of its relays.
    let peer = house.identity(Role::Agent, "berlin").id_of(Role::Agent, "oslo").unwrap();
    let near = relay(&house, run.address, "berlin");
    let asking = tokio::spawn(async move { near.open(&peer).await });
    let offered = offer(&mut oslo).await;
    let mut far = relay(&house, run.address, "oslo").accept(&offered.relay_id).await.unwrap();
    let _near = asking.await.unwrap().unwrap();
    operator.abort().await.unwrap();
    let mut rest = Vec::new();
    let ended = Clock.timeout(PATIENCE, far.read_to_end(&mut rest)).await.expect("the relay ends");
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    let over = ask(&house, &run, (Role::Agent, "berlin"), "oslo").await;
    assert_eq!(over.reason, Reason::PeerRefused);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_relay() {
    let house = House::new();
    let (run, _operator, _berlin, _oslo) = migrating(&house).await;
    let (_rome, _) = Scripted::attach(&house, run.address, "rome").await;
    // Attached and of the fleet, but not of the migration; nobody's agent; itself.
    let answers = [
        ask(&house, &run, (Role::Agent, "rome"), "oslo").await,
        ask(&house, &run, (Role::Agent, "berlin"), "rome").await,
        ask(&house, &run, (Role::Agent, "berlin"), "nobody").await,
        ask(&house, &run, (Role::Agent, "berlin"), "berlin").await,
        ask(&house, &run, (Role::Agent, "berlin"), "").await,
    ];
    assert_eq!(answers[0].reason, Reason::PeerRefused);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "one answer to everybody: {answers:?}");
    for stranger in [(Role::Operator, "oslo"), (Role::Coordinator, "control")] {
        assert_eq!(ask(&house, &run, stranger, "oslo").await.reason, Reason::WrongRole);
        assert_eq!(join(&house, &run, stranger, "1").await.reason, Reason::WrongRole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_for_one_agent_once_and_not_for_long() {
    let house = House::new();
    let (run, _operator, _berlin, mut oslo) = migrating(&house).await;
    let peer = house.identity(Role::Agent, "berlin").id_of(Role::Agent, "oslo").unwrap();
    let near = relay(&house, run.address, "berlin");
    let asking = tokio::spawn(async move { near.open(&peer).await });
    let offered = offer(&mut oslo).await;
    let id = offered.relay_id.as_str();
    for agent in ["rome", "berlin"] {
        assert_eq!(join(&house, &run, (Role::Agent, agent), id).await.reason, Reason::PeerRefused);
    }
    let _far = relay(&house, run.address, "oslo").accept(id).await.unwrap();
    let _near = asking.await.unwrap().unwrap();
    let twice = relay(&house, run.address, "oslo").accept(id).await.unwrap_err();
    assert_eq!(twice.reason, Reason::PeerRefused);

    // Whoever does not come in time comes too late, and whoever asked is told.
    let late = ask(&house, &run, (Role::Agent, "berlin"), "oslo").await;
    assert_eq!((late.reason, late.remedy), (Reason::PeerUnreachable, Remedy::Wait));
    assert!(late.message.contains("did not accept"), "{late}");
    let offered = offer(&mut oslo).await;
    let refused = relay(&house, run.address, "oslo").accept(&offered.relay_id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::PeerRefused);

    // An agent that is away is said to be.
    drop(oslo);
    crate::house::eventually("told that oslo is away", async || {
        let away =
            Clock.timeout(Duration::from_secs(1), ask(&house, &run, (Role::Agent, "berlin"), "oslo")).await.ok()?;
        (away.remedy == Remedy::Wait && away.message.contains("not attached")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_or_relays_nothing_says_so() {
    let house = House::new();
    let mut settings = house.settings();
    settings.relay.max_relays = 0;
    let run = house.start_with(settings).await;
    let (_berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let (_oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    house.operator(run.address).await.create().await.unwrap();
    let (address, near) = (run.address, relay(&house, run.address, "berlin"));
    let peer = house.identity(Role::Agent, "berlin").id_of(Role::Agent, "oslo").unwrap();
    let refused = near.open(&peer).await.unwrap_err();
    assert_eq!(refused.remedy, Remedy::Operator);
    assert!(refused.hint.contains("relay.max_relays"), "{refused:?}");
    run.stop().await;
    let away = near.open(&peer).await.unwrap_err();
    assert_eq!((away.reason, away.remedy), (Reason::PeerUnreachable, Remedy::Wait));
    assert_eq!(away.message, "no way to agent oslo through the coordinator");
    assert!(away.detail.contains(&address.to_string()), "{away:?}");

    // One of before there were relays: it does not know the method.
    let identity = house.identity(Role::Coordinator, "control");
    let listener = pgportage_link::serve::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = pgportage_link::serve::ServeSettings {
        http2: Http2Settings::control(),
        ..pgportage_link::serve::ServeSettings::control()
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(pgportage_link::serve::serve(
        listener,
        identity,
        settings,
        tonic::service::Routes::default(),
        stop.clone(),
    ));
    let old = relay(&house, address, "berlin").open(&peer).await.unwrap_err();
    assert_eq!(old.reason, Reason::ProtocolTooOld, "{old:?}");
    stop.cancel();
    serving.await.unwrap().unwrap();
}
