//! The watch, beside real servers.

use std::time::Duration;

use pgportage_data_plane::figures::Gauge;
use pgportage_link::{Clock, Remedy, fail_point};
use pgportage_migration::journal::CommandEntry;
use pgportage_migration::journal::Note;
use pgportage_proto::{Reason, Side};
use pgportage_tests::cluster::{Cluster, ClusterOptions};
use pgportage_tests::postgres_versions::PostgresVersion;
use pgportage_tests::wait::{self, Seen};
use uuid::Uuid;

use crate::support::{Lone, Options};

const PATIENCE: Duration = Duration::from_secs(40);
const GONE: &str = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'pgportage_shop')";

/// A source with a slot of ours, made for the migration `shop`.
async fn source(version: PostgresVersion, options: &ClusterOptions) -> Cluster {
    let cluster = Cluster::start(version, options).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster
        .execute(
            "shop",
            "CREATE TABLE public.t (id int PRIMARY KEY, a int); INSERT INTO public.t VALUES (1, 0);
             CREATE PUBLICATION pgportage_shop FOR TABLE public.t",
        )
        .await
        .unwrap();
    let slot = "SELECT pg_create_logical_replication_slot('pgportage_shop', 'pgoutput')";
    cluster.execute("shop", slot).await.unwrap();
    cluster
}

fn beside(cluster: &Cluster, drop_slot: bool) -> Lone {
    let options = Options {
        limits: "retained_wal_warn_bytes = 50_000_000\nretained_wal_abort_bytes = 200_000_000\n\
                 free_disk_warn_bytes = 1\nfree_disk_abort_bytes = 0\n"
            .to_owned(),
        policy: format!("[destructive]\ndrop_slot = {drop_slot}\n"),
        ..Options::new(Side::Source)
    };
    let lone = Lone::beside(cluster, &options);
    join(&lone);
    // As the act does that makes the slot.
    lone.agent.journal.set_note(&lone.participation.migration, Note::Slot, "pgportage_shop").unwrap();
    lone
}

/// Writes the participation into the journal, as an accepted command does.
fn join(lone: &Lone) {
    let command = CommandEntry {
        id: Uuid::now_v7().to_string(),
        migration: lone.participation.migration.to_string(),
        digest: [0; 32],
        message: Vec::new(),
        actor: "spiffe://example.org/pgportage/coordinator/main".to_owned(),
        actor_serial: String::new(),
    };
    lone.agent.journal.accept(&command, Some(&lone.participation), &[], Clock.wall()).unwrap();
}

