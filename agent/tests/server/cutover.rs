//! The cutover's acts on two real servers, with the link between two agents of
//! this process: what they do, that doing them twice does no harm, and how they
//! are taken back, also after a death between any two of their effects.

mod budget;
mod conflict;
mod written;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::cutover::{
    DrainToMarker, FenceSource, FenceSourceResult, OpenDestination, PrepareCutover, RaiseBarrier, RaiseBarrierResult,
    ReleaseBarrier, Switch,
};
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::{Act, Survey};
use pgportage_agent::pooler::Unreachable;
use pgportage_link::{Effect, Failure, fail_point};
use pgportage_migration::names;
use pgportage_postgres::access::Access;
use pgportage_proto::{Reason, Side};
use pgportage_tests::cluster::{Cluster, SUPERUSER, connect};
use pgportage_tests::wait::{self, Seen};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::world::{Options, World, migration};

const APPLICATION: &str = "app";
const PASSWORD: &str = "correct horse";
const BUDGET: Duration = Duration::from_secs(20);
const MAX_LAG: Duration = Duration::from_secs(30);

const SCHEMA: &str = "\
CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL);
CREATE TABLE public.events (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE SEQUENCE public.tickets INCREMENT BY -3 MAXVALUE 1000 START 1000;
ALTER TABLE public.orders OWNER TO app;
ALTER TABLE public.events OWNER TO app;
ALTER SEQUENCE public.tickets OWNER TO app";

/// A world whose database has arrived and is caught up: everything but the
/// cutover, the subscription made by hand.
async fn caught_up() -> World {
    caught_up_with(Options::default()).await
}

async fn caught_up_with(options: Options) -> World {
    let world = World::start_with(options).await;
    let database = world.options.database.clone();
    for cluster in [&world.source, &world.destination] {
        cluster.execute("postgres", &format!("CREATE ROLE {APPLICATION} LOGIN PASSWORD '{PASSWORD}'")).await.unwrap();
        cluster.execute("postgres", &format!("ALTER DATABASE {database} OWNER TO {APPLICATION}")).await.unwrap();
    }
    world.source.execute(&database, SCHEMA).await.unwrap();
    world
        .source
        .execute(
            &database,
            "INSERT INTO orders (note) SELECT 'n' FROM generate_series(1, 41); SELECT nextval('tickets')",
        )
        .await
        .unwrap();
    perform(&world, Side::Source, &CreateReplicationRole).await.unwrap();
    perform(&world, Side::Source, &CreatePublication).await.unwrap();
    perform(&world, Side::Destination, &CloseDatabase).await.unwrap();
    world.destination.execute(&database, SCHEMA).await.unwrap();
    let name = names::replication_name(&migration());
    let statement = format!(
        "CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port={} user=postgres password={} dbname={database}' \
         PUBLICATION {name}",
        world.source.port, world.source.superuser_password
    );
    world.destination.execute(&database, &statement).await.unwrap();
    world
        .destination
        .wait_until(&database, "SELECT count(*) > 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel", MAX_LAG)
        .await
        .unwrap();
    world
}

async fn perform<A: Act>(world: &World, side: Side, act: &A) -> Result<A::Output, Failure> {
    let cx = world.context(side);
    match act.survey(&cx).await? {
        Survey::Done(output) => Ok(output),
        Survey::Ready => act.perform(&cx).await,
    }
}

async fn undo<A: Act>(world: &World, side: Side, act: &A) -> Result<(), Failure> {
    act.undo(&world.context(side)).await
}

async fn application(cluster: &Cluster, database: &str) -> anyhow::Result<Client> {
    cluster.connect_as(database, APPLICATION, PASSWORD).await
}

async fn access(cluster: &Cluster, database: &str) -> Access {
    Access::read(&cluster.connect(database).await.unwrap()).await.unwrap()
}

/// A cutover and nothing besides.
fn cutover(cutover_epoch: i64, max_outage: Duration) -> PrepareCutover {
    PrepareCutover {
        cutover_epoch,
        max_outage,
        switch: Switch::Cutover,
        way_back: false,
        rehearsal: false,
        unreachable: Unreachable::Refuse,
        compare_written: false,
    }
}

async fn prepare(world: &World, epoch: i64) {
    let act = cutover(epoch, BUDGET);
    let source = perform(world, Side::Source, &act).await.unwrap();
    let destination = perform(world, Side::Destination, &act).await.unwrap();
    assert_eq!(source, destination, "both sides see the same tables and the same catalog");
}

async fn raise(world: &World, epoch: i64) -> RaiseBarrierResult {
    perform(world, Side::Source, &RaiseBarrier { cutover_epoch: epoch, max_outage: BUDGET }).await.unwrap()
}

async fn drain(world: &World, epoch: i64, barrier: &RaiseBarrierResult) {
    let act = DrainToMarker {
        cutover_epoch: epoch,
        marker_id: barrier.marker_id,
        sequences: barrier.sequences.clone(),
        open_timeout: BUDGET,
        catalog_digest: barrier.catalog_digest.clone(),
        compare_limit: None,
    };
    let first = perform(world, Side::Destination, &act).await.unwrap();
    assert_eq!(perform(world, Side::Destination, &act).await.unwrap(), first, "asked twice, done once");
}

async fn fence(world: &World, epoch: i64, barrier: &RaiseBarrierResult) -> FenceSourceResult {
    let act = FenceSource { cutover_epoch: epoch, marker_id: barrier.marker_id };
    let first = perform(world, Side::Source, &act).await.unwrap();
    assert_eq!(perform(world, Side::Source, &act).await.unwrap(), first, "asked twice, done once");
    first
}

#[tokio::test]
async fn the_database_changes_hands() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let writer = application(&world.source, &database).await.unwrap();
    assert!(application(&world.destination, &database).await.is_err(), "the destination is closed");

    prepare(&world, 1).await;
    let barrier = raise(&world, 1).await;
    assert_eq!(raise(&world, 1).await, barrier, "asked twice, done once");
    writer.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    writer.batch_execute("INSERT INTO public.orders (note) VALUES ('late')").await.unwrap_err();
    // SHARE locks do not stop this: the fence has to read sequences again.
    writer.query("SELECT nextval('public.tickets')", &[]).await.unwrap();
    drain(&world, 1, &barrier).await;

    let fenced = fence(&world, 1, &barrier).await;
    assert!(fenced.terminated_session_count >= 1);
    assert!(writer.query("SELECT 1", &[]).await.is_err(), "its session was ended");
    assert!(application(&world.source, &database).await.is_err(), "and it cannot come back");
    let ticket = fenced.sequences.iter().find(|sequence| sequence.name.relation == "tickets").unwrap();
    assert_eq!((ticket.last_value, ticket.called), (997, true));

    let open = OpenDestination { cutover_epoch: 1, sequences: fenced.sequences.clone() };
    perform(&world, Side::Destination, &open).await.unwrap();
    perform(&world, Side::Destination, &open).await.unwrap();
    perform(&world, Side::Source, &ReleaseBarrier { cutover_epoch: 1 }).await.unwrap();
    assert!(application(&world.source, &database).await.is_err(), "the fence stays");

    let writer = application(&world.destination, &database).await.unwrap();
    let next: i64 = writer.query_one("SELECT nextval('public.tickets')", &[]).await.unwrap().get(0);
    assert_eq!(next, 994);
    let id: i64 =
        writer.query_one("INSERT INTO public.orders (note) VALUES ('new') RETURNING id", &[]).await.unwrap().get(0);
    assert_eq!(id, 42, "the value after the last one on the source");

    // From here on nothing is taken back.
    let fence = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    assert_eq!(undo(&world, Side::Source, &fence).await.unwrap_err().reason, Reason::DestinationOpened);
    assert!(application(&world.source, &database).await.is_err());
    assert_eq!(undo(&world, Side::Destination, &open).await.unwrap_err().reason, Reason::DestinationOpened);
}

