//! What the agents do about a switchover whose time is over when the coordinator sends no more commands.

use std::time::Duration;

use pgportage_agent::act::cutover::{FenceSource, RaiseBarrier};
use pgportage_link::Clock;
use pgportage_proto::{Reason, Side};
use pgportage_tests::wait::{self, Seen};

use super::{MAX_LAG, application, caught_up, cutover, drain, perform, unseen_login, unseen_logins};

/// How long behind its budget applications may wait.
const MARGIN: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_spent_budget_opens_the_source_by_itself() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let mut slow = application(&world.source, &database).await.unwrap();
    let transaction = slow.transaction().await.unwrap();
    transaction.batch_execute("INSERT INTO public.orders (note) VALUES ('slow')").await.unwrap();
    // Not enough for the locks: that is told as what it is, with who was in the way.
    let too_little = Duration::from_millis(200);
    perform(&world, Side::Source, &cutover(1, too_little)).await.unwrap();
    let raise = RaiseBarrier { cutover_epoch: 1, max_outage: too_little };
    let failure = perform(&world, Side::Source, &raise).await.unwrap_err();
    assert_eq!(failure.reason, Reason::OutageBudgetExceeded, "{failure:?}");
    assert!(failure.detail.contains("In the way: pid"), "{failure:?}");

    let budget = Duration::from_secs(1);
    perform(&world, Side::Source, &cutover(2, budget)).await.unwrap();
    let begun = Clock.now();
    let raise = RaiseBarrier { cutover_epoch: 2, max_outage: budget };
    let (raised, committed) = tokio::join!(perform(&world, Side::Source, &raise), async {
        // A good part of the budget is spent on the locks.
        Clock.sleep(budget.mul_f64(0.4)).await;
        transaction.commit().await
    });
    committed.unwrap();
    let barrier = raised.unwrap();
    // The coordinator is gone and sends no more commands. No lock_timeout here,
    // the insert waits until the barrier has fallen.
    let writer = application(&world.source, &database).await.unwrap();
    writer.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
    let waited = begun.elapsed();
    assert!(waited < budget + MARGIN, "{waited:?}, {:?} of it for the locks", barrier.lock_wait);
    let fence = FenceSource { cutover_epoch: 2, marker_id: barrier.marker_id };
    let failure = perform(&world, Side::Source, &fence).await.unwrap_err();
    assert_eq!(failure.reason, Reason::OutageBudgetExceeded, "{failure:?}");
    application(&world.source, &database).await.unwrap();
}

/// A login that is let in and that no look shows keeps the fence at work until the end.
#[tokio::test]
async fn a_fence_at_work_when_its_budget_ends_is_taken_back_at_once() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    // Beyond the pause between two looks of the agent, and between two ends of it.
    let budget = Duration::from_millis(1500);
    tokio::spawn(world.source_agent.switchovers.clone().look_after_each());
    perform(&world, Side::Source, &cutover(1, budget)).await.unwrap();
    perform(&world, Side::Destination, &cutover(1, budget)).await.unwrap();
    let late = unseen_login(&world, super::APPLICATION, super::PASSWORD, 10);
    unseen_logins(&world, 1).await;
    let begun = Clock.now();
    let raise = RaiseBarrier { cutover_epoch: 1, max_outage: budget };
    let barrier = perform(&world, Side::Source, &raise).await.unwrap();
    drain(&world, 1, &barrier).await;
    let fence = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    let failure = perform(&world, Side::Source, &fence).await.unwrap_err();
    assert!(begun.elapsed() >= budget, "the fence had something to wait for: {failure:?}");
    let let_in = async || match application(&world.source, &database).await {
        Ok(client) => Ok(Seen::Done(client)),
        Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
    };
    let client = wait::until("a login", MAX_LAG, let_in).await.unwrap();
    client.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
    let waited = begun.elapsed();
    assert!(waited < budget + MARGIN, "{waited:?}");
    assert!(application(&world.destination, &database).await.is_err(), "the destination is closed");
    late.abort();
}
