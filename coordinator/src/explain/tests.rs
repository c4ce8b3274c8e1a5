//! Each rule by its facts, and the order among them.

use std::time::Duration;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;
use pgportage_report::situation::{Capacity, Disk, PreparedTransaction, ServerSession, Slot, Subscription};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A migration under way, with nothing wrong anywhere.
fn well(step: StepName) -> Facts {
    let situation = Situation {
        link: Some(Link::Answers(Duration::from_millis(3))),
        disk: Some(Disk { free_bytes: 100 << 30, warn_bytes: 10 << 30 }),
        ..Situation::default()
    };
    let slot = Slot { complete: true, active_pid: Some(12), ..Slot::default() };
    let subscription = Subscription {
        enabled: true,
        apply_workers: 1,
        apply_worker_age: Some(MINUTE),
        ready_tables: 4,
        apply_errors: Some(0),
        sync_errors: Some(0),
        ..Subscription::default()
    };
    let capacities = |settings: [&str; 2]| {
        settings.map(|setting| Capacity { setting: setting.to_owned(), used: 2, limit: 10 }).to_vec()
    };
    Facts {
        migration: MigrationId::new("shop-move").unwrap(),
        standing: Standing { step: Some(step), waits: Waits::Nobody, publisher: Side::Source, way_back: true },
        source: Report::Answered(Box::new(Situation {
            slot: Some(slot),
            capacities: capacities(["max_replication_slots", "max_wal_senders"]),
            ..situation.clone()
        })),
        destination: Report::Answered(Box::new(Situation {
            subscription: Some(subscription),
            capacities: capacities(["max_logical_replication_workers", "max_worker_processes"]),
            ..situation
        })),
        drift: None,
    }
}

/// The same after a cutover: the source follows.
fn well_on_the_way_back(step: StepName) -> Facts {
    let facts = well(step);
    let standing = Standing { publisher: Side::Destination, waits: Waits::Request, ..facts.standing };
    Facts { standing, source: facts.destination, destination: facts.source, ..facts }
}

/// The facts of a side, to be changed.
fn of(report: &mut Report) -> &mut Situation {
    match report {
        Report::Answered(situation) => situation,
        Report::Silent(_) => panic!("silent"),
    }
}

fn fill(situation: &mut Situation, setting: &str) {
    let capacity = situation.capacities.iter_mut().find(|capacity| capacity.setting == setting).unwrap();
    capacity.used = capacity.limit;
}

/// Weight, code and side of each explanation.
fn gist(facts: &Facts) -> Vec<(Weight, Option<Reason>, Option<Side>)> {
    explain(facts).into_iter().map(|found| (found.weight, found.code, found.side)).collect()
}

