//! The slot waits for every transaction that is open: visibly, and no longer than
//! it may.

use std::time::Duration;

use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::subscribe::CreateSlot;
use pgportage_proto::{CopyMethod, Reason, Side};

use super::contract::{perform, perform_with};
use crate::world::{PATIENCE, World};

/// A slot whose snapshot no reader needs.
const SLOT: CreateSlot = CreateSlot { copy_method: CopyMethod::Native };

const NO_SLOT: &str = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots)";

/// A source without user tables, ready for its slot.
async fn ready() -> World {
    let world = World::start().await;
    perform(&world, Side::Source, &CreateReplicationRole).await;
    let made = perform(&world, Side::Source, &CreatePublication).await;
    assert_eq!(made.table_count, 2, "heartbeat and marker, and no table of a user");
    world
}

#[tokio::test]
async fn an_open_transaction_is_named_and_the_wait_can_be_ended() {
    let world = ready().await;
    let database = world.options.database.clone();
    let mut writer = world.source.connect(&database).await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let transaction = writer.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE public.unfinished (id int)").await.unwrap();

    // Stopped because it was asked to.
    let cx = world.context(Side::Source);
    let mut progress = cx.progress.subscribe();
    let cancel = cx.cancel.clone();
    let named = async {
        let wanted = format!("process {pid}");
        let wait = progress.wait_for(|progress| progress.subject.contains(&wanted));
        pgportage_link::Clock.timeout(PATIENCE, wait).await.expect("the transaction is named").unwrap();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(perform_with(&cx, &SLOT), named);
    assert_eq!(ended.unwrap_err().reason, Reason::Cancelled);
    world.source.wait_until(&database, NO_SLOT, PATIENCE).await.unwrap();

    // Stopped because nothing moved.
    let mut cx = world.context(Side::Source);
    cx.stall_timeout = Duration::from_secs(1);
    let stalled = perform_with(&cx, &SLOT).await.unwrap_err();
    assert_eq!(stalled.reason, Reason::Stalled);
    assert!(stalled.detail.contains(&format!("process {pid}")), "{stalled:?}");
    world.source.wait_until(&database, NO_SLOT, PATIENCE).await.unwrap();

    // An agent that died leaves its backend waiting; the next one ends it.
    let cx = world.context(Side::Source);
    let lost = tokio::spawn(async move { perform_with(&cx, &SLOT).await });
    let waiting = "SELECT EXISTS (SELECT FROM pg_replication_slots)";
    world.source.wait_until(&database, waiting, PATIENCE).await.unwrap();
    lost.abort();
    let cx = world.context(Side::Source);
    let (made, ()) = tokio::join!(perform_with(&cx, &SLOT), async {
        transaction.rollback().await.unwrap();
    });
    let made = made.unwrap();
    assert!(made.consistent_point.contains('/'));
    assert_eq!(perform(&world, Side::Source, &SLOT).await, made);
}

#[tokio::test]
async fn a_slot_of_somebody_else_is_left_alone() {
    let world = ready().await;
    let database = world.options.database.clone();
    let make = "SELECT pg_create_logical_replication_slot('pgportage_orders', 'test_decoding')";
    world.source.execute(&database, make).await.unwrap();
    let failure = perform_with(&world.context(Side::Source), &SLOT).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ObjectConflict);
    use pgportage_agent::act::Act;
    SLOT.undo(&world.context(Side::Source)).await.unwrap();
    let still = "SELECT EXISTS (SELECT FROM pg_replication_slots)";
    world.source.wait_until(&database, still, Duration::from_secs(1)).await.unwrap();
}