#[tokio::test]
async fn a_barrier_goes_without_a_trace() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let before = access(&world.source, &database).await;
    prepare(&world, 1).await;
    raise(&world, 1).await;
    let act = RaiseBarrier { cutover_epoch: 1, max_outage: BUDGET };
    undo(&world, Side::Source, &act).await.unwrap();
    undo(&world, Side::Source, &act).await.unwrap();
    let writer = application(&world.source, &database).await.unwrap();
    writer.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
    assert_eq!(access(&world.source, &database).await, before);
    // What was lost is not pretended: the acts that need the barrier refuse.
    let fence = FenceSource { cutover_epoch: 1, marker_id: uuid::Uuid::nil() };
    assert_eq!(perform(&world, Side::Source, &fence).await.unwrap_err().reason, Reason::BarrierLost);
}

#[tokio::test]
async fn a_rehearsal_goes_no_further_than_the_drain() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let before = access(&world.source, &database).await;
    for epoch in 1..=2 {
        let act = PrepareCutover { rehearsal: true, ..cutover(epoch, BUDGET) };
        perform(&world, Side::Source, &act).await.unwrap();
        perform(&world, Side::Destination, &act).await.unwrap();
        let barrier = raise(&world, epoch).await;
        drain(&world, epoch, &barrier).await;
        // A coordinator gone wrong, or a program that pretends to be one.
        let fence = FenceSource { cutover_epoch: epoch, marker_id: barrier.marker_id };
        let open = OpenDestination { cutover_epoch: epoch, sequences: barrier.sequences.clone() };
        let refusals = [
            perform(&world, Side::Source, &fence).await.unwrap_err(),
            perform(&world, Side::Destination, &open).await.unwrap_err(),
        ];
        for failure in refusals {
            assert_eq!((failure.reason, failure.effect), (Reason::WrongState, Effect::None), "{failure:?}");
        }
        let raise = RaiseBarrier { cutover_epoch: epoch, max_outage: BUDGET };
        undo(&world, Side::Source, &raise).await.unwrap();
        undo(&world, Side::Source, &act).await.unwrap();
        undo(&world, Side::Destination, &act).await.unwrap();
        assert_eq!(access(&world.source, &database).await, before);
        let writer = application(&world.source, &database).await.unwrap();
        writer.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
        assert!(application(&world.destination, &database).await.is_err(), "the destination is closed");
    }
    // The real one finds everything as if nothing had been.
    prepare(&world, 3).await;
    let barrier = raise(&world, 3).await;
    drain(&world, 3, &barrier).await;
    fence(&world, 3, &barrier).await;
}

