//! `pgportage-agent cleanup`: everything of ours goes, unless the other server may
//! still need it.

use std::time::Duration;

use pgportage_agent::act::catch_up::AwaitCopy;
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::cutover::{DrainToMarker, FenceSource, RaiseBarrier};
use pgportage_agent::act::finish::clean_up_locally;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_proto::{ConnectionPath, CopyMethod, Reason, Side};

use super::catalogs::read;
use super::contract::{perform, prepare_cutover};
use crate::world::{World, migration};

/// The schema at once: the subscription copies the rows.
const RESTORE: RestoreSchema = RestoreSchema { copy_method: CopyMethod::Native };
/// A slot whose snapshot no reader needs.
const SLOT: CreateSlot = CreateSlot { copy_method: CopyMethod::Native };

const SUBSCRIBE: CreateSubscription =
    CreateSubscription { path: ConnectionPath::Tunnel, copy_method: CopyMethod::Native };

async fn replicating() -> World {
    let world = World::start().await;
    world.source.execute(&world.options.database, "CREATE TABLE public.t (id int PRIMARY KEY)").await.unwrap();
    perform(&world, Side::Source, &CreateReplicationRole).await;
    perform(&world, Side::Source, &CreatePublication).await;
    perform(&world, Side::Destination, &CloseDatabase).await;
    perform(&world, Side::Destination, &RESTORE).await;
    perform(&world, Side::Source, &SLOT).await;
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    perform(&world, Side::Destination, &AwaitCopy).await;
    world
}

#[tokio::test]
async fn before_a_cutover_everything_goes() {
    let world = replicating().await;
    let cleaned = clean_up_locally(&world.source_agent, &migration()).await.unwrap();
    assert!(cleaned.unfence_statements.is_empty());
    clean_up_locally(&world.source_agent, &migration()).await.unwrap();
    clean_up_locally(&world.destination_agent, &migration()).await.unwrap();
    clean_up_locally(&world.destination_agent, &migration()).await.unwrap();
    for cluster in [&world.source, &world.destination] {
        let left: Vec<String> = read(cluster, &world.options.database).await;
        assert!(!left.iter().any(|line| line.contains("pgportage")), "{left:#?}");
    }
}

#[tokio::test]
async fn in_doubt_nothing_goes() {
    let world = replicating().await;
    let max_outage = Duration::from_secs(30);
    let prepare = prepare_cutover(max_outage);
    perform(&world, Side::Source, &prepare).await;
    perform(&world, Side::Destination, &prepare).await;
    let barrier = perform(&world, Side::Source, &RaiseBarrier { cutover_epoch: 1, max_outage }).await;
    let drain = DrainToMarker {
        cutover_epoch: 1,
        marker_id: barrier.marker_id,
        sequences: barrier.sequences.clone(),
        open_timeout: max_outage,
        catalog_digest: barrier.catalog_digest.clone(),
        compare_limit: None,
    };
    perform(&world, Side::Destination, &drain).await;
    perform(&world, Side::Source, &FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id }).await;

    let refused = clean_up_locally(&world.destination_agent, &migration()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CutoverInDoubt, "only the destination can end the doubt: {refused:?}");
    let refused = clean_up_locally(&world.source_agent, &migration()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WrongState, "asked, the destination promises not to open: {refused:?}");
    let kept = read(&world.source, &world.options.database).await;
    assert!(kept.iter().any(|line| line == "slot pgportage_orders"), "{kept:#?}");
}
