//! Why a migration does not move: both agents are asked, and whoever does not
//! answer is part of the answer.

use std::time::Duration;

use pgportage_link::{Clock, Failure};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, Operator, eventually};
use crate::scripted::Scripted;

async fn explain(operator: &Operator) -> v1::ExplainMigrationResponse {
    let request = v1::ExplainMigrationRequest { migration_id: NAME.to_owned() };
    let mut migrations = operator.migrations.clone();
    migrations.explain_migration(request).await.unwrap().into_inner()
}

/// Weight, code and side of each explanation.
fn gist(answer: &v1::ExplainMigrationResponse) -> Vec<(v1::explanation::Weight, &str, v1::Side)> {
    answer.explanations.iter().map(|found| (found.weight(), found.code.as_str(), found.side())).collect()
}

/// The next question, whatever is said before it.
async fn question(agent: &mut Scripted) -> v1::Question {
    loop {
        match agent.hear().await.unwrap() {
            Some(Down::Question(question)) => return question,
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
}

async fn say(agent: &Scripted, question: &v1::Question, answer: v1::answer::Answer) {
    agent.say(Up::Answer(v1::Answer { question_id: question.id.clone(), answer: Some(answer) })).await;
}

fn idle() -> v1::answer::Answer {
    let link = v1::LinkSituation {
        round_trip_time: prost_types::Duration::try_from(Duration::from_millis(7)).ok(),
        failure: None,
    };
    v1::answer::Answer::Situation(v1::Situation { link: Some(link), ..v1::Situation::default() })
}

/// One of ours waits for process 123.
fn blocked() -> v1::answer::Answer {
    let own = v1::ServerSession { pid: 77, blocked_by_pids: vec![123], ..v1::ServerSession::default() };
    let blocker = v1::ServerSession { pid: 123, role_name: "app".to_owned(), ..v1::ServerSession::default() };
    let situation = v1::Situation { own_sessions: vec![own], blockers: vec![blocker], ..v1::Situation::default() };
    v1::answer::Answer::Situation(situation)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_agents_are_asked_and_their_answers_joined() {
    let house = House::new();
    let run = house.start().await;
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let (mut oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    berlin.beat(1).await;
    let mut operator = house.operator(run.address).await;
    operator.create().await.unwrap();

    // Before the start there is nothing to ask about.
    let answer = explain(&operator).await;
    assert_eq!(gist(&answer), [(v1::explanation::Weight::Cause, "", v1::Side::Unspecified)]);
    assert_eq!(answer.reports, []);

    operator.start().await.unwrap();
    let etag = operator.get().await.etag;
    let answers = async {
        let (source, destination) = tokio::join!(question(&mut berlin), question(&mut oslo));
        assert_eq!((source.migration_id.as_str(), destination.migration_id.as_str()), (NAME, NAME));
        assert_ne!(source.id, destination.id);
        assert!(source.timeout.is_some());
        say(&oslo, &destination, idle()).await;
        say(&berlin, &source, blocked()).await;
        // A second one is none.
        say(&berlin, &source, idle()).await;
    };
    let (answer, ()) = tokio::join!(explain(&operator), answers);
    assert_eq!(gist(&answer), [(v1::explanation::Weight::Cause, "SESSION_BLOCKED", v1::Side::Source)]);
    assert!(answer.explanations[0].message.contains("process 123"), "{answer:?}");
    assert_eq!(answer.explanations[0].statements, ["SELECT pg_terminate_backend(123);"]);
    let told: Vec<_> =
        answer.reports.iter().map(|report| (report.agent_id.as_str(), report.situation.is_some())).collect();
    assert_eq!(told, [("berlin", true), ("oslo", true)]);
    assert_eq!(operator.get().await.etag, etag, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_absence_are_part_of_the_answer() {
    let house = House::new();
    let run = house.start().await;
    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let (oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    berlin.beat(1).await;
    let mut operator = house.operator(run.address).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();

    // Oslo reads nothing; berlin refuses.
    let asked = Clock.now();
    let refuses = async {
        let asked = question(&mut berlin).await;
        let failure = Failure::new(Reason::MigrationMissing, "no part in it");
        say(&berlin, &asked, v1::answer::Answer::Failure(failure.into())).await;
    };
    let (answer, ()) = tokio::join!(explain(&operator), refuses);
    assert!(Clock.now().duration_since(asked) < Duration::from_secs(10));
    let unchecked = v1::explanation::Weight::Unchecked;
    let expected =
        [(unchecked, "MIGRATION_MISSING", v1::Side::Source), (unchecked, "COULD_NOT_CHECK", v1::Side::Destination)];
    assert_eq!(gist(&answer), expected);
    assert!(answer.reports.iter().all(|report| report.situation.is_none() && report.failure.is_some()));

    // An answer to a question that was asked of somebody else is none.
    let answers = async {
        let asked = question(&mut berlin).await;
        say(&oslo, &asked, idle()).await;
    };
    let (answer, ()) = tokio::join!(explain(&operator), answers);
    let silent = |side| (unchecked, "COULD_NOT_CHECK", side);
    assert_eq!(gist(&answer), [silent(v1::Side::Source), silent(v1::Side::Destination)]);

    drop(oslo);
    eventually("oslo is away", async || {
        let request = v1::GetAgentRequest { agent_id: "oslo".to_owned() };
        let agent = operator.agents.get_agent(request).await.unwrap().into_inner().agent.unwrap();
        (agent.state() != v1::agent::State::Attached).then_some(())
    })
    .await;
    let answers = async {
        let asked = question(&mut berlin).await;
        say(&berlin, &asked, idle()).await;
    };
    let (answer, ()) = tokio::join!(explain(&operator), answers);
    let away = (v1::explanation::Weight::Cause, "AGENT_NOT_ATTACHED", v1::Side::Destination);
    assert_eq!(gist(&answer), [away]);

    let request = v1::ExplainMigrationRequest { migration_id: "nobody".to_owned() };
    let refused = operator.migrations.explain_migration(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
}