#[tokio::test]
async fn a_death_at_any_point_of_the_fence_is_taken_back_by_the_destinations_promise() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let before = access(&world.source, &database).await;
    let points = ["noted", "committed", "expelled", "proved"].map(|point| format!("fence_source.perform.{point}"));
    for (epoch, point) in (1..).zip(&points) {
        prepare(&world, epoch).await;
        let barrier = raise(&world, epoch).await;
        drain(&world, epoch, &barrier).await;
        let act = FenceSource { cutover_epoch: epoch, marker_id: barrier.marker_id };
        fail_point::arm(point);
        let died = AssertUnwindSafe(perform(&world, Side::Source, &act)).catch_unwind().await;
        assert!(died.is_err(), "{point} was not passed");
        // A killed agent loses its sessions, and with them the barrier.
        undo(&world, Side::Source, &RaiseBarrier { cutover_epoch: epoch, max_outage: BUDGET }).await.unwrap();
        assert_eq!(perform(&world, Side::Source, &act).await.unwrap_err().reason, Reason::BarrierLost);

        undo(&world, Side::Source, &act).await.unwrap();
        undo(&world, Side::Source, &act).await.unwrap();
        assert_eq!(access(&world.source, &database).await, before, "after {point}");
        let writer = application(&world.source, &database).await.unwrap();
        writer.batch_execute("INSERT INTO public.orders (note) VALUES ('on')").await.unwrap();
        if !point.ends_with("noted") {
            // A late order to open is refused: that was the promise.
            let open = OpenDestination { cutover_epoch: epoch, sequences: Vec::new() };
            let refusal = perform(&world, Side::Destination, &open).await.unwrap_err();
            assert!(matches!(refusal.reason, Reason::BarrierLost | Reason::OpenRefused), "{refusal:?}");
        }
        assert!(application(&world.destination, &database).await.is_err(), "the destination is closed");
    }
}

/// A login that the server has let in and that no look at its sessions shows for so many seconds.
fn unseen_login(world: &World, user: &str, password: &str, seconds: u32) -> JoinHandle<anyhow::Result<Client>> {
    let mut config = world.source.tcp_config(&world.options.database, user, password);
    config.options(format!("-c post_auth_delay={seconds}")).connect_timeout(MAX_LAG);
    tokio::spawn(async move { connect(&config).await })
}

/// Waits until so many logins are let in and unseen.
async fn unseen_logins(world: &World, count: usize) {
    let query = format!(
        "SELECT count(*) >= {count} FROM pg_locks
         WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND mode = 'RowExclusiveLock'
           AND objid = (SELECT oid FROM pg_database WHERE datname = '{}')",
        world.options.database
    );
    world.source.wait_until("postgres", &query, MAX_LAG).await.unwrap();
}

