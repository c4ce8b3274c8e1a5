//! Who is served, and who hears nothing.

use std::time::Duration;

use pgportage_data_plane::figures::Traffic;
use pgportage_data_plane::peer::{Announcement, Blocks, Compression, Packing, Peers};
use pgportage_data_plane::snapshot::SnapshotTable;
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::{Clock, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::switchover::SwitchoverRecord;
use pgportage_postgres::{RelationName, ServerVersion};
use pgportage_proto::{MigrationId, Reason, Side};

use crate::world::{World, join, migration};

/// Every method, called under one identity; the failures by method.
async fn call_everything(peers: &Peers, participation: &Participation) -> Vec<(&'static str, Option<Failure>)> {
    let peer = match peers.call(participation).await {
        Ok(peer) => peer,
        Err(failure) => return vec![("dial", Some(failure))],
    };
    let mut answers = vec![("greet", peer.greet().await.err()), ("access", peer.replication_access("1").await.err())];
    let dump = match peer.dump_schema(ServerVersion::from_num(180_006)).await {
        Ok(mut stream) => stream.next().await.err(),
        Err(failure) => Some(failure),
    };
    answers.push(("dump", dump));
    answers.push(("heartbeat", peer.watch_heartbeat().await.err()));
    answers.push(("tunnel", peer.open_tunnel(Packing::Plain, Traffic::default()).await.err()));
    answers.push(("measure", peers.measure(participation).await.err()));
    answers.push(("snapshot", peer.open_snapshot("", Duration::from_secs(10)).await.err()));
    let table = SnapshotTable {
        name: RelationName::new("pg_catalog", "pg_authid"),
        columns: vec!["rolpassword".to_owned()],
        binary: false,
        block_count: 1,
        size_bytes: 1,
        row_estimate: 1,
        identity: String::new(),
        key: Vec::new(),
    };
    answers.push(("range", peer.copy_range("0/1", &table, Blocks::ALL, Packing::Zstd).await.err()));
    let statistics = peer.read_statistics(&[table.name], Packing::Zstd).await.err();
    answers.push(("statistics", statistics));
    answers.push(("compare", peer.compare_rows().await.err()));
    let listing = match peer.watch_schema().await {
        Ok(mut stream) => stream.next().await.err(),
        Err(failure) => Some(failure),
    };
    answers.push(("watch schema", listing));
    answers.push(("release", peer.release_snapshot("0/1").await.err()));
    let locks_next = Announcement::LocksNext { time_left: Duration::from_secs(1) };
    answers.push(("announce", peer.announce_cutover(1, locks_next).await.err()));
    answers
}

#[tokio::test]
async fn only_the_other_agent_of_the_migration_is_served() {
    let world = World::start().await;
    let on_destination = world.on(Side::Destination);
    let greeting = world.destination_agent.peers.call(&on_destination).await.unwrap().greet().await.unwrap();
    assert_eq!(greeting.agent, "alpha");
    let greeting = world.source_agent.peers.call(&world.on(Side::Source)).await.unwrap().greet().await.unwrap();
    assert_eq!(greeting.agent, "beta");

    // Another agent's certificate, an operator's, a coordinator's.
    let policy = &world.destination_agent.policy;
    let mut refusals = Vec::new();
    for (role, name) in
        [(Role::Agent, "gamma"), (Role::Operator, "beta"), (Role::Operator, "ada"), (Role::Coordinator, "main")]
    {
        let identity = world.identity(role, name);
        let peers = Peers::new(
            identity.clone(),
            policy.peers().clone(),
            Relay::new("127.0.0.1:1", "main", identity),
            Compression::default(),
            Clock,
        );
        for (method, failure) in call_everything(&peers, &on_destination).await {
            let failure = failure.unwrap_or_else(|| panic!("{role} {name} was served {method}"));
            let expected = if role == Role::Agent { Reason::PeerRefused } else { Reason::WrongRole };
            assert_eq!(failure.reason, expected, "{role} {name} {method}: {failure:?}");
            if role == Role::Agent {
                refusals.push(failure);
            }
        }
    }

    // A migration that this agent does not know: the very same answer.
    let unknown = Participation { migration: MigrationId::new("unheard-of").unwrap(), ..on_destination.clone() };
    for (_, failure) in call_everything(&world.destination_agent.peers, &unknown).await {
        refusals.push(failure.unwrap());
    }
    assert_eq!(refusals.len(), 26);
    let texts =
        |failure: &Failure| (failure.reason, failure.message.clone(), failure.detail.clone(), failure.hint.clone());
    assert!(refusals.iter().all(|failure| texts(failure) == texts(&refusals[0])), "{refusals:?}");
    assert!(refusals.iter().all(|failure| failure.remedy == Remedy::Operator));
}

#[tokio::test]
async fn a_method_belongs_to_one_side() {
    let world = World::start().await;
    // The destination asked for what only a source does.
    let peer = world.source_agent.peers.call(&world.on(Side::Source)).await.unwrap();
    for failure in [
        peer.replication_access("1").await.unwrap_err(),
        peer.dump_schema(ServerVersion::from_num(180_006)).await.unwrap_err(),
        peer.open_tunnel(Packing::Plain, Traffic::default()).await.unwrap_err(),
        peer.open_snapshot("", Duration::from_secs(10)).await.unwrap_err(),
        peer.release_snapshot("0/1").await.unwrap_err(),
        peer.compare_rows().await.unwrap_err(),
        peer.read_statistics(&[], Packing::Plain).await.unwrap_err(),
        // The owner allowed no way back, so the source agent may not follow the destination.
        peer.watch_schema().await.unwrap_err(),
    ] {
        assert_eq!(failure.reason, Reason::PeerRefused);
        assert!(failure.message.contains("destination"), "{failure}");
    }
    // Before its time nothing is made.
    let source = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    assert_eq!(source.open_snapshot("", Duration::from_secs(10)).await.unwrap_err().reason, Reason::WrongState);
    // The source asked for what only a destination does.
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    assert_eq!(peer.watch_heartbeat().await.unwrap_err().reason, Reason::PeerRefused);
}

/// No client is made to wait for a switchover that is not under way, and an announcement of one changes nothing.
#[tokio::test]
async fn an_announcement_of_no_switch_changes_nothing() {
    let world = World::start().await;
    let sides = [(&world.source_agent, Side::Source), (&world.destination_agent, Side::Destination)];
    for (caller, side) in sides {
        let peer = caller.peers.call(&world.on(side)).await.unwrap();
        let locks_next = Announcement::LocksNext { time_left: Duration::from_secs(1) };
        assert_eq!(peer.announce_cutover(1, locks_next).await.unwrap_err().reason, Reason::WrongState);
        for word in [Announcement::GivenUp, Announcement::Opened] {
            assert!(!peer.announce_cutover(1, word).await.unwrap());
        }
    }
    for (agent, _) in sides {
        assert_eq!(agent.journal.switchover(&migration()).unwrap(), SwitchoverRecord::default());
    }
}

#[tokio::test]
async fn a_migration_that_is_over_is_not_served() {
    let world = World::start().await;
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    peer.greet().await.unwrap();
    world.source_agent.journal.forget(&migration()).unwrap();
    assert_eq!(peer.greet().await.unwrap_err().reason, Reason::PeerRefused);
    join(&world.source_agent, &world.on(Side::Source));
    peer.greet().await.unwrap();
}

#[tokio::test]
async fn a_peer_without_address_or_listener_is_told_apart() {
    let mut world = World::start().await;
    let unknown = Participation { peer: "gamma".to_owned(), ..world.on(Side::Destination) };
    assert_eq!(world.destination_agent.peers.call(&unknown).await.unwrap_err().reason, Reason::PolicyDenied);
    world.cut_link();
    let failure = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap_err();
    assert_eq!((failure.reason, failure.remedy), (Reason::PeerUnreachable, Remedy::Wait));
    world.mend_link().await;
    world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap().greet().await.unwrap();
    // A connection that was cut is made anew by the next call.
    world.cut_link();
    world.mend_link().await;
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    let deadline = Clock.now() + crate::world::PATIENCE;
    while let Err(failure) = peer.greet().await {
        assert!(Clock.now() < deadline, "{failure:?}");
        assert_eq!(failure.remedy, Remedy::Wait, "{failure:?}");
        tokio::task::yield_now().await;
    }
}