/// Moves the server's position on by so many segments of 16 MB.
async fn write(cluster: &Cluster, segments: u32) {
    let client = cluster.connect("shop").await.unwrap();
    for _segment in 0..segments {
        client.batch_execute("UPDATE public.t SET a = a + 1 WHERE id = 1").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
}

async fn gauge(lone: &Lone, what: &str, fits: impl Fn(&Gauge) -> bool) -> Gauge {
    wait::until(what, PATIENCE, || async {
        let gauge = lone.agent.gauges.snapshot().remove(&lone.participation.migration).unwrap_or_default();
        Ok(if fits(&gauge) { Seen::Done(gauge) } else { Seen::NotYet(format!("{gauge:?}")) })
    })
    .await
    .unwrap()
}

async fn given_up(lone: &Lone) -> Reason {
    wait::until("the slot to be given up", PATIENCE, || async {
        Ok(match lone.agent.slots.stands(&lone.participation.migration) {
            Ok(()) => Seen::NotYet("it stands".to_owned()),
            Err(failure) => {
                assert_eq!(failure.remedy, Remedy::Abort, "{failure:?}");
                Seen::Done(failure.reason)
            }
        })
    })
    .await
    .unwrap()
}

async fn stop(lone: &Lone) {
    lone.agent.tasks.stop.cancel();
    lone.agent.tasks.tracker.close();
    Clock.timeout(PATIENCE, lone.agent.tasks.tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn warns_then_gives_way_while_a_subscriber_holds_the_slot() {
    let source = source(PostgresVersion::V16, &ClusterOptions::new()).await;
    let destination = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    destination.execute("postgres", "CREATE TABLE public.t (id int PRIMARY KEY, a int)").await.unwrap();
    let subscription = format!(
        "CREATE SUBSCRIPTION pgportage_shop CONNECTION 'host=127.0.0.1 port={} dbname=shop user=postgres password={}'
             PUBLICATION pgportage_shop WITH (create_slot = false, slot_name = 'pgportage_shop', copy_data = false)",
        source.port, source.superuser_password
    );
    // Apply waits for this row and takes nothing away.
    let lock = destination.connect("postgres").await.unwrap();
    lock.batch_execute("INSERT INTO public.t VALUES (1, 0); BEGIN; SELECT FROM public.t WHERE id = 1 FOR UPDATE")
        .await
        .unwrap();
    destination.connect("postgres").await.unwrap().batch_execute(&subscription).await.unwrap();
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'pgportage_shop'";
    source.wait_until("shop", active, PATIENCE).await.unwrap();

    let lone = beside(&source, true);
    lone.agent.tasks.spawn(lone.agent.watch().run());
    let seen = gauge(&lone, "the first look", |gauge| gauge.retained_wal_bytes.is_some()).await;
    assert_eq!(seen.warning, "");
    assert!(seen.xmin_age.is_some() && seen.free_disk_bytes.is_some(), "{seen:?}");
    write(&source, 6).await;
    let seen = gauge(&lone, "a warning", |gauge| !gauge.warning.is_empty()).await;
    assert!(seen.warning.contains("of WAL retained for the slot"), "{}", seen.warning);
    lone.agent.slots.stands(&lone.participation.migration).unwrap();

    write(&source, 10).await;
    source.wait_until("shop", GONE, PATIENCE).await.unwrap();
    assert_eq!(given_up(&lone).await, Reason::WalLimitExceeded);
    // The source works on.
    write(&source, 1).await;
    stop(&lone).await;
}

#[tokio::test]
async fn without_the_policys_word_it_only_warns() {
    let source = source(PostgresVersion::V15, &ClusterOptions::new()).await;
    let lone = beside(&source, false);
    lone.agent.tasks.spawn(lone.agent.watch().run());
    write(&source, 16).await;
    gauge(&lone, "a warning", |gauge| gauge.warning.contains("the policy does not allow")).await;
    source.wait_until("shop", &format!("SELECT NOT ({})", &GONE[7..]), PATIENCE).await.unwrap();
    stop(&lone).await;
}

#[tokio::test]
async fn a_slot_that_the_server_gave_up_is_noticed() {
    let options = ClusterOptions::new().setting("max_slot_wal_keep_size", "32MB");
    for version in [PostgresVersion::V14, PostgresVersion::V18] {
        let source = source(version, &options).await;
        let lone = beside(&source, true);
        lone.agent.tasks.spawn(lone.agent.watch().run());
        gauge(&lone, "the first look", |gauge| gauge.retained_wal_bytes.is_some()).await;
        write(&source, 6).await;
        source.execute("shop", "CHECKPOINT").await.unwrap();
        assert_eq!(given_up(&lone).await, Reason::SlotLost, "{version}");
        stop(&lone).await;
    }
}

#[tokio::test]
async fn a_slot_that_somebody_dropped_is_noticed() {
    let mut source = source(PostgresVersion::V17, &ClusterOptions::new()).await;
    let lone = beside(&source, true);
    lone.agent.tasks.spawn(lone.agent.watch().run());
    gauge(&lone, "the first look", |gauge| gauge.retained_wal_bytes.is_some()).await;
    // A server that is away is no lost slot.
    source.restart().await.unwrap();
    gauge(&lone, "a look after the restart", |gauge| gauge.warning.is_empty()).await;
    source.execute("shop", "SELECT pg_drop_replication_slot('pgportage_shop')").await.unwrap();
    assert_eq!(given_up(&lone).await, Reason::SlotLost);
    stop(&lone).await;
}

/// Killed between the note and the drop: the next start finishes it.
#[tokio::test]
async fn a_new_start_drops_what_was_given_up() {
    let source = source(PostgresVersion::V18, &ClusterOptions::new()).await;
    let lone = beside(&source, true);
    write(&source, 16).await;
    let point = "watch.give_up.noted";
    fail_point::arm(point);
    let died = tokio::spawn(lone.agent.watch().run());
    let died = Clock.timeout(PATIENCE, died).await.unwrap();
    assert!(died.unwrap_err().is_panic() && !fail_point::disarm(point));
    assert_eq!(given_up(&lone).await, Reason::WalLimitExceeded);
    source.wait_until("shop", &format!("SELECT NOT ({GONE})"), PATIENCE).await.unwrap();
    lone.agent.tasks.spawn(lone.agent.watch().run());
    source.wait_until("shop", GONE, PATIENCE).await.unwrap();
    assert_eq!(given_up(&lone).await, Reason::WalLimitExceeded);
    stop(&lone).await;
}
