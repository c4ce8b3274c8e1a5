//! What stands in the way of replication, and how it is told.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use pgportage_agent::act::Act;
use pgportage_agent::act::catch_up::{AwaitCopy, AwaitLag};
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_link::fail_point;
use pgportage_proto::{ConnectionPath, CopyMethod, Reason, Side};

use super::contract::{perform, perform_with, undo};
use crate::world::{Options, PATIENCE, World};

/// The schema at once: the subscription copies the rows.
const RESTORE: RestoreSchema = RestoreSchema { copy_method: CopyMethod::Native };
/// A slot whose snapshot no reader needs.
const SLOT: CreateSlot = CreateSlot { copy_method: CopyMethod::Native };

const SUBSCRIBE: CreateSubscription =
    CreateSubscription { path: ConnectionPath::Tunnel, copy_method: CopyMethod::Native };

/// Everything before the subscription.
async fn ready_to_subscribe(schema: &str) -> World {
    ready_in(World::start().await, schema).await
}

async fn ready_in(world: World, schema: &str) -> World {
    world.source.execute(&world.options.database, schema).await.unwrap();
    perform(&world, Side::Source, &CreateReplicationRole).await;
    perform(&world, Side::Source, &CreatePublication).await;
    perform(&world, Side::Destination, &CloseDatabase).await;
    perform(&world, Side::Destination, &RESTORE).await;
    perform(&world, Side::Source, &SLOT).await;
    world
}

async fn set(cluster: &pgportage_tests::Cluster, setting: &str, value: &str) {
    cluster.execute("postgres", &format!("ALTER SYSTEM SET {setting} = '{value}'")).await.unwrap();
    cluster.execute("postgres", "SELECT pg_reload_conf()").await.unwrap();
    let set = format!("SELECT current_setting('{setting}') = '{value}'");
    cluster.wait_until("postgres", &set, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_table_without_identity_is_not_published() {
    let world = World::start().await;
    let database = world.options.database.clone();
    world.source.execute(&database, "CREATE TABLE public.keyless (v text)").await.unwrap();
    perform(&world, Side::Source, &CreateReplicationRole).await;
    let failure = perform_with(&world.context(Side::Source), &CreatePublication).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ReplicaIdentityMissing);
    assert!(failure.detail.contains("public.keyless"), "{failure:?}");
    world.source.execute(&database, "INSERT INTO keyless VALUES ('a'); UPDATE keyless SET v = 'b'").await.unwrap();
    undo(&world, Side::Source, &CreatePublication).await;
}

#[tokio::test]
async fn a_server_that_asks_for_no_password_is_told_which_line_it_lacks() {
    let mut world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let database = world.options.database.clone();
    let trusting = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
    world.source.set_access(trusting).unwrap();
    world.source.reload().unwrap();
    let loaded = "SELECT count(*) = 2 FROM pg_hba_file_rules WHERE auth_method = 'trust'";
    world.source.wait_until("postgres", loaded, PATIENCE).await.unwrap();
    let failure = perform_with(&world.context(Side::Destination), &SUBSCRIBE).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PasswordNotAsked, "{failure:?}");
    assert!(failure.hint.contains("host \"shop\" \"pgportage_orders\" 127.0.0.1/32 scram-sha-256"), "{failure:?}");

    world.source.set_access("local all postgres trust\nlocal all all reject\n").unwrap();
    world.source.reload().unwrap();
    let loaded = "SELECT count(*) = 1 FROM pg_hba_file_rules WHERE auth_method = 'reject'";
    world.source.wait_until("postgres", loaded, PATIENCE).await.unwrap();
    let failure = perform_with(&world.context(Side::Destination), &SUBSCRIBE).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ReplicationLoginFailed, "{failure:?}");
    assert_eq!(failure.sqlstate.as_deref(), Some("28000"));
    let none = "SELECT NOT EXISTS (SELECT FROM pg_subscription)";
    world.destination.wait_until(&database, none, Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn the_password_reaches_no_log() {
    let world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let database = world.options.database.clone();
    for cluster in [&world.source, &world.destination] {
        set(cluster, "log_statement", "all").await;
        set(cluster, "log_min_duration_statement", "0").await;
        set(cluster, "log_replication_commands", "on").await;
    }
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    perform(&world, Side::Destination, &AwaitCopy).await;
    let client = world.destination.connect(&database).await.unwrap();
    let conninfo: String = client.query_one("SELECT subconninfo FROM pg_subscription", &[]).await.unwrap().get(0);
    let password = conninfo.split("password='").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(password.len(), 43, "the generated one, not the placeholder");
    for cluster in [&world.source, &world.destination] {
        let log = cluster.log_text().unwrap();
        assert!(!log.contains(password), "a password in the log of port {}", cluster.port);
        assert!(!log.contains("SCRAM-SHA-256$"), "a verifier in the log of port {}", cluster.port);
    }
    // The log is on: other statements are there.
    assert!(world.destination.log_text().unwrap().contains("subconninfo"));
}

#[tokio::test]
async fn a_copy_that_fails_is_told() {
    let world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let database = world.options.database.clone();
    set(&world.destination, "wal_retrieve_retry_interval", "100ms").await;
    world.destination.execute(&database, "INSERT INTO t VALUES (1)").await.unwrap();
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    let failure = perform_with(&world.context(Side::Destination), &AwaitCopy).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ApplyFailed, "{failure:?}");
    world.destination.execute(&database, "DELETE FROM t").await.unwrap();
    assert_eq!(perform(&world, Side::Destination, &AwaitCopy).await.table_count, 3);
}

