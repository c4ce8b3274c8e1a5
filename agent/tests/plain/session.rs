//! The agent's session, against a scripted coordinator over real mutual TLS.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgportage_link::{Clock, fail_point};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::command_fact::Fact;
use pgportage_proto::{MigrationId, v1};

use crate::script::{AGENT, PATIENCE, Site, command, failure};

const POLICY: &str = "\
[databases.\"*\"]
sides = [\"source\"]
[peers]
oslo = \"{peer}\"
[limits]
command_age = \"3s\"
[destructive]
drop_slot = true
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_welcome_work_and_goodbye() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.next().await;
    assert_eq!(line.hello.agent_id, AGENT);
    assert!(line.hello.instance_id.parse::<uuid::Uuid>().is_ok());
    assert_eq!((line.hello.min_revision, line.hello.max_revision), (1, 1));
    assert_eq!(line.hello.policy_digest.len(), 32);
    assert!(line.hello.open_commands.is_empty());
    line.welcome(1, &[]).await;

    let command = harmless();
    line.command(command.clone()).await;
    let accepted = line.fact().await;
    assert_eq!((accepted.command_id.as_str(), accepted.sequence), (command.id.as_str(), 1));
    assert!(matches!(accepted.fact, Some(Fact::Accepted(_))));
    let succeeded = line.fact().await;
    assert_eq!(succeeded.sequence, 2);
    assert!(matches!(succeeded.fact, Some(Fact::Succeeded(v1::CommandResult { result: None }))));
    line.ack(&succeeded).await;
    line.quiet().await;
    let journal = rusqlite::Connection::open(running.agent.settings.journal_path()).unwrap();
    let (actor, serial): (String, String) =
        journal.query_row("SELECT actor, actor_serial FROM command", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(actor, "spiffe://example.org/pgportage/coordinator/main");
    assert!(!serial.is_empty());
    let orders = MigrationId::new("orders").unwrap();
    running.agent.gauges.update(&orders, |gauge| gauge.lag = Some(Duration::from_millis(250)));
    let figures = running.agent.metrics(&running.runner).render();
    for line in [
        "pgportage_attached 1",
        "pgportage_unacknowledged_facts 0",
        "pgportage_lag_seconds{migration=\"orders\"} 0.25",
        "pgportage_act_attempts_total{act=\"reach_peer\",step=\"connect\",verb=\"undo\",outcome=\"succeeded\"} 1",
        "pgportage_step_attempts_total{step=\"reach_peer\",verb=\"undo\",outcome=\"succeeded\"} 1",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} is missing in:\n{figures}");
    }

    let stopping = tokio::spawn(running.stop());
    assert!(matches!(line.hear().await, Some(Up::Goodbye(_))));
    drop(line);
    stopping.await.unwrap();
    assert_eq!(site.server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_command_is_answered_and_started_once() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let command = harmless();
    line.command(command.clone()).await;
    assert!(matches!(line.outcome(&command.id).await, Fact::Succeeded(_)));
    line.quiet().await;

    // As after a lost acknowledgement, and as from a new coordinator.
    for epoch in [1, 2] {
        line.leader_epoch = epoch;
        line.command(v1::Command { trace_context: [("a".to_owned(), "b".to_owned())].into(), ..command.clone() }).await;
        let facts = [line.fact().await, line.fact().await];
        assert_eq!(facts.each_ref().map(|fact| fact.sequence), [1, 2], "the same history, nothing new");
        line.ack(&facts[1]).await;
        line.quiet().await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_id_is_a_conflict_and_changes_nothing() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let command = harmless();
    line.command(command.clone()).await;
    assert!(matches!(line.outcome(&command.id).await, Fact::Succeeded(_)));

    line.command(v1::Command { verb: v1::Verb::Perform.into(), ..command.clone() }).await;
    let answer = line.fact().await;
    assert_eq!(answer.sequence, 0, "not part of the command's history");
    assert_eq!(failure(answer.fact.unwrap()).reason, "COMMAND_CONFLICT");
    assert_eq!(site.peer.connections(), 0);
    line.quiet().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_are_repeated_until_acknowledged_across_sessions() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let command = harmless();
    line.command(command.clone()).await;
    let first = line.fact().await;
    line.ack(&first).await;
    assert_eq!(line.fact().await.sequence, 2, "and this one's acknowledgement is lost");
    line.quiet().await;
    drop(line);

    let mut line = site.coordinator.next().await;
    let open = &line.hello.open_commands;
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].command_id.as_str(), open[0].last_sequence), (command.id.as_str(), 2));
    line.welcome(2, &[]).await;
    let again = line.fact().await;
    assert_eq!(again.sequence, 2, "what was acknowledged is not repeated");
    line.ack(&again).await;
    line.quiet().await;
    drop(line);
    assert!(site.coordinator.next().await.hello.open_commands.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_command_is_stopped_and_told_of_no_more() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let (first, second) = (hanging(), harmless());
    line.command(first.clone()).await;
    assert_eq!(line.fact().await.command_id, first.id);
    line.command(second.clone()).await;
    assert_eq!(line.fact().await.command_id, second.id);
    drop(line);

    let mut line = site.coordinator.next().await;
    assert_eq!(line.hello.open_commands.len(), 2);
    line.welcome(2, &[&second.id]).await;
    let fact = line.fact().await;
    assert_eq!(fact.command_id, first.id, "only what is not abandoned");
    line.ack(&fact).await;
    line.quiet().await;
    assert_eq!(running.runner.under_way().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_coordinator_is_refused() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.next().await;
    line.leader_epoch = 7;
    line.welcome(1, &[]).await;
    line.heartbeat().await;

    // In the same session, as from a leader that was frozen.
    line.leader_epoch = 6;
    let stale = harmless();
    line.command(stale.clone()).await;
    assert_eq!(failure(line.outcome(&stale.id).await).reason, "STALE_EPOCH");
    drop(line);

    // And as the one who answers the call.
    let mut line = site.coordinator.next().await;
    assert_eq!(line.hello.leader_epoch, 7);
    line.leader_epoch = 6;
    line.welcome(2, &[]).await;
    assert!(line.hear().await.is_none(), "the agent hangs up");

    // A session that is not newer than the last one is refused as well.
    let mut line = site.coordinator.next().await;
    line.leader_epoch = 7;
    line.welcome(1, &[]).await;
    assert!(line.hear().await.is_none(), "the agent hangs up");

    let mut line = site.coordinator.next().await;
    line.leader_epoch = 7;
    line.welcome(2, &[]).await;
    line.heartbeat().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_decided_too_long_ago_is_refused() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    line.heartbeat().await;
    let old = line.beat;
    let heard = Clock.now();
    while Clock.now().duration_since(heard) < Duration::from_millis(3200) {
        line.heartbeat().await;
    }
    for beat in [old, line.beat + 1000] {
        let stale = v1::Command { heartbeat_sequence: beat, ..harmless() };
        line.say(Down::Command(stale.clone())).await;
        let failure = failure(line.outcome(&stale.id).await);
        assert_eq!(failure.reason, "STALE_COMMAND");
        assert_eq!(failure.remedy(), v1::failure::Remedy::Wait);
        assert_eq!(failure.effect(), v1::failure::Effect::None);
    }
    let fresh = harmless();
    line.command(fresh.clone()).await;
    assert!(matches!(line.outcome(&fresh.id).await, Fact::Succeeded(_)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_actions_and_missing_fields_are_answered() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let unknown = v1::Command { action: None, ..harmless() };
    let verbless = v1::Command { verb: 0, ..harmless() };
    let nameless = v1::Command { migration_id: "No Such Name".to_owned(), ..harmless() };
    let impatient = v1::Command { stall_timeout: None, ..harmless() };
    let action = Some(v1::command::Action::SetReplicaIdentity(v1::SetReplicaIdentity::default()));
    let twisted = v1::Command { side: v1::Side::Destination.into(), action, ..hanging() };
    for (command, reason) in [
        (unknown, "UNKNOWN_ACTION"),
        (verbless, "REQUEST_INVALID"),
        (nameless, "REQUEST_INVALID"),
        (impatient, "REQUEST_INVALID"),
        (twisted, "REQUEST_INVALID"),
    ] {
        line.command(command.clone()).await;
        let failure = failure(line.outcome(&command.id).await);
        assert_eq!(failure.reason, reason, "{failure:?}");
        assert_eq!(failure.effect(), v1::failure::Effect::None);
    }
    // Nothing that an answer could refer to: logged, and the session goes on.
    line.command(v1::Command { id: "not a uuid".to_owned(), ..harmless() }).await;
    line.quiet().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_a_waiting_command_can_be_cancelled() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let (first, second) = (hanging(), harmless());
    line.command(first.clone()).await;
    assert_eq!(line.fact().await.command_id, first.id);
    line.command(second.clone()).await;
    assert_eq!(line.fact().await.command_id, second.id);
    assert_eq!(running.runner.under_way().len(), 2);
    line.say(Down::Cancel(v1::CancelCommand { command_id: second.id.clone() })).await;
    match line.outcome(&second.id).await {
        Fact::Cancelled(cancelled) => assert_eq!(cancelled.effect(), v1::failure::Effect::None),
        other => panic!("{other:?}"),
    }
    // Another migration does not wait for the one that hangs.
    let other = v1::Command { migration_id: "invoices".to_owned(), ..harmless() };
    line.command(other.clone()).await;
    assert!(matches!(line.outcome(&other.id).await, Fact::Succeeded(_)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_without_progress_ends_with_a_reason() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let command =
        v1::Command { stall_timeout: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }), ..hanging() };
    line.command(command.clone()).await;
    let failure = failure(line.outcome(&command.id).await);
    assert_eq!(failure.reason, "STALLED", "{failure:?}");
    assert_eq!(failure.remedy(), v1::failure::Remedy::Operator);
    assert!(site.server.connections() > 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_command_and_nothing_else() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    fail_point::arm("reach_peer.undo.performed");
    let (broken, whole) = (harmless(), harmless());
    line.command(broken.clone()).await;
    assert_eq!(failure(line.outcome(&broken.id).await).reason, "INTERNAL");
    line.command(whole.clone()).await;
    assert!(matches!(line.outcome(&whole.id).await, Fact::Succeeded(_)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_followed() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let line = site.coordinator.welcome(1).await;
    let asked = Clock.now();
    line.say(Down::Drain(v1::Drain { reconnect_delay: Some(prost_types::Duration { seconds: 1, nanos: 0 }) })).await;
    let mut line = line;
    assert!(matches!(line.hear().await, Some(Up::Goodbye(_))));
    assert!(line.hear().await.is_none(), "and half-closes");
    drop(line);
    site.coordinator.welcome(2).await.heartbeat().await;
    assert!(Clock.now().duration_since(asked) >= Duration::from_secs(1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_of_another_name_hears_nothing() {
    let mut site = Site::with_coordinator_named(POLICY, "other").await;
    let running = site.start();
    let none = Clock.timeout(Duration::from_secs(2), site.coordinator.next()).await;
    assert!(none.is_err(), "the agent attached to somebody else");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_hangs_up_is_not_dialled_in_a_frenzy() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let began = Clock.now();
    for _ in 0..5 {
        drop(site.coordinator.next().await);
    }
    // 0.1 + 0.2 + 0.4 + 0.8 at least.
    assert!(Clock.now().duration_since(began) >= Duration::from_millis(1400));
    running.stop().await;
}

/// The program itself, killed at a point and started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_point_a_command_has_one_history() {
    for point in ["accepted", "performed", "recorded"] {
        let mut site = Site::new(POLICY).await;
        let name = format!("reach_peer.undo.{point}");
        let mut agent = program(&site, Some(&name));
        let mut line = site.coordinator.welcome(1).await;
        let command = harmless();
        line.command(command.clone()).await;
        wait_for_end(&mut agent).await;
        drop(line);

        let mut agent = program(&site, None);
        let mut line = site.coordinator.next().await;
        let open = &line.hello.open_commands;
        assert_eq!(open.len(), 1, "{point}: the command is still answered for");
        assert_eq!(open[0].command_id, command.id);
        line.welcome(2, &[]).await;
        let accepted = line.fact().await;
        let succeeded = line.fact().await;
        assert_eq!((accepted.sequence, succeeded.sequence), (1, 2), "{point}");
        assert!(matches!(succeeded.fact, Some(Fact::Succeeded(_))), "{point}: {succeeded:?}");
        line.ack(&succeeded).await;
        line.quiet().await;

        rustix::process::kill_process(pid(&agent), rustix::process::Signal::TERM).unwrap();
        assert!(matches!(line.hear().await, Some(Up::Goodbye(_))));
        drop(line);
        assert!(wait_for_end(&mut agent).await.success());
    }
}

/// The program frozen while a command waits in its socket: thawed, it finds the
/// command too old by its own clock.
/// Returns when the system shows each thread of the process as stopped.
async fn until_every_thread_stops(process: rustix::process::Pid) {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
    };
    let all = async {
        while !std::fs::read_dir(&tasks).unwrap().all(is_stopped) {
            Clock.sleep(Duration::from_millis(5)).await;
        }
    };
    Clock.timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_does_not_act_on_what_it_slept_through() {
    use rustix::process::{Signal, kill_process};

    let mut site = Site::new(POLICY).await;
    let mut agent = program(&site, None);
    let mut line = site.coordinator.welcome(1).await;
    line.heartbeat().await;
    kill_process(pid(&agent), Signal::STOP).unwrap();
    // A thread that runs when the signal is sent goes on for a moment.
    until_every_thread_stops(pid(&agent)).await;
    let missed = harmless();
    line.command(missed.clone()).await;
    // Longer than `command_age`, and far from every keepalive.
    Clock.sleep(Duration::from_millis(3500)).await;
    kill_process(pid(&agent), Signal::CONT).unwrap();
    assert_eq!(failure(line.outcome(&missed.id).await).reason, "STALE_COMMAND");
    // The newest beat heard so far may be from before the sleep.
    line.quiet().await;
    let fresh = harmless();
    line.command(fresh.clone()).await;
    assert!(matches!(line.outcome(&fresh.id).await, Fact::Succeeded(_)));
    kill_process(pid(&agent), Signal::TERM).unwrap();
    assert!(matches!(line.hear().await, Some(Up::Goodbye(_))));
    drop(line);
    assert!(wait_for_end(&mut agent).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_accepted_from_the_other_agent_of_a_migration_and_from_nobody_else() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let offer = |relay: &str, peer: &str| {
        Down::RelayOffer(v1::RelayOffer { relay_id: relay.to_owned(), peer_agent_id: peer.to_owned() })
    };
    // The policy names oslo, but there is no migration yet.
    line.say(offer("too-early", "oslo")).await;
    let command = harmless();
    line.command(command.clone()).await;
    assert!(matches!(line.outcome(&command.id).await, Fact::Succeeded(_)));
    for stranger in ["mallory", "berlin", "", "Not a name"] {
        line.say(offer("a-stranger", stranger)).await;
    }
    line.say(offer("expected", "oslo")).await;
    let accepted = Clock.timeout(PATIENCE, site.coordinator.accepted.recv()).await.unwrap();
    assert_eq!(accepted.as_deref(), Some("expected"));
    line.quiet().await;
    running.stop().await;
    assert!(site.coordinator.accepted.try_recv().is_err(), "nothing else was accepted");
}

/// An act that succeeds without any server: there is nothing to take back.
fn harmless() -> v1::Command {
    let action = v1::command::Action::ReachPeer(v1::ReachPeer {});
    v1::Command { verb: v1::Verb::Undo.into(), ..command(action) }
}

/// An act that hangs on a server that says nothing.
fn hanging() -> v1::Command {
    command(v1::command::Action::CreateSlot(v1::CreateSlot::default()))
}

/// The program itself. Dropping it leaves nothing behind.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn program(site: &Site, fail_point: Option<&str>) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgportage-agent"));
    command.arg("--config").arg(&site.settings_path).stdin(Stdio::null());
    if let Some(point) = fail_point {
        command.env("PGPORTAGE_FAIL_POINT", point);
    }
    Program(command.spawn().unwrap())
}

fn pid(program: &Program) -> rustix::process::Pid {
    rustix::process::Pid::from_child(&program.0)
}

async fn wait_for_end(program: &mut Program) -> std::process::ExitStatus {
    let deadline = Clock.now() + PATIENCE;
    loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            return status;
        }
        assert!(Clock.now() < deadline, "the program does not end");
        Clock.sleep(Duration::from_millis(20)).await;
    }
}

/// A question is answered beside everything else, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_at_once_or_not_at_all() {
    let mut site = Site::new(POLICY).await;
    let running = site.start();
    let mut line = site.coordinator.welcome(1).await;
    let question = |id: &str, migration_id: &str, asked| v1::Question {
        id: id.to_owned(),
        migration_id: migration_id.to_owned(),
        timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        question: asked,
    };
    let describe = Some(v1::question::Question::DescribeSituation(v1::DescribeSituation {}));
    let reason = |answer: v1::Answer| match answer.answer {
        Some(v1::answer::Answer::Failure(failure)) => failure.reason,
        other => panic!("not a failure: {other:?}"),
    };

    // About a migration that this agent has no part in, about no migration at all, and in words of a newer release.
    line.say(Down::Question(question("q1", "orders", describe))).await;
    let answer = line.answer().await;
    assert_eq!((answer.question_id.as_str(), reason(answer.clone()).as_str()), ("q1", "MIGRATION_MISSING"));
    line.say(Down::Question(question("q2", "Not A Name", describe))).await;
    assert_eq!(reason(line.answer().await), "REQUEST_INVALID");
    line.say(Down::Question(question("q3", "orders", None))).await;
    line.quiet().await;

    // Its first command makes the agent a part of it.
    let command = harmless();
    line.command(command.clone()).await;
    assert!(matches!(line.outcome(&command.id).await, Fact::Succeeded(_)));
    let asked = Clock.now();
    line.say(Down::Question(question("q4", "orders", describe))).await;
    let answer = line.answer().await;
    assert!(Clock.now().duration_since(asked) < Duration::from_secs(10));
    let Some(v1::answer::Answer::Situation(situation)) = answer.answer else { panic!("{answer:?}") };
    // The scripted server and peer hang up on every caller.
    assert!(!situation.unchecked.is_empty() && situation.unchecked.iter().all(|it| it.failure.is_some()));
    assert!(situation.link.is_none_or(|link| link.round_trip_time.is_none()));
    line.quiet().await;
    running.stop().await;
}
