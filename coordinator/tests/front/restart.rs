//! The coordinator stopped in good order and started again, all along the way.
//! Its deaths at exact places are in `kill.rs`.

use std::time::Duration;

use pgportage_proto::MigrationId;
use pgportage_proto::v1;
use pgportage_proto::v1::migration::State;

use crate::house::{House, NAME, Operator, Run, eventually, step};
use crate::simulated::World;

const BUDGET: Duration = Duration::from_secs(20);

fn id() -> MigrationId {
    MigrationId::new(NAME).unwrap()
}

fn sequence(run: &Run) -> i64 {
    run.engine.overview(&id()).unwrap().state.sequence
}

async fn start(house: &House, world: &World) -> (Run, Operator) {
    let run = house.start().await;
    world.move_to(run.address);
    let operator = house.operator(run.address).await;
    (run, operator)
}

async fn attached(operator: &mut Operator) {
    eventually("attached", async || {
        let agents = operator.agents.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
        (agents.len() == 2 && agents.iter().all(|agent| agent.state() == v1::agent::State::Attached)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_after_every_restart() {
    let house = House::new();
    let world = World::quiet();
    world.populate(&house);
    let (run, mut operator) = start(&house, &world).await;
    attached(&mut operator).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let mut last = 0;
    let mut run = Some(run);
    let mut restarts = 0;
    loop {
        let current = run.take().unwrap();
        let state = eventually("further", async || {
            let overview = current.engine.overview(&id()).unwrap();
            (overview.state.sequence > last || overview.state.terminal()).then_some(overview.state)
        })
        .await;
        last = state.sequence;
        let mut operator = house.operator(current.address).await;
        let migration = operator.get().await;
        if step(&migration, "cutover").state() == v1::step::State::Held {
            // A restart in the middle of a cutover is the next test's.
            attached(&mut operator).await;
            operator.cut_over(BUDGET).await.unwrap();
            operator.until("open", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
            operator.finish().await.unwrap();
            last = sequence(&current);
        }
        if state.terminal() {
            current.stop().await;
            break;
        }
        current.stop().await;
        run = Some(start(&house, &world).await.0);
        restarts += 1;
    }
    assert!(restarts > 5, "{restarts} restarts");
    assert!(world.left_behind().is_empty());
    // Not one act was done twice.
    world.look(|servers| assert_eq!(servers.done.len(), 35, "{:?}", servers.done));
    let (run, mut operator) = start(&house, &world).await;
    assert_eq!(operator.get().await.state(), State::Succeeded);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_a_cutover_takes_it_back_or_goes_forward() {
    let mut ends = (0, 0);
    for facts in 1..=20 {
        let house = House::new();
        let world = World::quiet();
        world.populate(&house);
        let (run, mut operator) = start(&house, &world).await;
        attached(&mut operator).await;
        operator.create().await.unwrap();
        operator.start().await.unwrap();
        operator.until_waiting().await;
        let before = sequence(&run);
        operator.cut_over(BUDGET).await.unwrap();
        eventually("at the fact", async || (sequence(&run) >= before + facts).then_some(())).await;
        run.stop().await;
        let (run, mut operator) = start(&house, &world).await;
        let rested = operator.until_waiting().await;
        let report = rested.cutover.clone().unwrap();
        if step(&rested, "cutover").state() == v1::step::State::Held {
            ends.0 += 1;
            assert_eq!(report.phase(), v1::cutover_report::Phase::TakenBack);
            assert!(world.source_takes_writes() && !world.destination_takes_writes(), "after {facts} facts");
            attached(&mut operator).await;
            operator.cut_over(BUDGET).await.unwrap();
            operator.until("open", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
        } else {
            ends.1 += 1;
            assert_eq!(report.phase(), v1::cutover_report::Phase::Open);
        }
        assert!(!world.source_takes_writes() && world.destination_takes_writes(), "after {facts} facts");
        operator.finish().await.unwrap();
        operator.until("over", |migration| migration.state() == State::Succeeded).await;
        run.stop().await;
    }
    assert!(ends.1 > 0, "{ends:?}");
}