#[tokio::test]
async fn an_outage_of_the_link_is_lag_and_passes() {
    let mut world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    perform(&world, Side::Destination, &AwaitCopy).await;
    let low = AwaitLag { max_lag: Duration::from_secs(3), stable_window: Duration::from_secs(1) };
    perform(&world, Side::Source, &low).await;
    world.cut_link();
    let agent = world.source_agent.clone();
    let lag = || agent.heartbeats.reading(&crate::world::migration()).map(|reading| reading.lag);
    let grows = async {
        while lag().is_none_or(|lag| lag < Duration::from_secs(4)) {
            agent.tasks.clock.sleep(Duration::from_millis(50)).await;
        }
    };
    agent.tasks.clock.timeout(PATIENCE, grows).await.expect("the lag grows while nothing arrives");
    world.mend_link().await;
    perform(&world, Side::Source, &low).await;
    let gauge = agent.gauges.snapshot().remove(&crate::world::migration()).unwrap();
    assert!(gauge.lag.is_some() && gauge.lag_bytes.is_some());

    // Neither outage of a server ends the heartbeat.
    world.source.restart().await.unwrap();
    perform(&world, Side::Source, &low).await;
    world.destination.restart().await.unwrap();
    perform(&world, Side::Source, &low).await;
}

#[tokio::test]
async fn what_table_synchronisation_left_behind_is_dropped() {
    let world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let database = world.options.database.clone();
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    perform(&world, Side::Destination, &AwaitCopy).await;
    let client = world.destination.connect("postgres").await.unwrap();
    let system: String =
        client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).await.unwrap().get(0);
    let make = |name: &str| format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
    world.source.execute(&database, &make(&format!("pg_16400_sync_16385_{system}"))).await.unwrap();
    world.source.execute(&database, &make("pg_16400_sync_16385_1")).await.unwrap();
    // While the subscription still holds the slot.
    SLOT.undo(&world.context(Side::Source)).await.unwrap();
    let others = "SELECT array_agg(slot_name::text) = '{pg_16400_sync_16385_1}' FROM pg_replication_slots";
    world.source.wait_until(&database, others, Duration::from_secs(1)).await.unwrap();
    undo(&world, Side::Destination, &SUBSCRIBE).await;
}

