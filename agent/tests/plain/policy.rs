//! The evil coordinator: it has a good certificate and sends every command there
//! is, each outside the policy in one way.
//!
//! What must come of it: a refusal, one line in the log, and nothing else. Not a
//! login attempt, not a call to the other agent, not a row in the journal that
//! makes this agent take part in anything.

use std::sync::{Arc, Mutex};

use pgportage_proto::v1;
use pgportage_proto::v1::command::Action;
use pgportage_proto::v1::command_fact::Fact;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::script::{Line, RunningAgent, Site, command, failure};

/// Everything but what the tests below ask for.
const POLICY: &str = "\
[databases.shop]
sides = [\"source\"]
peers = [\"oslo\"]
[databases.crm]
sides = [\"destination\"]
peers = [\"oslo\"]
[peers]
oslo = \"{peer}\"
rome = \"{peer}\"
[limits]
max_outage = \"2s\"
[destructive]
fence = true
open = true
drop_slot = true
terminate_sessions = true
replica_identity_full = true
way_back = true
";

/// The lines at WARN and above that say what became of a command.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn capture() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
        (lines, guard)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() <= Level::WARN && metadata.target().starts_with("pgportage_agent") {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

/// Every action of the contract. Adding one to the contract fails
/// [`every_action_is_here`] until it is added here.
fn actions() -> Vec<Action> {
    let table = v1::RelationName { schema_name: "public".to_owned(), relation_name: "orders".to_owned() };
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let marker_id = "00000000-0000-7000-8000-000000000000".to_owned();
    let cutover_epoch = 1;
    vec![
        Action::CheckServer(v1::CheckServer::default()),
        Action::CreateReplicationRole(v1::CreateReplicationRole {}),
        Action::ReachPeer(v1::ReachPeer {}),
        Action::SetReplicaIdentity(v1::SetReplicaIdentity { tables: vec![table] }),
        Action::CreatePublication(v1::CreatePublication {}),
        Action::CloseDatabase(v1::CloseDatabase {}),
        Action::RestoreSchema(v1::RestoreSchema::default()),
        Action::CreateSlot(v1::CreateSlot::default()),
        Action::CreateSubscription(v1::CreateSubscription::default()),
        Action::CopyTables(v1::CopyTables::default()),
        Action::AwaitCopy(v1::AwaitCopy {}),
        Action::AwaitLag(v1::AwaitLag { max_lag: second, stable_window: second }),
        Action::CountRows(v1::CountRows::default()),
        Action::CompareRows(v1::CompareRows::default()),
        Action::PrepareCutover(v1::PrepareCutover { cutover_epoch, max_outage: second, ..Default::default() }),
        Action::RaiseBarrier(v1::RaiseBarrier { cutover_epoch, max_outage: second }),
        Action::DrainToMarker(v1::DrainToMarker {
            cutover_epoch,
            marker_id: marker_id.clone(),
            open_timeout: second,
            ..v1::DrainToMarker::default()
        }),
        Action::FenceSource(v1::FenceSource { cutover_epoch, marker_id }),
        Action::OpenDestination(v1::OpenDestination { cutover_epoch, ..v1::OpenDestination::default() }),
        Action::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch }),
        Action::CreateWayBack(v1::CreateWayBack {}),
        Action::KeepStream(v1::KeepStream { cutover_epoch }),
        Action::FollowStream(v1::FollowStream { cutover_epoch }),
        Action::CertifySwitch(v1::CertifySwitch { cutover_epoch, rollback: false }),
        Action::FinishMigration(v1::FinishMigration::default()),
    ]
}

/// The only side an action makes sense on; the source when both can do it.
fn side(action: &Action) -> v1::Side {
    match action {
        Action::CloseDatabase(_)
        | Action::RestoreSchema(_)
        | Action::CreateSubscription(_)
        | Action::CopyTables(_)
        | Action::AwaitCopy(_)
        | Action::CompareRows(_)
        | Action::DrainToMarker(_)
        | Action::OpenDestination(_)
        | Action::KeepStream(_) => v1::Side::Destination,
        Action::CheckServer(_)
        | Action::CreateReplicationRole(_)
        | Action::ReachPeer(_)
        | Action::SetReplicaIdentity(_)
        | Action::CreatePublication(_)
        | Action::CreateSlot(_)
        | Action::AwaitLag(_)
        | Action::CountRows(_)
        | Action::PrepareCutover(_)
        | Action::RaiseBarrier(_)
        | Action::FenceSource(_)
        | Action::ReleaseBarrier(_)
        | Action::CreateWayBack(_)
        | Action::FollowStream(_)
        | Action::CertifySwitch(_)
        | Action::FinishMigration(_) => v1::Side::Source,
    }
}

/// A command that the policy above allows.
fn allowed(action: Action, verb: v1::Verb) -> v1::Command {
    let side = side(&action);
    let database = if side == v1::Side::Source { "shop" } else { "crm" }.to_owned();
    v1::Command { verb: verb.into(), side: side.into(), database, ..command(action) }
}

const VERBS: [v1::Verb; 2] = [v1::Verb::Perform, v1::Verb::Undo];

struct Evil {
    site: Site,
    running: RunningAgent,
    line: Line,
    lines: Lines,
    _guard: DefaultGuard,
}

impl Evil {
    async fn new(policy: &str) -> Self {
        let (lines, guard) = Lines::capture();
        let mut site = Site::new(policy).await;
        let running = site.start();
        let line = site.coordinator.welcome(1).await;
        Self { site, running, line, lines, _guard: guard }
    }

    /// Sends a command that must be refused, and looks for what it must not do.
    async fn send(&mut self, command: v1::Command) -> v1::Failure {
        let told = format!("{:?} of {:?}", command.verb(), command.action);
        self.lines.take();
        self.line.command(command.clone()).await;
        let fact = self.line.fact().await;
        assert_eq!(fact.sequence, 1, "{told}: refused before it was accepted");
        self.line.ack(&fact).await;
        let failure = failure(fact.fact.unwrap());
        assert_eq!(failure.effect(), v1::failure::Effect::None, "{told}");
        let lines = self.lines.take();
        assert_eq!(lines.len(), 1, "{told}: {lines:?}");
        assert!(lines[0].contains("refused") && lines[0].contains(&command.id), "{told}: {lines:?}");
        failure
    }

    async fn nothing_was_done(mut self) {
        self.line.quiet().await;
        assert!(self.running.runner.under_way().is_empty());
        assert!(self.running.agent.journal.participations().unwrap().is_empty());
        assert!(self.running.agent.journal.interrupted().unwrap().is_empty());
        assert_eq!(self.site.server.connections(), 0, "nobody knocked at the server");
        assert_eq!(self.site.peer.connections(), 0, "nobody called the other agent");
        drop(self.line);
        self.running.stop().await;
    }
}

#[tokio::test]
async fn every_command_outside_the_policy_has_no_effect() {
    type Twist = fn(v1::Command) -> v1::Command;
    // What is wrong, and what the hint must name.
    let twists: [(Twist, &str); 4] = [
        (|command| v1::Command { database: "payroll".to_owned(), ..command }, "[databases.payroll]"),
        // Each side of the policy has the other database.
        (
            |command| {
                let other = if command.database == "shop" { "crm" } else { "shop" }.to_owned();
                v1::Command { database: other, ..command }
            },
            "to `sides`",
        ),
        (|command| v1::Command { peer_agent_id: "mallory".to_owned(), ..command }, "under [peers]"),
        (|command| v1::Command { peer_agent_id: "rome".to_owned(), ..command }, "to `peers`"),
    ];
    let mut evil = Evil::new(POLICY).await;
    for action in actions() {
        for verb in VERBS {
            for (twist, hint) in &twists {
                let failure = evil.send(twist(allowed(action.clone(), verb))).await;
                assert_eq!(failure.reason, "POLICY_DENIED", "{failure:?}");
                assert!(failure.hint.contains(hint), "{failure:?}");
            }
        }
    }
    evil.nothing_was_done().await;
}

#[tokio::test]
async fn every_command_on_the_wrong_side_has_no_effect() {
    let policy = POLICY
        .replace("[\"source\"]", "[\"source\", \"destination\"]")
        .replace("sides = [\"destination\"]", "sides = [\"source\", \"destination\"]");
    let mut evil = Evil::new(&policy).await;
    for action in actions() {
        let of_one_side = matches!(
            action,
            Action::SetReplicaIdentity(_)
                | Action::CloseDatabase(_)
                | Action::RestoreSchema(_)
                | Action::CopyTables(_)
                | Action::CreateSubscription(_)
                | Action::AwaitCopy(_)
                | Action::CreateWayBack(_)
        );
        if !of_one_side {
            continue;
        }
        let other = match side(&action) {
            v1::Side::Source => v1::Side::Destination,
            v1::Side::Destination | v1::Side::Unspecified => v1::Side::Source,
        };
        for verb in VERBS {
            let command = v1::Command { side: other.into(), ..allowed(action.clone(), verb) };
            assert_eq!(evil.send(command).await.reason, "REQUEST_INVALID");
        }
    }
    evil.nothing_was_done().await;
}

#[tokio::test]
async fn every_step_that_is_not_listed_has_no_effect() {
    let mut evil = Evil::new(&format!("acts = []\n{POLICY}")).await;
    for action in actions() {
        for verb in VERBS {
            let failure = evil.send(allowed(action.clone(), verb)).await;
            assert_eq!(failure.reason, "POLICY_DENIED", "{failure:?}");
            assert!(failure.hint.contains("to `acts`"), "{failure:?}");
        }
    }
    evil.nothing_was_done().await;
}

#[tokio::test]
async fn every_destructive_act_needs_its_own_word() {
    for (act, command) in [
        ("fence", fence(v1::Verb::Perform)),
        ("terminate_sessions", fence(v1::Verb::Perform)),
        ("terminate_sessions", allowed(Action::CloseDatabase(v1::CloseDatabase {}), v1::Verb::Perform)),
        ("open", allowed(Action::OpenDestination(v1::OpenDestination::default()), v1::Verb::Perform)),
        ("drop_slot", allowed(Action::CreateSlot(v1::CreateSlot::default()), v1::Verb::Undo)),
        ("drop_slot", allowed(Action::FinishMigration(v1::FinishMigration::default()), v1::Verb::Perform)),
        ("replica_identity_full", allowed(actions().swap_remove(3), v1::Verb::Perform)),
        ("way_back", allowed(Action::CreateWayBack(v1::CreateWayBack {}), v1::Verb::Perform)),
        ("way_back", allowed(Action::KeepStream(v1::KeepStream { cutover_epoch: 1 }), v1::Verb::Perform)),
        ("way_back", on_the_other_side(Action::CreateReplicationRole(v1::CreateReplicationRole {}))),
        ("way_back", on_the_other_side(Action::CreatePublication(v1::CreatePublication {}))),
        ("way_back", on_the_other_side(Action::CreateSlot(v1::CreateSlot::default()))),
        ("way_back", on_the_other_side(Action::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch: 1 }))),
        ("way_back", on_the_other_side(Action::OpenDestination(v1::OpenDestination::default()))),
    ] {
        let mut evil = Evil::new(&POLICY.replace(&format!("{act} = true"), &format!("{act} = false"))).await;
        let failure = evil.send(command).await;
        assert_eq!(failure.reason, "POLICY_DENIED", "{act}");
        assert!(failure.hint.contains(&format!("`{act} = true`")), "{failure:?}");
        evil.nothing_was_done().await;
    }
}

/// As the way back has it carried out.
fn on_the_other_side(action: Action) -> v1::Command {
    let (side, database) = match side(&action) {
        v1::Side::Source => (v1::Side::Destination, "crm"),
        _ => (v1::Side::Source, "shop"),
    };
    v1::Command { side: side.into(), database: database.to_owned(), ..command(action) }
}

fn fence(verb: v1::Verb) -> v1::Command {
    let marker_id = "00000000-0000-7000-8000-000000000000".to_owned();
    allowed(Action::FenceSource(v1::FenceSource { cutover_epoch: 1, marker_id }), verb)
}

#[tokio::test]
async fn an_outage_beyond_the_policy_is_refused() {
    let mut evil = Evil::new(POLICY).await;
    let max_outage = Some(prost_types::Duration { seconds: 3, nanos: 0 });
    for action in [
        Action::PrepareCutover(v1::PrepareCutover { cutover_epoch: 1, max_outage, ..Default::default() }),
        Action::RaiseBarrier(v1::RaiseBarrier { cutover_epoch: 1, max_outage }),
    ] {
        let failure = evil.send(allowed(action, v1::Verb::Perform)).await;
        assert_eq!(failure.reason, "POLICY_DENIED");
        assert!(failure.hint.contains("`max_outage`"), "{failure:?}");
    }
    evil.nothing_was_done().await;
}

/// What is refused stays refused: a repetition is answered from the journal.
#[tokio::test]
async fn insisting_does_not_help() {
    let mut evil = Evil::new(POLICY).await;
    let command = v1::Command { database: "payroll".to_owned(), ..fence(v1::Verb::Perform) };
    evil.send(command.clone()).await;
    evil.line.command(command).await;
    let fact = evil.line.fact().await;
    assert_eq!(fact.sequence, 1);
    assert!(matches!(fact.fact, Some(Fact::Failed(_))));
    evil.line.ack(&fact).await;
    evil.nothing_was_done().await;
}

#[test]
fn every_action_is_here() {
    assert_eq!(actions().len(), pgportage_proto::ActKind::ALL.len());
}
