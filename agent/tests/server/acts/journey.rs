//! A whole migration between pairs of versions, and to its end.

use std::time::Duration;

use pgportage_agent::act::Act;
use pgportage_agent::act::catch_up::{AwaitCopy, AwaitLag};
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::cutover::{
    DrainToMarker, FenceSource, OpenDestination, PrepareCutover, RaiseBarrier, ReleaseBarrier,
};
use pgportage_agent::act::finish::FinishMigration;
use pgportage_agent::act::identity::SetReplicaIdentity;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_link::fail_point;
use pgportage_migration::names;
use pgportage_postgres::RelationName;
use pgportage_proto::{ActKind, ConnectionPath, CopyMethod, Reason, Side, Verb};

use super::catalogs::read;
use super::contract::{perform, perform_with, points, prepare_cutover, undo};
use crate::world::{Options, World, migration};

/// The schema at once: the subscription copies the rows.
const RESTORE: RestoreSchema = RestoreSchema { copy_method: CopyMethod::Native };
/// A slot whose snapshot no reader needs.
const SLOT: CreateSlot = CreateSlot { copy_method: CopyMethod::Native };

const SUBSCRIBE: CreateSubscription =
    CreateSubscription { path: ConnectionPath::Tunnel, copy_method: CopyMethod::Native };
pub(crate) const LOW_LAG: AwaitLag =
    AwaitLag { max_lag: Duration::from_secs(5), stable_window: Duration::from_secs(2) };

/// Names that need every kind of quoting, a table without a key, a partitioned
/// one, an index as replica identity.
const SCHEMA: &str = "\
CREATE ROLE app LOGIN PASSWORD 'correct horse';
CREATE SCHEMA \"Odd \"\"schema\"\"\nwith a newline\" AUTHORIZATION app;
CREATE TABLE \"Odd \"\"schema\"\"\nwith a newline\".\"it's a \\ table\" (\"co\"\"l\n1\" int PRIMARY KEY, v text);
CREATE TABLE public.\"größe größe größe größe größe größe größe gr\" (id int PRIMARY KEY);
CREATE TABLE public.keyless (v text);
CREATE TABLE public.by_index (v text NOT NULL);
CREATE UNIQUE INDEX \"by \"\"index\"\" v\" ON public.by_index (v);
ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX \"by \"\"index\"\" v\";
CREATE TABLE public.parted (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE UNLOGGED TABLE public.scratch (id int PRIMARY KEY);
GRANT SELECT ON public.keyless TO app;
INSERT INTO \"Odd \"\"schema\"\"\nwith a newline\".\"it's a \\ table\" SELECT i, 'row' FROM generate_series(1, 1000) i;
INSERT INTO public.keyless SELECT 'x' FROM generate_series(1, 10);
INSERT INTO public.by_index VALUES ('a'), ('b');
INSERT INTO public.parted VALUES (1, '2020-05-05');";

pub(crate) fn keyless() -> SetReplicaIdentity {
    SetReplicaIdentity { tables: vec![RelationName::new("public", "keyless"), RelationName::new("public", "by_index")] }
}

pub(crate) async fn start() -> World {
    let options = Options { database: "the \"shop\"\n's db".to_owned(), way_back: true, ..Options::default() };
    let world = World::start_with(options).await;
    world.source.execute(&world.options.database, SCHEMA).await.unwrap();
    world.destination.execute("postgres", "CREATE ROLE app LOGIN PASSWORD 'correct horse'").await.unwrap();
    world
}

/// Everything up to the cutover, without proofs.
async fn replicate(world: &World) {
    perform(world, Side::Source, &CreateReplicationRole).await;
    perform(world, Side::Source, &keyless()).await;
    perform(world, Side::Source, &CreatePublication).await;
    perform(world, Side::Destination, &CloseDatabase).await;
    perform(world, Side::Destination, &RESTORE).await;
    perform(world, Side::Source, &SLOT).await;
    perform(world, Side::Destination, &SUBSCRIBE).await;
    perform(world, Side::Destination, &AwaitCopy).await;
    perform(world, Side::Source, &LOW_LAG).await;
}

#[tokio::test]
async fn every_pair_of_versions_replicates() {
    use pgportage_tests::postgres_versions::PostgresVersion::{V14, V16, V17, V18};
    for (from, to) in [(V14, V16), (V16, V17), (V17, V18), (V18, V18)] {
        let tools = pgportage_tests::postgres_versions::tools_for(to).unwrap();
        let options =
            Options { source: from, destination: to, pg_dump: Some(tools.program("pg_dump")), ..Options::default() };
        let world = World::start_with(options).await;
        world.source.execute("shop", SCHEMA).await.unwrap();
        world.destination.execute("postgres", "CREATE ROLE app LOGIN").await.unwrap();
        replicate(&world).await;
        world.source.execute("shop", "UPDATE keyless SET v = 'y'; DELETE FROM by_index WHERE v = 'a'").await.unwrap();
        let applied = "SELECT bool_and(v = 'y') AND (SELECT count(*) = 1 FROM by_index) FROM keyless";
        world.destination.wait_until("shop", applied, Duration::from_secs(30)).await.unwrap();
        undo(&world, Side::Destination, &SUBSCRIBE).await;
        undo(&world, Side::Source, &SLOT).await;
        undo(&world, Side::Source, &CreatePublication).await;
        undo(&world, Side::Source, &keyless()).await;
        undo(&world, Side::Source, &CreateReplicationRole).await;
        let left = read(&world.source, "shop").await;
        assert!(!left.iter().any(|line| line.contains("pgportage")), "{from:?}: {left:#?}");
    }
}

/// The watch has not looked yet; the server is asked.
#[tokio::test]
async fn no_cutover_begins_without_the_slot_of_the_way_back() {
    let world = start().await;
    replicate(&world).await;
    perform(&world, Side::Destination, &CreateReplicationRole).await;
    perform(&world, Side::Destination, &CreatePublication).await;
    perform(&world, Side::Destination, &CreateSlot { copy_method: CopyMethod::Native }).await;
    let prepare = PrepareCutover { way_back: true, ..prepare_cutover(Duration::from_secs(30)) };
    perform(&world, Side::Destination, &prepare).await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    world.destination.execute(&world.options.database, drop).await.unwrap();
    let refused = perform_with(&world.context(Side::Destination), &prepare).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WayBackLost, "{refused:?}");
}

