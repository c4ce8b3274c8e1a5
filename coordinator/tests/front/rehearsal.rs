//! Rehearsals with simulated agents, which know what would be wrong to do in one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::v1::migration::State;
use pgportage_proto::v1::rehearsal_report::{Phase, RestSource};
use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, Operator, Run, eventually, step};
use crate::simulated::{Answer, World};

const BUDGET: Duration = Duration::from_secs(20);

async fn start(house: &House, world: &World) -> (Run, Operator) {
    let run = house.start().await;
    world.move_to(run.address);
    let mut operator = house.operator(run.address).await;
    eventually("attached", async || {
        let agents = operator.agents.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
        (agents.len() == 2 && agents.iter().all(|agent| agent.state() == v1::agent::State::Attached)).then_some(())
    })
    .await;
    (run, operator)
}

/// A migration that is ready for its cutover.
async fn ready(world: &Arc<World>) -> (House, Run, Operator) {
    let house = House::new();
    world.populate(&house);
    let (run, mut operator) = start(&house, world).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    operator.until_waiting().await;
    (house, run, operator)
}

async fn rehearse(operator: &mut Operator, rounds: i32, rollback: bool) -> Result<v1::Migration, Failure> {
    let request = v1::RehearseCutoverRequest {
        migration_id: NAME.to_owned(),
        etag: operator.get().await.etag,
        max_outage: prost_types::Duration::try_from(BUDGET).ok(),
        round_count: rounds,
        rollback,
        compare_limit: None,
    };
    Ok(operator.migrations.rehearse_cutover(request).await.map_err(from_status)?.into_inner().migration.unwrap())
}

async fn over(operator: &mut Operator) -> (v1::Migration, v1::RehearsalReport) {
    let ends = |report: &v1::RehearsalReport| matches!(report.phase(), Phase::Done | Phase::GivenUp);
    let migration = operator
        .until("rehearsed", |migration| {
            migration.state() == State::Waiting && migration.rehearsal.as_ref().is_some_and(ends)
        })
        .await;
    let report = migration.rehearsal.clone().unwrap();
    (migration, report)
}

