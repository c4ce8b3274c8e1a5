//! PostgreSQL's own protocol through the tunnel.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use pgportage_data_plane::peer::{Compression, Packing, Peers};
use pgportage_data_plane::tunnel::Tunnels;
use pgportage_link::Clock;
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_migration::journal::Note;
use pgportage_proto::{Reason, Side};
use pgportage_tests::cluster::{SUPERUSER, connect};
use pgportage_tests::wait::{self, Seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config};

use crate::world::{PATIENCE, World, migration};

async fn listen(world: &World) -> SocketAddr {
    let agent = &world.destination_agent;
    agent.tunnels.ensure(&world.on(Side::Destination)).await.unwrap()
}

async fn through(world: &World, address: SocketAddr) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port());
    config.user(SUPERUSER).password(&world.source.superuser_password).dbname(&world.options.database);
    config.connect_timeout(PATIENCE);
    Clock.timeout(PATIENCE, connect(&config)).await.map_err(|_| anyhow::anyhow!("no login in time"))?
}

/// What `compression = "auto"` goes by is measured once and believed for a while;
/// who decided himself has nothing measured.
#[tokio::test]
async fn the_link_is_measured_once() {
    let mut world = World::start().await;
    let (peers, participation) = (&world.destination_agent.peers, world.on(Side::Destination));
    assert_eq!(peers.known_packing(&participation).await, Packing::Zstd, "never measured");
    peers.measure(&participation).await.unwrap();
    let packing = peers.known_packing(&participation).await;
    assert_eq!(peers.packing(&participation).await, packing);
    let identity = world.identity(Role::Agent, "beta");
    let settled = |compression| {
        let relay = Relay::new("127.0.0.1:1", "main", identity.clone());
        let policy = &world.destination_agent.policy;
        Peers::new(identity.clone(), policy.peers().clone(), relay, compression, Clock)
    };
    let (always, never, curious) = (settled(Compression::Zstd), settled(Compression::Off), settled(Compression::Auto));
    world.cut_link();
    let peers = &world.destination_agent.peers;
    assert_eq!(peers.packing(&participation).await, packing, "known from before");
    assert_eq!(always.packing(&participation).await, Packing::Zstd);
    assert_eq!(never.packing(&participation).await, Packing::Plain);
    assert_eq!(curious.measure(&participation).await.unwrap_err().reason, Reason::PeerUnreachable);
    assert_eq!(curious.packing(&participation).await, Packing::Zstd, "what cannot be measured stops nobody");
}

#[tokio::test]
async fn a_session_runs_through_the_tunnel() {
    let world = World::start().await;
    let address = listen(&world).await;
    assert!(address.ip().is_loopback());
    assert_eq!(listen(&world).await, address, "asking again changes nothing");
    let client = through(&world, address).await.unwrap();
    let version: String = client.query_one("SHOW server_version", &[]).await.unwrap().get(0);
    assert!(version.starts_with("15."), "the source's server answers, not the destination's: {version}");

    // Large results, large requests, many sessions at once.
    let rows =
        client.query("SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 100000) AS n", &[]).await.unwrap();
    assert_eq!(rows.len(), 100_000);
    client.batch_execute("CREATE TABLE big (t text)").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("COPY big FROM STDIN").await.unwrap();
    futures_util::pin_mut!(sink);
    let line = bytes::Bytes::from(format!("{}\n", "x".repeat(999)));
    for _ in 0..20_000 {
        sink.send(line.clone()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 20_000);
    let many: Vec<_> = futures_util::stream::iter(0..12)
        .map(|_| through(&world, address))
        .buffer_unordered(12)
        .map(Result::unwrap)
        .collect()
        .await;
    for client in &many {
        client.query_one("SELECT count(*) FROM big", &[]).await.unwrap();
    }

    // The server's end of a session closes the client's socket.
    client.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await.unwrap_err();
    until_closed(&client).await;
    // The client's end of a session ends it on the server.
    drop(many);
    let gone = format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{}'", world.options.database);
    world.source.wait_until(&world.options.database, &gone, PATIENCE).await.unwrap();
}

async fn until_closed(client: &Client) {
    wait::until("the client's connection to close", PATIENCE, || async {
        Ok(if client.is_closed() { Seen::Done(()) } else { Seen::NotYet("open".to_owned()) })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn half_a_close_is_carried_through() {
    let world = World::start().await;
    let address = listen(&world).await;
    // An SSLRequest is answered with one byte; then the server waits for us.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    // No more from us: the server sees the end and closes; its answer still comes.
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    Clock.timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"N");
}

#[tokio::test]
async fn a_dead_link_closes_both_ends_and_the_next_connection_works() {
    let mut world = World::start().await;
    let address = listen(&world).await;
    let client = through(&world, address).await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    world.cut_link();
    until_closed(&client).await;
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    world.source.wait_until("postgres", &gone, PATIENCE).await.unwrap();
    // The other agent is away: closed at once, as if the server were away.
    assert!(through(&world, address).await.is_err());
    world.mend_link().await;
    wait::until("a session through the mended link", PATIENCE, || async {
        Ok(match through(&world, address).await {
            Ok(_) => Seen::Done(()),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_absent_server_closes_the_connection() {
    let mut world = World::start().await;
    let address = listen(&world).await;
    world.source.stop().await.unwrap();
    assert!(through(&world, address).await.is_err());
    world.source.start_again().await.unwrap();
    through(&world, address).await.unwrap();
}

#[tokio::test]
async fn the_port_survives_a_restart_and_goes_with_the_migration() {
    let world = World::start().await;
    let agent = &world.destination_agent;
    let address = listen(&world).await;
    assert_eq!(agent.journal.note(&migration(), Note::TunnelPort).unwrap(), Some(address.port().to_string()));

    // As a restarted agent finds it: the first port of the range is taken by then.
    agent.tunnels.close(&migration());
    wait::until("the listener to be gone", PATIENCE, || async {
        Ok(match TcpStream::connect(address).await {
            Ok(_) => Seen::NotYet("listening".to_owned()),
            Err(_) => Seen::Done(()),
        })
    })
    .await
    .unwrap();
    agent.tunnels.resume().unwrap();
    wait::until("a session through the tunnel", PATIENCE, || async {
        Ok(match through(&world, address).await {
            Ok(_) => Seen::Done(()),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await
    .unwrap();

    // A port that another process uses is no reason to choose another.
    let other = Tunnels::new(
        agent.settings.tunnel.clone(),
        agent.journal.clone(),
        agent.peers.clone(),
        agent.traffic.clone(),
        agent.tasks.clone(),
    );
    assert!(other.ensure(&world.on(Side::Destination)).await.is_err());
    agent.tunnels.close(&migration());
    let again = wait::until("the port to be free", PATIENCE, || async {
        Ok(match other.ensure(&world.on(Side::Destination)).await {
            Ok(again) => Seen::Done(again),
            Err(failure) => Seen::NotYet(failure.message),
        })
    })
    .await
    .unwrap();
    assert_eq!(again, address);
}