#[tokio::test]
async fn a_direct_path_needs_the_policys_word() {
    let direct = CreateSubscription { path: ConnectionPath::Direct, copy_method: CopyMethod::Native };
    let world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let failure = perform_with(&world.context(Side::Destination), &direct).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PolicyDenied);
    drop(world);

    let options = Options { direct: true, ..Options::default() };
    let world = ready_in(World::start_with(options).await, "CREATE TABLE public.t (id int PRIMARY KEY)").await;
    perform(&world, Side::Destination, &direct).await;
    assert_eq!(perform(&world, Side::Destination, &AwaitCopy).await.table_count, 3);
    let client = world.destination.connect(&world.options.database).await.unwrap();
    let conninfo: String = client.query_one("SELECT subconninfo FROM pg_subscription", &[]).await.unwrap().get(0);
    assert!(conninfo.contains(&format!("port='{}'", world.source.port)), "to the server itself");
    undo(&world, Side::Destination, &direct).await;
}

/// An attempt that dies after it was given a new password leaves a subscription
/// that looks finished and cannot log in any more. The next attempt mends it.
#[tokio::test]
async fn a_password_that_was_asked_for_in_vain_is_asked_for_again() {
    let world = ready_to_subscribe("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let database = world.options.database.clone();
    perform(&world, Side::Destination, &SUBSCRIBE).await;
    fail_point::arm("create_subscription.perform.access");
    let cx = world.context(Side::Destination);
    assert!(AssertUnwindSafe(SUBSCRIBE.perform(&cx)).catch_unwind().await.is_err(), "killed");
    perform(&world, Side::Destination, &SUBSCRIBE).await;

    world.source.execute(&database, "INSERT INTO public.t VALUES (1)").await.unwrap();
    let parted = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    world.source.execute("postgres", parted).await.unwrap();
    world.source.execute(&database, "INSERT INTO public.t VALUES (2)").await.unwrap();
    world.destination.wait_until(&database, "SELECT count(*) = 2 FROM public.t", PATIENCE).await.unwrap();
}

/// Whatever became of the schema's own undo: applications are not let into what may be a copy.
#[tokio::test]
async fn a_destination_that_holds_anything_is_not_opened_again() {
    let world = World::start().await;
    let database = world.options.database.clone();
    perform(&world, Side::Destination, &CloseDatabase).await;
    // As an older release has closed it, whose agent has lost its journal.
    let older = "UPDATE pgportage.ledger SET result = NULL; CREATE TABLE public.copied (id int)";
    world.destination.execute(&database, older).await.unwrap();
    let cx = world.context(Side::Destination);
    assert_eq!(RESTORE.undo(&cx).await.unwrap_err().reason, Reason::CouldNotCheck);
    let failure = CloseDatabase.undo(&cx).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DatabaseNotEmpty);
    assert!(failure.detail.contains("public.copied"), "{failure:?}");
    let closed = "SELECT state = 'closed' FROM pgportage.decision";
    world.destination.wait_until(&database, closed, PATIENCE).await.unwrap();
    world.destination.execute(&database, "DROP TABLE public.copied").await.unwrap();
    undo(&world, Side::Destination, &RESTORE).await;
    undo(&world, Side::Destination, &CloseDatabase).await;
}

/// A publication of our name that we did not make is left alone, and the hint frees the name.
#[tokio::test]
async fn a_publication_in_the_way_is_gone_after_its_hint() {
    let world = World::start().await;
    let database = world.options.database.clone();
    perform(&world, Side::Source, &CreateReplicationRole).await;
    let name = pgportage_migration::names::replication_name(&crate::world::migration());
    world.source.execute(&database, &format!("CREATE PUBLICATION {name}")).await.unwrap();
    let failure = perform_with(&world.context(Side::Source), &CreatePublication).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ObjectConflict);
    let (_, statement) = failure.hint.split_once("run: ").unwrap();
    world.source.execute(&database, statement).await.unwrap();
    perform(&world, Side::Source, &CreatePublication).await;
}