fn only(facts: &Facts) -> Explanation {
    let mut found = explain(facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn waiting(pid: i32, blocked_by: &[i32]) -> ServerSession {
    ServerSession {
        pid,
        role: "porter".to_owned(),
        application: "pgportage control".to_owned(),
        backend_type: "client backend".to_owned(),
        state: "active".to_owned(),
        wait_event_type: "Lock".to_owned(),
        wait_event: "relation".to_owned(),
        blocked_by: blocked_by.to_vec(),
        ..ServerSession::default()
    }
}

fn idle(pid: i32) -> ServerSession {
    ServerSession {
        pid,
        role: "app".to_owned(),
        application: "psql".to_owned(),
        backend_type: "client backend".to_owned(),
        state: "idle in transaction".to_owned(),
        transaction_age: Some(12 * MINUTE),
        writes: true,
        ..ServerSession::default()
    }
}

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    for step in [StepName::Copy, StepName::CatchUp, StepName::Verify, StepName::Cutover] {
        assert_eq!(explain(&well(step)), [], "{step}");
    }
}

#[test]
fn the_slot_waits_for_an_open_transaction() {
    let mut facts = well(StepName::Copy);
    let source = of(&mut facts.source);
    source.slot = Some(Slot { active_pid: Some(77), ..Slot::default() });
    source.own_sessions = vec![waiting(77, &[123])];
    source.blockers = vec![idle(123)];
    let found = only(&facts);
    assert_eq!(
        (found.weight, found.code, found.side),
        (Weight::Cause, Some(Reason::SessionBlocked), Some(Side::Source))
    );
    assert_eq!(
        found.message,
        "the creation of the replication slot waits for process 123 (role app, application psql, idle in \
         transaction, transaction open for 12 min)"
    );
    assert_eq!(found.statements, ["SELECT pg_terminate_backend(123);"]);
}

#[test]
fn who_is_at_the_end_of_the_queue_is_named_and_not_who_waits_in_it() {
    let mut facts = well(StepName::Schema);
    let destination = of(&mut facts.destination);
    // 8 and 9 wait for 123, and ours behind them.
    destination.own_sessions = vec![waiting(77, &[8]), waiting(78, &[8, 123])];
    destination.blockers = vec![waiting(8, &[9]), waiting(9, &[123]), idle(123)];
    let found = only(&facts);
    assert!(
        found.message.starts_with("2 sessions of the migration on the destination wait for process 123"),
        "{found:?}"
    );
    // A circle has no end.
    let destination = of(&mut facts.destination);
    destination.own_sessions = vec![waiting(77, &[8])];
    destination.blockers = vec![waiting(8, &[9]), waiting(9, &[8])];
    assert!(only(&facts).message.contains("of process 8 "), "{facts:?}");
}

#[test]
fn who_is_gone_when_looked_for_is_still_named_and_what_it_does_decides_the_statement() {
    let mut facts = well(StepName::Schema);
    of(&mut facts.source).own_sessions = vec![waiting(77, &[123])];
    assert!(only(&facts).message.ends_with("waits for a lock (relation) of process 123"), "{facts:?}");
    for (backend_type, state, statement) in [
        ("client backend", "active", "SELECT pg_cancel_backend(123);"),
        ("autovacuum worker", "active", "SELECT pg_cancel_backend(123);"),
        ("client backend", "idle in transaction", "SELECT pg_terminate_backend(123);"),
        ("client backend", "", "SELECT pg_terminate_backend(123);"),
    ] {
        let blocker = ServerSession { backend_type: backend_type.to_owned(), state: state.to_owned(), ..idle(123) };
        of(&mut facts.source).blockers = vec![blocker];
        assert_eq!(only(&facts).statements, [statement], "{backend_type} {state}");
    }
    // Nobody is told to end what is ours.
    of(&mut facts.source).blockers = Vec::new();
    of(&mut facts.source).own_sessions.push(ServerSession { pid: 123, ..ServerSession::default() });
    assert_eq!(only(&facts).statements, [""; 0]);
}

#[test]
fn a_prepared_transaction_is_named_with_both_ways_out() {
    let mut facts = well(StepName::Copy);
    let source = of(&mut facts.source);
    source.own_sessions = vec![waiting(77, &[0])];
    let prepared = |gid: &str, awaited| PreparedTransaction {
        gid: gid.to_owned(),
        role: "app".to_owned(),
        database: "other".to_owned(),
        age: 90 * MINUTE,
        awaited,
    };
    source.prepared_transactions = vec![prepared("it's", true), prepared("not this", false)];
    let found = only(&facts);
    assert_eq!(found.code, Some(Reason::PreparedTransactions));
    assert!(found.message.contains("'it''s' of role app in database other, 1 h 30 min old"), "{found:?}");
    assert_eq!(found.statements, ["COMMIT PREPARED 'it''s';", "ROLLBACK PREPARED 'it''s';"]);
    of(&mut facts.source).prepared_transactions.clear();
    assert!(only(&facts).hint.contains("pg_prepared_xacts"), "which one is not known");
}

#[test]
fn an_agent_that_is_away_comes_before_what_follows_from_it() {
    let mut facts = well(StepName::CatchUp);
    facts.source = Report::Silent(crate::fleet::not_attached("berlin"));
    of(&mut facts.destination).link =
        Some(Link::Broken(Failure::new(Reason::PeerUnreachable, "nobody answers").remedy(Remedy::Wait)));
    of(&mut facts.destination).subscription.as_mut().unwrap().apply_workers = 0;
    assert_eq!(
        gist(&facts),
        [
            (Weight::Cause, Some(Reason::AgentNotAttached), Some(Side::Source)),
            (Weight::Cause, Some(Reason::PeerUnreachable), Some(Side::Destination)),
            (Weight::Suspicion, Some(Reason::ApplyFailed), Some(Side::Destination)),
        ]
    );
}

#[test]
fn what_could_not_be_looked_at_is_never_a_pass() {
    let mut facts = well(StepName::Copy);
    facts.source = Report::Silent(Failure::new(Reason::CouldNotCheck, "agent berlin did not say"));
    let subject = || "the subscription".to_owned();
    let failure = Failure::new(Reason::CouldNotCheck, "there was no answer in time");
    of(&mut facts.destination).unchecked = vec![Unchecked { subject: subject(), failure }];
    let unchecked = |side| (Weight::Unchecked, Some(Reason::CouldNotCheck), Some(side));
    assert_eq!(gist(&facts), [unchecked(Side::Source), unchecked(Side::Destination)]);
    // A server that lets nobody look is itself the reason.
    let failure = Failure::new(Reason::ServerUnreachable, "connection refused");
    of(&mut facts.destination).unchecked = vec![Unchecked { subject: subject(), failure }];
    assert_eq!(gist(&facts)[0], (Weight::Cause, Some(Reason::ServerUnreachable), Some(Side::Destination)));
}

#[test]
fn the_workflow_says_what_it_knows() {
    let mut facts = well(StepName::Cutover);
    let failure = Failure::new(Reason::RowsDiffer, "2 tables differ").detail("More.").hint("Look.");
    for (waits, code, message) in [
        (Waits::Request, None, "it waits for your word before step cutover"),
        (
            Waits::Operator(failure.clone()),
            Some(Reason::RowsDiffer),
            "cutover stopped and waits for you: 2 tables differ",
        ),
        (Waits::Attempt(failure), Some(Reason::RowsDiffer), "cutover failed and is tried again: 2 tables differ"),
    ] {
        facts.standing.waits = waits;
        let found = only(&facts);
        assert_eq!((found.weight, found.code, found.message.as_str()), (Weight::Cause, code, message));
    }
    facts.standing = Standing { step: None, waits: Waits::Request, ..facts.standing };
    assert_eq!(only(&facts).message, "it was not started");
}

#[test]
fn scarcity_is_a_cause_where_one_more_is_needed() {
    let case = |step, change: &dyn Fn(&mut Facts)| {
        let mut facts = well(step);
        change(&mut facts);
        gist(&facts).into_iter().map(|(weight, code, _)| (weight, code.unwrap())).collect::<Vec<_>>()
    };
    let slots = |facts: &mut Facts| fill(of(&mut facts.source), "max_replication_slots");
    assert_eq!(case(StepName::Copy, &slots), [(Weight::Suspicion, Reason::SlotsExhausted)], "ours is there");
    let no_slot = |facts: &mut Facts| {
        slots(facts);
        of(&mut facts.source).slot = None;
    };
    assert_eq!(case(StepName::Copy, &no_slot), [(Weight::Cause, Reason::SlotsExhausted)]);
    let senders = |facts: &mut Facts| {
        fill(of(&mut facts.source), "max_wal_senders");
        of(&mut facts.source).slot.as_mut().unwrap().active_pid = None;
        of(&mut facts.destination).subscription.as_mut().unwrap().apply_workers = 0;
    };
    let expected = [(Weight::Cause, Reason::SendersExhausted), (Weight::Suspicion, Reason::ApplyFailed)];
    assert_eq!(case(StepName::CatchUp, &senders), expected);
    let workers = |facts: &mut Facts| {
        fill(of(&mut facts.destination), "max_worker_processes");
        of(&mut facts.destination).subscription.as_mut().unwrap().apply_workers = 0;
    };
    assert_eq!(case(StepName::CatchUp, &workers), [(Weight::Cause, Reason::WorkersExhausted)]);
    let tables = |facts: &mut Facts| {
        fill(of(&mut facts.destination), "max_logical_replication_workers");
        of(&mut facts.destination).subscription.as_mut().unwrap().waiting_tables = 3;
    };
    assert_eq!(case(StepName::CatchUp, &tables), [(Weight::Cause, Reason::WorkersExhausted)]);
    let busy = |facts: &mut Facts| fill(of(&mut facts.destination), "max_logical_replication_workers");
    assert_eq!(case(StepName::CatchUp, &busy), [(Weight::Suspicion, Reason::WorkersExhausted)]);
}

#[test]
fn a_subscription_that_fails_is_told_from_one_that_failed_once() {
    let case = |change: &dyn Fn(&mut Subscription)| {
        let mut facts = well(StepName::CatchUp);
        change(of(&mut facts.destination).subscription.as_mut().unwrap());
        explain(&facts).into_iter().map(|found| (found.weight, found.message)).collect::<Vec<_>>()
    };
    assert_eq!(case(&|it| it.apply_errors = Some(3)), [], "its worker has outlived them");
    let failing = "the subscription fails and starts again: 3 errors so far".to_owned();
    let young = |it: &mut Subscription| {
        it.apply_errors = Some(3);
        it.apply_worker_age = Some(Duration::from_secs(2));
    };
    assert_eq!(case(&young), [(Weight::Cause, failing.clone())]);
    let gone = |it: &mut Subscription| {
        it.apply_errors = Some(3);
        it.apply_workers = 0;
        it.apply_worker_age = None;
    };
    assert_eq!(case(&gone), [(Weight::Cause, failing)]);
    let copies = |it: &mut Subscription| {
        it.sync_errors = Some(1);
        it.copying_tables = 2;
    };
    assert_eq!(
        case(&copies),
        [(Weight::Cause, "the copy of 2 tables fails and starts again: 1 error so far".to_owned())]
    );
    let unknown = |it: &mut Subscription| {
        it.apply_errors = None;
        it.sync_errors = None;
        it.apply_worker_age = None;
    };
    assert_eq!(case(&unknown), [], "before 15 nobody counts errors");
    let disabled = |it: &mut Subscription| it.enabled = false;
    assert_eq!(case(&disabled), [(Weight::Cause, "the subscription is disabled".to_owned())]);
    // After the cutover it is disabled as it should be.
    let mut facts = well(StepName::Finish);
    disabled(of(&mut facts.destination).subscription.as_mut().unwrap());
    assert_eq!(explain(&facts), []);
}

#[test]
fn a_lost_slot_a_full_disk_and_a_dead_stream_show() {
    let mut facts = well(StepName::CatchUp);
    "wal_removed".clone_into(&mut of(&mut facts.source).slot.as_mut().unwrap().invalidation);
    assert_eq!(gist(&facts), [(Weight::Cause, Some(Reason::SlotLost), Some(Side::Source))]);

    let mut facts = well(StepName::CatchUp);
    of(&mut facts.destination).disk = Some(Disk { free_bytes: 1 << 30, warn_bytes: 10 << 30 });
    assert_eq!(gist(&facts), [(Weight::Suspicion, Some(Reason::DiskSpaceLow), Some(Side::Destination))]);

    let mut facts = well(StepName::CatchUp);
    of(&mut facts.source).slot.as_mut().unwrap().active_pid = None;
    assert_eq!(gist(&facts), [(Weight::Suspicion, Some(Reason::PeerUnreachable), Some(Side::Source))]);

    let mut facts = well(StepName::Verify);
    let commits = ServerSession { wait_event: "SyncRep".to_owned(), blocked_by: Vec::new(), ..waiting(5, &[]) };
    of(&mut facts.source).own_sessions = vec![commits];
    assert_eq!(gist(&facts), [(Weight::Cause, Some(Reason::Stalled), Some(Side::Source))]);
}

#[test]
fn long_transactions_matter_where_locks_are_near() {
    let mut facts = well(StepName::Cutover);
    let source = of(&mut facts.source);
    let reads = ServerSession { writes: false, ..idle(2) };
    let young = ServerSession { transaction_age: Some(MINUTE / 2), ..idle(3) };
    source.oldest_transactions = vec![idle(1), reads, young];
    source.prepared_transactions = vec![PreparedTransaction::default()];
    let found = explain(&facts);
    assert_eq!(
        found.iter().map(|found| found.code.unwrap()).collect::<Vec<_>>(),
        [Reason::PreparedTransactions, Reason::LongTransaction]
    );
    assert_eq!(found[1].statements, ["SELECT pg_terminate_backend(1);"]);
    facts.standing.step = Some(StepName::CatchUp);
    assert_eq!(explain(&facts), []);
}

/// What is found besides the word that it waits for.
fn besides(facts: &Facts) -> Vec<Explanation> {
    explain(facts).into_iter().filter(|found| found.code.is_some()).collect()
}

#[test]
fn the_stream_of_the_way_back_is_explained_with_its_sides_exchanged() {
    assert_eq!(besides(&well_on_the_way_back(StepName::Finish)), []);
    let case = |change: &dyn Fn(&mut Facts)| {
        let mut facts = well_on_the_way_back(StepName::Finish);
        change(&mut facts);
        let found = besides(&facts);
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    };
    let found = case(&|facts| of(&mut facts.source).subscription.as_mut().unwrap().enabled = false);
    assert_eq!((found.code, found.side), (Some(Reason::ApplyFailed), Some(Side::Source)));
    assert_eq!(found.statements, ["ALTER SUBSCRIPTION pgportageback_shop_move ENABLE;"]);
    let found = case(&|facts| {
        let subscription = of(&mut facts.source).subscription.as_mut().unwrap();
        subscription.apply_errors = Some(3);
        subscription.apply_worker_age = None;
        subscription.apply_workers = 0;
    });
    assert_eq!((found.weight, found.side), (Weight::Cause, Some(Side::Source)));
    assert!(
        found.hint.contains("log of the source server") && found.hint.contains("the destination keeps"),
        "{found:?}"
    );
    let found =
        case(&|facts| "wal_removed".clone_into(&mut of(&mut facts.destination).slot.as_mut().unwrap().invalidation));
    assert_eq!((found.code, found.side), (Some(Reason::SlotLost), Some(Side::Destination)));
    assert!(found.message.starts_with("the destination gave") && found.hint.contains("way back is lost"), "{found:?}");
    let found = case(&|facts| of(&mut facts.destination).slot.as_mut().unwrap().active_pid = None);
    assert_eq!((found.code, found.side), (Some(Reason::PeerUnreachable), Some(Side::Destination)));
    assert!(found.message.starts_with("a worker applies on the source"), "{found:?}");
    let found = case(&|facts| of(&mut facts.destination).oldest_transactions = vec![idle(1)]);
    assert!(found.message.starts_with("the rollback's locks would wait"), "{found:?}");

    // Without a way back nothing has to flow, and right behind the decision not yet.
    let mut facts = well_on_the_way_back(StepName::Finish);
    of(&mut facts.source).subscription.as_mut().unwrap().enabled = false;
    facts.standing.way_back = false;
    assert_eq!(besides(&facts), []);
    facts.standing = Standing { step: Some(StepName::Cutover), waits: Waits::Nobody, way_back: true, ..facts.standing };
    assert_eq!(besides(&facts), []);
}

#[test]
fn a_drift_is_a_cause_on_the_side_that_follows() {
    let mut facts = well(StepName::CatchUp);
    facts.drift =
        Some((Side::Destination, Failure::new(Reason::SchemaDiffers, "1 object differs").detail("It.").hint("Do.")));
    let found = only(&facts);
    assert_eq!(
        (found.weight, found.code, found.side),
        (Weight::Cause, Some(Reason::SchemaDiffers), Some(Side::Destination))
    );
    assert_eq!((found.message.as_str(), found.detail.as_str()), ("schema drift: 1 object differs", "It."));
}