#[tokio::test]
async fn finish_leaves_nothing_but_the_fence() {
    let world = start().await;
    let database = world.options.database.clone();
    replicate(&world).await;
    let max_outage = Duration::from_secs(30);
    let prepare = prepare_cutover(max_outage);
    perform(&world, Side::Source, &prepare).await;
    perform(&world, Side::Destination, &prepare).await;

    let finish = FinishMigration { identity_full_tables: keyless().tables };
    let early = perform_with(&world.context(Side::Destination), &finish).await.unwrap_err();
    assert_eq!(early.reason, Reason::WrongState, "the destination has not decided");

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
    let fence = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    let fenced = perform(&world, Side::Source, &fence).await;
    let open = OpenDestination { cutover_epoch: 1, sequences: fenced.sequences };
    perform(&world, Side::Destination, &open).await;
    perform(&world, Side::Source, &ReleaseBarrier { cutover_epoch: 1 }).await;

    let undone = finish.undo(&world.context(Side::Source)).await.unwrap_err();
    assert_eq!(undone.reason, Reason::WrongState);
    let mut died = 0;
    for side in [Side::Destination, Side::Source] {
        for point in points(ActKind::FinishMigration, Verb::Perform) {
            let cx = world.context(side);
            fail_point::arm(&point);
            let ended = std::panic::AssertUnwindSafe(perform_with(&cx, &finish));
            let ended = futures_util::FutureExt::catch_unwind(ended).await;
            // The points of the other side are not passed here.
            assert_eq!(fail_point::disarm(&point), ended.is_ok(), "{point}");
            died += usize::from(ended.is_err());
        }
    }
    assert_eq!(died, points(ActKind::FinishMigration, Verb::Perform).len(), "every point was passed on one side");
    let done = perform(&world, Side::Destination, &finish).await;
    assert!(done.unfence_statements.is_empty());
    let done = perform(&world, Side::Source, &finish).await;
    assert_eq!(
        perform(&world, Side::Source, &finish).await,
        done,
        "finished twice, and the statements are still known"
    );
    assert!(!done.unfence_statements.is_empty());

    let name = names::replication_name(&migration());
    for cluster in [&world.source, &world.destination] {
        let left: Vec<String> =
            read(cluster, &database).await.into_iter().filter(|line| line.contains("pgportage")).collect();
        assert!(left.is_empty(), "{name}: {left:#?}");
    }
    let login = world.source.connect_as(&database, "app", "correct horse").await;
    assert!(login.is_err(), "the source stays fenced");
    world.destination.connect_as(&database, "app", "correct horse").await.unwrap();
    world.source.execute("postgres", &done.unfence_statements.join("; ")).await.unwrap();
    world.source.connect_as(&database, "app", "correct horse").await.unwrap();
    let identity = "SELECT relreplident = 'i' FROM pg_class WHERE oid = 'public.by_index'::regclass";
    world.source.wait_until(&database, identity, Duration::from_secs(1)).await.unwrap();
    let identities = "SELECT bool_and(relreplident = 'd') FROM pg_class WHERE relname IN ('keyless', 'by_index')";
    world.destination.wait_until(&database, identities, Duration::from_secs(1)).await.unwrap();
}
