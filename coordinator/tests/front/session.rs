//! Sessions: hello and welcome, duplicates, lost acknowledgements, old epochs,
//! drain.

use std::time::Duration;

use pgportage_link::identity::Role;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::session_service_client::SessionServiceClient;
use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, eventually, step};
use crate::scripted::{Scripted, accepted, checked, failed, hello};

#[tokio::test(flavor = "multi_thread")]
async fn a_later_session_ends_the_earlier_one() {
    let house = House::new();
    let run = house.start().await;
    let (mut first, welcome) = Scripted::attach(&house, run.address, "berlin").await;
    assert_eq!((welcome.session_epoch, welcome.leader_epoch, welcome.revision), (1, 1, 1));
    assert_eq!(welcome.heartbeat_interval, prost_types::Duration::try_from(Duration::from_millis(200)).ok());
    let (_second, welcome) = Scripted::attach(&house, run.address, "berlin").await;
    assert_eq!(welcome.session_epoch, 2);
    assert_eq!(first.refusal().await.reason, Reason::StaleSession);
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_survive_a_restart() {
    let house = House::new();
    for expected in 1..=3 {
        let run = house.start().await;
        let (_agent, welcome) = Scripted::attach(&house, run.address, "berlin").await;
        assert_eq!((welcome.session_epoch, welcome.leader_epoch), (expected, expected));
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_lost_its_store_leads_above_what_agents_have_seen() {
    let house = House::new();
    let run = house.start().await;
    let with_epoch = |leader_epoch| v1::Hello { leader_epoch, ..hello("berlin") };
    let (_agent, welcome) = Scripted::attach_with(&house, run.address, "berlin", with_epoch(41)).await;
    assert_eq!(welcome.leader_epoch, 42);
    run.stop().await;
    let run = house.start().await;
    let (_agent, welcome) = Scripted::attach(&house, run.address, "berlin").await;
    assert_eq!(welcome.leader_epoch, 43);
    let mut agent =
        Scripted::dial(&house, run.address, "oslo", Up::Hello(v1::Hello { leader_epoch: i64::MAX, ..hello("oslo") }))
            .await
            .unwrap();
    assert_eq!(agent.refusal().await.reason, Reason::StaleEpoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_must_be_true_and_come_first() {
    let house = House::new();
    let run = house.start().await;
    let old = v1::Hello { min_revision: 7, max_revision: 9, ..hello("berlin") };
    let cases = [
        (Up::Hello(hello("oslo")), Reason::WrongName),
        (Up::Hello(old), Reason::ProtocolTooOld),
        (Up::Heartbeat(v1::Heartbeat { sequence: 1, gauges: Vec::new() }), Reason::RequestInvalid),
    ];
    for (first, reason) in cases {
        let mut agent = Scripted::dial(&house, run.address, "berlin", first).await.unwrap();
        assert_eq!(agent.refusal().await.reason, reason);
    }
    let (mut agent, _) = Scripted::attach(&house, run.address, "berlin").await;
    agent.say(Up::Hello(hello("berlin"))).await;
    assert_eq!(agent.refusal().await.reason, Reason::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_do_not_attach_and_agents_do_not_operate() {
    let house = House::new();
    let run = house.start().await;
    let channel = house.channel(run.address, Role::Operator, "ada").await;
    let refused = SessionServiceClient::new(channel).attach_agent(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let channel = house.channel(run.address, Role::Agent, "berlin").await;
    let mut client = pgportage_proto::v1::migration_service_client::MigrationServiceClient::new(channel);
    let refused = client.list_migrations(v1::ListMigrationsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_the_first_beat_and_say_who_decided() {
    let house = House::new();
    let run = house.start().await;
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let (_oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    let mut operator = house.operator(run.address).await;
    operator.create().await.unwrap();
    let started = operator.start().await.unwrap();
    assert_eq!(started.state(), v1::migration::State::Running);
    berlin.beat(5).await;
    let command = berlin.command().await;
    assert_eq!(command.heartbeat_sequence, 5);
    assert_eq!(command.migration_id, NAME);
    assert_eq!((command.verb(), command.side()), (v1::Verb::Perform, v1::Side::Source));
    assert_eq!((command.database.as_str(), command.peer_agent_id.as_str()), ("shop", "oslo"));
    assert_eq!((command.attempt, command.leader_epoch, command.plan_digest.len()), (1, 1, 32));
    let plan = operator
        .migrations
        .get_plan(v1::GetPlanRequest { migration_id: NAME.to_owned(), refresh: false })
        .await
        .unwrap();
    assert_eq!(plan.into_inner().plan_digest, command.plan_digest);
}

/// The rate is a fact: the source's agent hears it when it is said, behind every
/// command, and when it or the coordinator comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_told_until_it_cannot_have_been_missed() {
    let house = House::new();
    let (run, mut operator, mut berlin, _) = started(&house).await;
    assert_eq!(berlin.tuned().await, 0, "behind the command");
    let tuned = operator.tune(1 << 20).await.unwrap();
    assert_eq!((tuned.max_rate_bytes, tuned.spec.unwrap().max_rate_bytes), (1 << 20, 0));
    assert_eq!(berlin.tuned().await, 1 << 20);
    assert_eq!(operator.tune(1).await.unwrap_err().metadata["field"], "max_rate_bytes");
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    berlin.beat(1).await;
    assert_eq!(berlin.tuned().await, 1 << 20, "behind the command that is repeated");
    run.stop().await;

    let run = house.start().await;
    let mut operator = house.operator(run.address).await;
    assert_eq!(operator.get().await.max_rate_bytes, 1 << 20);
    // Said while nobody hears it.
    operator.tune(0).await.unwrap();
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    berlin.beat(1).await;
    assert_eq!(berlin.tuned().await, 0);
    assert_eq!(operator.get().await.max_rate_bytes, 0);
}

async fn started(house: &House) -> (crate::house::Run, crate::house::Operator, Scripted, v1::Command) {
    let run = house.start().await;
    let (mut berlin, _) = Scripted::attach(house, run.address, "berlin").await;
    let (_oslo, _) = Scripted::attach(house, run.address, "oslo").await;
    berlin.beat(1).await;
    let mut operator = house.operator(run.address).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let command = berlin.command().await;
    (run, operator, berlin, command)
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_taken_once_and_in_order() {
    let house = House::new();
    let (run, mut operator, mut berlin, command) = started(&house).await;
    let id = command.id.as_str();
    // A gap is not taken; the missing fact is, however often it comes.
    berlin.fact(id, 2, checked()).await;
    for _ in 0..3 {
        berlin.fact(id, 1, accepted()).await;
        assert_eq!(berlin.ack().await, (id.to_owned(), 1));
    }
    let before = operator.get().await.etag;
    berlin.fact(id, 1, failed(Failure::new(Reason::ServerError, "another story"))).await;
    assert_eq!(berlin.ack().await.1, 1);
    assert_eq!(operator.get().await.etag, before, "a repeated number tells nothing new");
    for _ in 0..2 {
        berlin.fact(id, 2, checked()).await;
        assert_eq!(berlin.ack().await, (id.to_owned(), 2));
    }
    let history = run.engine.overview(&pgportage_proto::MigrationId::new(NAME).unwrap()).unwrap();
    assert_eq!(history.state.unanswered().count(), 1, "the destination's inspection follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_about_another_agents_command_are_not_taken() {
    let house = House::new();
    let (run, mut operator, _berlin, command) = started(&house).await;
    let (oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    let before = operator.get().await.etag;
    oslo.fact(&command.id, 1, checked()).await;
    oslo.say(Up::Goodbye(v1::Goodbye { message: "done".to_owned() })).await;
    eventually("detached", async || {
        let agent = operator.agents.get_agent(v1::GetAgentRequest { agent_id: "oslo".to_owned() }).await.unwrap();
        (agent.into_inner().agent.unwrap().state() == v1::agent::State::Detached).then_some(())
    })
    .await;
    assert_eq!(operator.get().await.etag, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_command_comes_again_as_it_was() {
    let house = House::new();
    let (run, _operator, berlin, command) = started(&house).await;
    drop(berlin);
    // A new session of the same coordinator, then a new coordinator.
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    berlin.beat(3).await;
    let again = berlin.command().await;
    assert_eq!(again, v1::Command { heartbeat_sequence: 3, ..command.clone() });
    run.stop().await;
    let run = house.start().await;
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    berlin.beat(4).await;
    let again = berlin.command().await;
    assert_eq!(again, v1::Command { heartbeat_sequence: 4, leader_epoch: 2, ..command });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_is_said_again_and_nothing_is_sent_twice() {
    let house = House::new();
    let (run, _operator, mut berlin, command) = started(&house).await;
    berlin.fact(&command.id, 1, accepted()).await;
    berlin
        .fact(
            &command.id,
            2,
            failed(Failure::new(Reason::ServerError, "no").remedy(Remedy::Operator).effect(Effect::None)),
        )
        .await;
    assert_eq!(berlin.ack().await.1, 1);
    assert_eq!(berlin.ack().await.1, 2);
    drop(berlin);
    let open = |command_id: &str| v1::OpenCommand { command_id: command_id.to_owned(), last_sequence: 2 };
    let stranger = uuid::Uuid::now_v7().to_string();
    let hello = v1::Hello { open_commands: vec![open(&command.id), open(&stranger), open("x")], ..hello("berlin") };
    let (mut berlin, welcome) = Scripted::attach_with(&house, run.address, "berlin", hello).await;
    assert_eq!(welcome.abandoned_command_ids, [stranger, "x".to_owned()]);
    assert_eq!(berlin.ack().await, (command.id, 2));
    run.stop().await;
    assert!(matches!(berlin.hear().await, Ok(Some(Down::Drain(_)))), "nothing but the drain follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_is_known() {
    let house = House::new();
    let mut settings = house.settings();
    settings.session.heartbeat_timeout = Duration::from_millis(400);
    let run = house.start_with(settings).await;
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let mut operator = house.operator(run.address).await;
    let mut state = async |name: &str| {
        let request = v1::GetAgentRequest { agent_id: name.to_owned() };
        operator.agents.get_agent(request).await.map(|agent| agent.into_inner().agent.unwrap().state())
    };
    assert_eq!(state("berlin").await.unwrap(), v1::agent::State::Attached);
    assert_eq!(state("nobody").await.unwrap_err().code(), tonic::Code::NotFound);
    // Silence ends the session.
    assert_eq!(berlin.refusal().await.reason, Reason::StaleSession);
    assert_eq!(state("berlin").await.unwrap(), v1::agent::State::Lost);
    let agents = operator.agents.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!(agents[0].server_version_num, 180_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_agent_is_waited_for_by_name() {
    let house = House::new();
    let (_run, mut operator, berlin, _command) = started(&house).await;
    drop(berlin);
    let waiting = operator.until("waiting for berlin", |migration| !migration.waiting_for.is_empty()).await;
    assert_eq!(waiting.waiting_for, "agent berlin to come back");
    assert_eq!(waiting.state(), v1::migration::State::Running);
    assert_eq!(step(&waiting, "inspect").state(), v1::step::State::Running);
}
