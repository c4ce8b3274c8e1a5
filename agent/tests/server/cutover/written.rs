//! Rows written during a switchover are compared before the fence.

use std::time::Duration;

use pgportage_agent::act::cutover::{DrainToMarker, PrepareCutover, RaiseBarrier, WrittenRows};
use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, Side};

use super::{BUDGET, MAX_LAG, application, caught_up, cutover, perform, raise, undo};
use crate::world::World;

/// One try at a switchover that compares what is written during it, up to the drain. `write` runs after the
/// preconditions were checked. Everything is taken back.
async fn compare_in_a_switch(
    world: &World,
    epoch: i64,
    limit: Duration,
    write: impl AsyncFnOnce(),
) -> Result<WrittenRows, Failure> {
    let prepare = PrepareCutover { compare_written: true, ..cutover(epoch, BUDGET) };
    perform(world, Side::Source, &prepare).await.unwrap();
    perform(world, Side::Destination, &prepare).await.unwrap();
    write().await;
    let barrier = raise(world, epoch).await;
    let drain = DrainToMarker {
        cutover_epoch: epoch,
        marker_id: barrier.marker_id,
        sequences: barrier.sequences.clone(),
        open_timeout: BUDGET,
        catalog_digest: barrier.catalog_digest.clone(),
        compare_limit: Some(limit),
    };
    let drained = perform(world, Side::Destination, &drain).await;
    undo(world, Side::Destination, &drain).await.unwrap();
    undo(world, Side::Source, &RaiseBarrier { cutover_epoch: epoch, max_outage: BUDGET }).await.unwrap();
    undo(world, Side::Source, &prepare).await.unwrap();
    undo(world, Side::Destination, &prepare).await.unwrap();
    drained.map(|drained| drained.compared.unwrap())
}

#[tokio::test]
async fn what_is_written_in_a_switch_is_compared_before_the_fence() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let limit = BUDGET / 2;
    // Large enough for its rows to be named, one by one.
    let many = "INSERT INTO public.events (id) SELECT i FROM generate_series(1, 30000) i";
    world.source.execute(&database, many).await.unwrap();
    let arrived = async |what: &str| {
        world.destination.wait_until(&database, &format!("SELECT {what}"), MAX_LAG).await.unwrap();
    };
    arrived("EXISTS (SELECT FROM events WHERE id = 30000)").await;
    let writer = application(&world.source, &database).await.unwrap();
    let write = async |statements: &str| writer.batch_execute(statements).await.unwrap();
    let behind_our_back = async |statement: &str| {
        let statement = format!("SET session_replication_role = replica; {statement}");
        world.destination.execute(&database, &statement).await.unwrap();
    };

    let changes = "INSERT INTO public.events (id) VALUES (30001), (30002); DELETE FROM public.events WHERE id = 5;
                   UPDATE public.events SET id = 30003 WHERE id = 6";
    let compared = compare_in_a_switch(&world, 1, limit, async || write(changes).await).await.unwrap();
    assert_eq!((compared.table_count, compared.row_count, compared.left_out.len()), (1, 5, 0), "{compared:?}");
    // A small table is read whole.
    let small = "INSERT INTO public.orders (note) VALUES ('on')";
    let compared = compare_in_a_switch(&world, 2, limit, async || write(small).await).await.unwrap();
    assert_eq!((compared.table_count, compared.row_count), (1, 42), "{compared:?}");
    // Nothing was written.
    let compared = compare_in_a_switch(&world, 3, limit, async || ()).await.unwrap();
    assert_eq!((compared.table_count, compared.row_count), (0, 0), "{compared:?}");

    // Differences in rows written during the switchover are found, and only those.
    behind_our_back("DELETE FROM public.events WHERE id = 100").await;
    for (epoch, change, wrong) in [
        (4, "INSERT INTO public.events (id) VALUES (40001)", "DELETE FROM public.events WHERE id = 40001"),
        (5, "INSERT INTO public.events (id) VALUES (40002)", "UPDATE public.events SET at = now() WHERE id = 40002"),
        (6, "DELETE FROM public.events WHERE id = 7", "INSERT INTO public.events (id) VALUES (7)"),
    ] {
        let id = match epoch {
            4 => "EXISTS (SELECT FROM events WHERE id = 40001)",
            5 => "EXISTS (SELECT FROM events WHERE id = 40002)",
            _ => "NOT EXISTS (SELECT FROM events WHERE id = 7)",
        };
        let failure = compare_in_a_switch(&world, epoch, limit, async || {
            write(change).await;
            arrived(id).await;
            behind_our_back(wrong).await;
        });
        let failure = failure.await.unwrap_err();
        assert_eq!((failure.reason, failure.effect), (Reason::RowsDiffer, Effect::None), "{wrong}: {failure:?}");
        assert!(failure.detail.contains("public.events"), "{failure:?}");
    }
    let other = "INSERT INTO public.events (id) VALUES (50001)";
    let compared = compare_in_a_switch(&world, 7, limit, async || write(other).await).await.unwrap();
    assert_eq!(compared.row_count, 1, "row 100 was not written in it");

    // No time: taken back, and not passed over.
    let failure = compare_in_a_switch(&world, 8, Duration::ZERO, async || ()).await.unwrap_err();
    assert_eq!((failure.reason, failure.effect), (Reason::VerificationIncomplete, Effect::None), "{failure:?}");
    // Nothing is left of what listened.
    let slots = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE temporary)";
    world.source.wait_until("postgres", slots, MAX_LAG).await.unwrap();
    write("INSERT INTO public.orders (note) VALUES ('on')").await;
}