/// Waits until the server has ended a session: the first look behind the fence.
async fn ended(client: &Client) {
    let look = async || Ok(if client.is_closed() { Seen::Done(()) } else { Seen::NotYet("it is open".to_owned()) });
    wait::until("the end of a session", MAX_LAG, look).await.unwrap();
}

#[tokio::test]
async fn a_login_that_was_let_in_before_the_fence_is_ended_and_no_later_one_is_waited_for() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let idle = application(&world.source, &database).await.unwrap();
    prepare(&world, 1).await;
    let barrier = raise(&world, 1).await;
    drain(&world, 1, &barrier).await;
    let early = unseen_login(&world, APPLICATION, PASSWORD, 3);
    unseen_logins(&world, 1).await;
    let act = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    let mut late = None;
    let (fenced, ()) = tokio::join!(perform(&world, Side::Source, &act), async {
        ended(&idle).await;
        // Only superusers are let in from here on.
        late = Some(unseen_login(&world, SUPERUSER, &world.source.superuser_password, 15));
        unseen_logins(&world, 2).await;
    });
    fenced.unwrap();
    let late = late.unwrap();
    assert!(!late.is_finished(), "the fence waited for it");
    late.abort();
    if let Ok(early) = early.await.unwrap() {
        early.batch_execute("SELECT 1").await.unwrap_err();
    }
}

#[tokio::test]
async fn a_grant_behind_the_fence_is_noticed_although_it_was_taken_back() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let before = access(&world.source, &database).await;
    let idle = application(&world.source, &database).await.unwrap();
    prepare(&world, 1).await;
    let barrier = raise(&world, 1).await;
    drain(&world, 1, &barrier).await;
    let early = unseen_login(&world, APPLICATION, PASSWORD, 3);
    unseen_logins(&world, 1).await;
    let act = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    let (fenced, ()) = tokio::join!(perform(&world, Side::Source, &act), async {
        ended(&idle).await;
        let connect = format!("CONNECT ON DATABASE {database}");
        let there_and_back = format!("GRANT {connect} TO {APPLICATION}; REVOKE {connect} FROM {APPLICATION}");
        world.source.execute("postgres", &there_and_back).await.unwrap();
    });
    let failure = fenced.unwrap_err();
    assert_eq!(failure.reason, Reason::FenceIncomplete, "{failure:?}");
    assert!(failure.message.contains("changed behind the fence"), "{failure:?}");
    drop(early);
    undo(&world, Side::Source, &act).await.unwrap();
    assert_eq!(access(&world.source, &database).await, before);
}

#[tokio::test]
async fn without_the_destinations_word_the_source_stays_fenced() {
    let mut world = caught_up().await;
    let database = world.options.database.clone();
    prepare(&world, 1).await;
    let barrier = raise(&world, 1).await;
    drain(&world, 1, &barrier).await;
    fence(&world, 1, &barrier).await;
    world.destination.stop().await.unwrap();
    let act = FenceSource { cutover_epoch: 1, marker_id: barrier.marker_id };
    let failure = undo(&world, Side::Source, &act).await.unwrap_err();
    assert_eq!(failure.reason, Reason::CutoverInDoubt, "{failure:?}");
    assert!(application(&world.source, &database).await.is_err());
    world.destination.start_again().await.unwrap();
    undo(&world, Side::Source, &act).await.unwrap();
    application(&world.source, &database).await.unwrap();
}

#[tokio::test]
async fn preconditions_name_what_is_in_the_way() {
    let world = caught_up().await;
    let database = world.options.database.clone();
    let act = cutover(1, BUDGET);
    let superuser = world.source.connect(&database).await.unwrap();
    assert_eq!(perform(&world, Side::Source, &act).await.unwrap_err().reason, Reason::SuperuserSession);
    superuser.batch_execute("CREATE TABLE public.later (id int PRIMARY KEY)").await.unwrap();
    drop(superuser);
    world
        .source
        .wait_until(
            "postgres",
            &format!(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '{database}' AND usename = 'postgres' \
                 AND application_name NOT LIKE 'pgportage%')"
            ),
            MAX_LAG,
        )
        .await
        .unwrap();
    let failure = perform(&world, Side::Source, &act).await.unwrap_err();
    assert_eq!(failure.reason, Reason::SchemaDiffers, "{failure:?}");
    assert!(failure.detail.contains("later"), "{failure:?}");
}
