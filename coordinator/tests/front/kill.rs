//! The real program, killed at its fail points and started again.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgportage_coordinator::fail_points;
use pgportage_link::identity::Role;
use pgportage_proto::v1;
use pgportage_proto::v1::migration::State;

use crate::house::{House, NAME, Operator, eventually, program, step};
use crate::simulated::World;

struct Program {
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(house: &House, config: &std::path::Path, fail_point: Option<&str>) -> Program {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(house.dir.path().join("log")).unwrap();
    let mut command = Command::new(program());
    command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.env_remove("PGPORTAGE_FAIL_POINT");
    if let Some(point) = fail_point {
        command.env("PGPORTAGE_FAIL_POINT", point);
    }
    Program { child: command.spawn().unwrap() }
}

/// An operator who dials until somebody is there.
async fn operator(house: &House, address: SocketAddr) -> Operator {
    let identity = house.identity(Role::Operator, "ada");
    let expected = identity.id_of(Role::Coordinator, "control").unwrap();
    let channel = eventually("serving", async || {
        let settings = pgportage_link::http2::Http2Settings::control();
        pgportage_link::dial::channel(&address.to_string(), &expected, &identity, &settings).await.ok()
    })
    .await;
    Operator {
        migrations: v1::migration_service_client::MigrationServiceClient::new(channel.clone()),
        agents: v1::agent_service_client::AgentServiceClient::new(channel),
    }
}

/// What an operator does who knows nothing of the past: look, and say the next
/// word. Returns `true` at the end of the migration, `None` when the coordinator
/// did not answer.
async fn nudge(operator: &mut Operator) -> Option<bool> {
    let request = v1::GetMigrationRequest { migration_id: NAME.to_owned() };
    let migration = match operator.migrations.get_migration(request).await {
        Ok(answer) => answer.into_inner().migration.unwrap(),
        Err(status) if status.code() == tonic::Code::NotFound => {
            // Refused until both agents have been attached once.
            let _created = operator.create().await;
            return Some(false);
        }
        Err(_) => return None,
    };
    let held = |name: &str| step(&migration, name).state() == v1::step::State::Held;
    let etag = migration.etag.clone();
    let migration_id = NAME.to_owned();
    // Refused words are said again after the next look.
    if migration.state() == State::Pending {
        let _said = operator.migrations.start_migration(v1::StartMigrationRequest { migration_id, etag }).await;
    } else if held("cutover") {
        let max_outage = prost_types::Duration::try_from(Duration::from_secs(20)).ok();
        let _said = operator
            .migrations
            .cut_over(v1::CutOverRequest {
                migration_id,
                etag,
                max_outage,
                without_way_back: false,
                compare_limit: None,
            })
            .await;
    } else if held("finish") {
        let _said = operator.migrations.finish_migration(v1::FinishMigrationRequest { migration_id, etag }).await;
    }
    Some(migration.state() == State::Succeeded)
}

/// Runs a migration with the coordinator killed at one hit of one point.
/// Returns whether the point was reached.
async fn survive(point: &str, hit: u32) -> bool {
    let house = House::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let config = house.write_config(port);
    let world = World::quiet();
    let mut program = spawn(&house, &config, Some(&format!("{point}={hit}")));
    world.move_to(address);
    world.populate(&house);
    let mut killed = false;
    let mut hand = None;
    eventually(&format!("over with {point}={hit}"), async || {
        if !killed && program.child.try_wait().unwrap().is_some() {
            killed = true;
            program = spawn(&house, &config, None);
            hand = None;
        }
        if hand.is_none() && (killed || std::net::TcpStream::connect(address).is_ok()) {
            let dialled =
                pgportage_link::Clock.timeout(Duration::from_secs(1), Box::pin(operator(&house, address))).await;
            hand = dialled.ok();
        }
        match Box::pin(nudge(hand.as_mut()?)).await {
            Some(true) => Some(()),
            Some(false) => None,
            None => {
                hand = None;
                None
            }
        }
    })
    .await;
    assert!(world.left_behind().is_empty(), "{point}={hit}");
    assert!(!world.source_takes_writes() && world.destination_takes_writes(), "{point}={hit}");
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_kill_9_at_every_fail_point() {
    println!("{} fail points", fail_points::ALL.len());
    for point in fail_points::ALL {
        assert!(survive(point, 1).await, "{point} was not reached");
    }
}

/// Kills before and after every `stride`-th commit of a whole migration and
/// returns how many commits there were.
async fn survive_commits(first: u32, stride: usize) -> u32 {
    let mut last = 0;
    for hit in (first..).step_by(stride) {
        let mut reached = false;
        for point in ["coordinator.store.before_commit", "coordinator.store.after_commit"] {
            reached |= survive(point, hit).await;
        }
        if !reached {
            break;
        }
        last = hit;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_kill_9_at_some_commits() {
    let commits = survive_commits(3, 12).await;
    assert!(commits > 30, "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; part of make test-all"]
async fn a_migration_survives_kill_9_at_every_commit() {
    let commits = survive_commits(1, 1).await;
    println!("killed before and after each of {commits} commits");
    assert!(commits > 30, "{commits} commits");
}
