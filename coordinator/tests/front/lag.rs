//! The word for a switch while one side is behind the other.

use std::pin::pin;
use std::time::Duration;

use pgportage_coordinator::settings::{MigrationSettings, Settings};
use pgportage_link::Clock;
use pgportage_proto::MigrationId;
use pgportage_proto::Side;
use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, Operator, PATIENCE, Run, step};
use crate::migration::attached_with;
use crate::simulated::World;

const BUDGET: Duration = Duration::from_secs(20);
const BEHIND: Duration = Duration::from_secs(5);

/// A migration that is ready for its cutover, and behind.
async fn behind(house: &House, world: &std::sync::Arc<World>, lag_patience: Duration) -> (Run, Operator) {
    let migration = MigrationSettings { lag_patience, ..MigrationSettings::default() };
    let (run, mut operator) = attached_with(house, world, Settings { migration, ..house.settings() }).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    operator.until_waiting().await;
    world.lags(BEHIND);
    let lag = prost_types::Duration::try_from(BEHIND).ok();
    operator.until("behind", |migration| migration.figures.as_ref().is_some_and(|figures| figures.lag == lag)).await;
    (run, operator)
}

/// Until the source's agent has told its figures some times more.
async fn beats(run: &Run, count: usize) {
    let mut overview = run.engine.watch(&MigrationId::new(NAME).unwrap()).unwrap();
    for _ in 0..count {
        let told = overview.borrow_and_update().gauges[&Side::Source].time;
        let more = overview.wait_for(|overview| overview.gauges[&Side::Source].time > told);
        drop(Clock.timeout(PATIENCE, more).await.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_waits_for_the_lag_to_fall() {
    let (house, world) = (House::new(), World::quiet());
    let (run, operator) = behind(&house, &world, Duration::from_secs(20)).await;
    let mut hand = operator.clone();
    let mut word = pin!(hand.cut_over(BUDGET));
    tokio::select! {
        answer = &mut word => panic!("answered before the lag fell: {answer:?}"),
        () = beats(&run, 5) => {}
    }
    assert!(world.source_takes_writes());
    world.lags(Duration::from_millis(3));
    word.await.unwrap();
    let mut operator = operator;
    operator.until("cut over", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_that_stays_is_told_and_nothing_was_begun() {
    let (house, world) = (House::new(), World::quiet());
    let (_run, mut operator) = behind(&house, &world, Duration::from_millis(300)).await;
    let before = operator.get().await.etag;
    let refused = operator.cut_over(BUDGET).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LagTooHigh);
    assert_eq!(refused.message, "the lag is 5000 ms, above its limit of 1000 ms");
    assert_eq!(refused.detail, "It was waited for during 300 ms.");
    assert_eq!(operator.get().await.etag, before);
}