fn times(world: &World, kind: &str, verb: v1::Verb) -> usize {
    world.look(|servers| servers.done.iter().filter(|(_, done, how)| *done == kind && *how == verb).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_leaves_everything_as_it_was_and_the_cutover_follows() {
    let world = World::quiet();
    let (_house, _run, mut operator) = ready(&world).await;
    let accepted = rehearse(&mut operator, 3, false).await.unwrap();
    assert_eq!(accepted.state(), State::Running);
    assert_eq!(step(&accepted, "cutover-rehearsal").state(), v1::step::State::Running);
    let (rested, report) = over(&mut operator).await;
    assert!(world.source_takes_writes() && !world.destination_takes_writes());
    assert_eq!((report.phase(), report.round_count, report.completed_count), (Phase::Done, 3, 3));
    assert_eq!((report.cutover_epoch, report.rest_source()), (3, RestSource::Estimate));
    assert!(report.fits && report.failure.is_none());
    let span = |of: &Option<v1::RehearsedSpan>| Duration::try_from(of.unwrap().worst.unwrap()).unwrap();
    assert!(span(&report.pause) > Duration::ZERO && span(&report.pause) < BUDGET);
    assert!(span(&report.barrier) <= span(&report.pause));
    assert!(span(&report.prediction) >= span(&report.barrier));
    assert_eq!(
        (times(&world, "raise_barrier", v1::Verb::Perform), times(&world, "raise_barrier", v1::Verb::Undo)),
        (3, 3)
    );
    assert_eq!(rested.next_commands[..2], ["pgportage cutover shop", "pgportage cutover --rehearse shop"]);
    assert!(!rested.steps.iter().any(|step| step.name.contains("rehearsal")), "it is over");
    assert!(rested.cutover.is_none(), "it was none");

    operator.cut_over(BUDGET).await.unwrap();
    let open = operator.until("open", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
    assert_eq!(open.cutover.as_ref().unwrap().cutover_epoch, 4);
    assert_eq!(rehearse(&mut operator, 1, false).await.unwrap_err().reason, Reason::WrongState);
    assert_eq!(rehearse(&mut operator, 51, true).await.unwrap_err().reason, Reason::RequestInvalid);
    assert_eq!(rehearse(&mut operator, -1, true).await.unwrap_err().reason, Reason::RequestInvalid);

    // The way back, with what the cutover has shown.
    rehearse(&mut operator, 1, true).await.unwrap();
    let (rested, report) = over(&mut operator).await;
    assert!(report.rollback && report.rest_source() == RestSource::Switch, "{report:?}");
    assert_eq!(step(&rested, "finish").state(), v1::step::State::Held);
    assert_eq!(rested.cutover, open.cutover, "what is told of the cutover is as it was");
    assert_eq!(rested.way_back(), v1::migration::WayBack::Running);
    assert!(world.destination_takes_writes());
    operator.finish().await.unwrap();
    operator.until("over", |migration| migration.state() == State::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_without_its_locks_is_shown_with_who_is_in_the_way() {
    let rounds = AtomicUsize::new(0);
    let world = World::new(move |_, action, verb| {
        let fails =
            action == "raise_barrier" && verb == v1::Verb::Perform && rounds.fetch_add(1, Ordering::SeqCst) == 1;
        let busy = Failure::new(Reason::BarrierTimeout, "the table locks were not granted within 300 ms")
            .detail("In the way: pid 7.")
            .remedy(Remedy::Operator)
            .effect(Effect::None);
        if fails { Answer::Fail(busy) } else { Answer::Do }
    });
    let (_house, _run, mut operator) = ready(&world).await;
    rehearse(&mut operator, 5, false).await.unwrap();
    let (rested, report) = over(&mut operator).await;
    assert_eq!((report.phase(), report.completed_count, report.fits), (Phase::GivenUp, 1, false));
    assert_eq!(report.failure.unwrap().reason, "BARRIER_TIMEOUT");
    assert!(world.source_takes_writes());
    let held = step(&rested, "cutover");
    assert_eq!(held.state(), v1::step::State::Held);
    assert!(held.failure.as_ref().unwrap().detail.contains("pid 7"));
    assert!(rested.waiting_for.contains("the last rehearsal was given up"), "{}", rested.waiting_for);

    // Nothing of it is said any more once it went well, or the cutover was tried.
    rehearse(&mut operator, 1, false).await.unwrap();
    let (rested, report) = over(&mut operator).await;
    assert_eq!((report.phase(), report.completed_count), (Phase::Done, 1));
    assert!(step(&rested, "cutover").failure.is_none());
}

/// A coordinator that comes back knows not for how long writers have waited: the
/// round is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_behind_the_barrier_ends_a_rehearsal() {
    let drains = AtomicUsize::new(0);
    let hangs = Arc::new(AtomicBool::new(false));
    let hung = Arc::clone(&hangs);
    let world = World::new(move |_, action, verb| {
        let drain = action == "drain_to_marker" && verb == v1::Verb::Perform;
        let hang = drain && drains.fetch_add(1, Ordering::SeqCst) == 1;
        hung.fetch_or(hang, Ordering::SeqCst);
        if hang { Answer::Hang } else { Answer::Do }
    });
    let (house, run, mut operator) = ready(&world).await;
    rehearse(&mut operator, 2, false).await.unwrap();
    eventually("behind the barrier", async || hangs.load(Ordering::SeqCst).then_some(())).await;
    assert!(!world.source_takes_writes());
    run.stop().await;
    let (_run, mut operator) = start(&house, &world).await;
    let (rested, report) = over(&mut operator).await;
    assert_eq!((report.phase(), report.completed_count), (Phase::GivenUp, 1));
    assert_eq!(report.failure.unwrap().reason, "OUTAGE_BUDGET_EXCEEDED");
    assert!(world.source_takes_writes() && !world.destination_takes_writes());
    assert_eq!(step(&rested, "cutover").state(), v1::step::State::Held);
    operator.cut_over(BUDGET).await.unwrap();
    operator.until("open", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
    assert!(!world.source_takes_writes() && world.destination_takes_writes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_anywhere_in_a_rehearsal_leaves_writers_writing() {
    for facts in [2, 6, 12, 24, 36] {
        let world = World::quiet();
        let (house, run, mut operator) = ready(&world).await;
        let sequence = |run: &Run| run.engine.overviews()[0].state.sequence;
        let before = sequence(&run);
        rehearse(&mut operator, 3, false).await.unwrap();
        eventually("at the fact", async || (sequence(&run) >= before + facts).then_some(())).await;
        run.stop().await;
        let (_run, mut operator) = start(&house, &world).await;
        let (rested, report) = over(&mut operator).await;
        assert!(world.source_takes_writes() && !world.destination_takes_writes(), "after {facts} facts");
        assert_eq!(report.completed_count == 3, report.phase() == Phase::Done, "{report:?}");
        assert_eq!(step(&rested, "cutover").state(), v1::step::State::Held);
    }
}
