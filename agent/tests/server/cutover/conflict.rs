//! An application's transaction that holds a table which the barrier still needs, and wants
//! one that it has: what the policy says gives way.

use pgportage_agent::act::cutover::{RaiseBarrier, RaiseBarrierResult};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{Reason, Side};

use super::{BUDGET, MAX_LAG, application, caught_up_with, perform, prepare, undo};
use crate::world::{Options, World};

/// The barrier waits for these locks, which another session holds.
const BARRIER_WAITS: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = $$ShareLock$$)";
const EVICTION_WAITS: &str =
    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = $$ShareUpdateExclusiveLock$$)";

async fn world(conflict: &str) -> World {
    // Far longer than the application's `deadlock_timeout`: nothing but the agent's own
    // giving way ends the cycle in time.
    let limits = format!("barrier_timeout = \"15s\"\n{conflict}");
    caught_up_with(Options { limits, ..Options::default() }).await
}

/// Raises the barrier while an application makes a cycle with it.
///
/// Returns what came of both.
async fn collide(
    world: &World,
    hold: &str,
    waits: &str,
    want: &str,
) -> (Result<RaiseBarrierResult, Failure>, Result<(), tokio_postgres::Error>) {
    let database = &world.options.database;
    prepare(world, 1).await;
    let mut writer = application(&world.source, database).await.unwrap();
    let transaction = writer.transaction().await.unwrap();
    transaction.batch_execute(hold).await.unwrap();
    let act = RaiseBarrier { cutover_epoch: 1, max_outage: BUDGET };
    tokio::join!(perform(world, Side::Source, &act), async {
        world.source.wait_until(database, waits, MAX_LAG).await.unwrap();
        transaction.batch_execute(want).await?;
        transaction.commit().await
    })
}

/// Holds the table that is locked last, and wants the one that is locked first.
async fn collide_with_a_writer(
    world: &World,
) -> (Result<RaiseBarrierResult, Failure>, Result<(), tokio_postgres::Error>) {
    collide(
        world,
        "INSERT INTO public.events (id) VALUES (1)",
        BARRIER_WAITS,
        "INSERT INTO public.orders (note) VALUES ('cycle')",
    )
    .await
}

#[tokio::test]
async fn by_default_the_applications_statement_is_cancelled() {
    let world = world("").await;
    let (raised, written) = collide_with_a_writer(&world).await;
    assert_eq!(raised.unwrap().cancelled_session_count, 1);
    assert_eq!(written.unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test]
async fn under_yield_the_barrier_gives_way_and_the_application_goes_on() {
    let world = world("barrier_conflict = \"yield\"").await;
    let (raised, written) = collide_with_a_writer(&world).await;
    written.unwrap();
    gave_way(&raised.unwrap_err());
    nothing_is_left(&world).await;
    // The next one, without a cycle, stands.
    prepare(&world, 2).await;
    let act = RaiseBarrier { cutover_epoch: 2, max_outage: BUDGET };
    assert_eq!(perform(&world, Side::Source, &act).await.unwrap().cancelled_session_count, 0);
}

/// Before the barrier proper: where the locks against maintenance wait.
#[tokio::test]
async fn under_yield_the_applications_maintenance_goes_on_too() {
    let world = world("barrier_conflict = \"yield\"").await;
    let (raised, altered) = collide(
        &world,
        "ALTER TABLE public.events ADD COLUMN place text",
        EVICTION_WAITS,
        "ALTER TABLE public.orders ADD COLUMN place text",
    )
    .await;
    altered.unwrap();
    gave_way(&raised.unwrap_err());
    nothing_is_left(&world).await;
}

fn gave_way(failure: &Failure) {
    assert_eq!(failure.reason, Reason::BarrierConflict, "{failure:?}");
    assert_eq!((failure.remedy, failure.effect), (Remedy::Operator, Effect::None), "{failure:?}");
    assert!(failure.detail.contains("of role \"app\""), "{failure:?}");
}

/// The barrier took itself back without an undo from the coordinator: writers write at once, and the undo does no
/// harm.
async fn nothing_is_left(world: &World) {
    let writer = application(&world.source, &world.options.database).await.unwrap();
    writer.batch_execute("SET lock_timeout = '1s'").await.unwrap();
    writer.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
    let act = RaiseBarrier { cutover_epoch: 1, max_outage: BUDGET };
    undo(world, Side::Source, &act).await.unwrap();
}
