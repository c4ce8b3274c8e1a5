//! Cutovers under the loads that break naive ones: logins caught in flight,
//! autovacuum on a large table, a policy that lets writers go first. (Writers whose
//! transactions visit tables in random order are part of every workload.)

use std::time::Duration;

use pgportage_link::Clock;
use pgportage_tests::cluster::connect;
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{ClusterOptions, PostgresVersion, Site, SiteOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use PostgresVersion::{V15, V18};

const LIMIT: Duration = Duration::from_secs(60);

/// A login that has passed the check of its right to connect, and sleeps before
/// anybody can see it, must not write once the source is fenced.
#[tokio::test]
async fn logins_in_flight() {
    let site = Site::start(SiteOptions::new(V15, V18)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();

    let stop = CancellationToken::new();
    let mut logins = JoinSet::new();
    for number in 0..6_i64 {
        let mut config = journey.site.source.tcp_config(&journey.site.database, APPLICATION, APPLICATION_PASSWORD);
        // After the check of CONNECT, before the session is listed anywhere.
        config.options("-c post_auth_delay=1");
        let stop = stop.clone();
        logins.spawn(async move {
            let mut acknowledged = 0_i64;
            while !stop.is_cancelled() {
                let Ok(client) = connect(&config).await else {
                    Clock.sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let token = -(1_000_000 * (number + 1) + acknowledged);
                let insert = "INSERT INTO events (token, written_on, note) VALUES ($1, 'source', 'in flight')";
                acknowledged += i64::from(client.execute(insert, &[&token]).await.is_ok());
            }
            acknowledged
        });
    }
    let in_flight = "SELECT count(*) > 5 FROM events WHERE note = 'in flight'";
    journey.site.source.wait_until(&journey.site.database, in_flight, LIMIT).await.unwrap();
    journey.cut_over().await.unwrap();
    stop.cancel();
    let acknowledged: i64 = logins.join_all().await.into_iter().sum();
    let database = journey.site.database.clone();
    // Every one of them is compared on both sides here.
    let (site, _arrival) = journey.finish().await.unwrap();
    let all_there = format!("SELECT count(*) >= {acknowledged} FROM events WHERE note = 'in flight'");
    site.destination.wait_until(&database, &all_there, LIMIT).await.unwrap();
}

/// Autovacuum gives way to a lock only after `deadlock_timeout`; the barrier must
/// not wait for that under its strong lock.
#[tokio::test]
async fn autovacuum_on_a_large_table() {
    let mut options = SiteOptions::new(V15, V18);
    // A vacuum that starts at once and takes its time.
    options.source = ClusterOptions::new()
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_vacuum_cost_delay", "100ms")
        .setting("autovacuum_vacuum_cost_limit", "1");
    let site = Site::start(options).await.unwrap();
    let journey = Journey::begin(site, 50_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let database = &journey.site.database;
    let source = &journey.site.source;
    source.execute(database, "UPDATE events SET note = note || '.' WHERE token < 0").await.unwrap();
    let vacuum = "SELECT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 'events'::regclass)";
    source.wait_until(database, vacuum, LIMIT).await.unwrap();
    journey.cut_over().await.unwrap();
    let (_site, arrival) = journey.finish().await.unwrap();
    println!("outage with a vacuum under way: {:?}", arrival.ledger.outage().unwrap().length());
}

/// Where the policy says so, a cutover that waits for a writer which waits for it is taken
/// back by itself, and no statement is cancelled.
#[tokio::test]
async fn a_policy_that_yields_to_writers() {
    let options = SiteOptions::new(V15, V18).limit("barrier_conflict", "\"yield\"");
    let site = Site::start(options).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let (source, database) = (&journey.site.source, &journey.site.database);
    let mut writer = source.connect_as(database, APPLICATION, APPLICATION_PASSWORD).await.unwrap();
    let tables = "SELECT min(oid)::regclass::text, max(oid)::regclass::text FROM pg_class
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let tables = writer.query_one(tables, &[]).await.unwrap();
    let (first, last): (String, String) = (tables.get(0), tables.get(1));
    // Holds what is locked last, and wants what is locked first; writes nothing, or it would
    // be refused as a transaction that is open for long.
    let transaction = writer.transaction().await.unwrap();
    transaction.batch_execute(&format!("LOCK TABLE {last} IN ROW EXCLUSIVE MODE")).await.unwrap();
    let locks_wait =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND mode = 'ShareLock')";
    let taken_back = {
        let mut cutover = std::pin::pin!(journey.site.cli.expect(1, &["cutover", MIGRATION, "--yes"]));
        tokio::select! {
            // The other writers make cycles as well.
            taken_back = &mut cutover => taken_back,
            // Elsewhere than in the database that moves, where a superuser would be in the way.
            waiting = source.wait_until("postgres", locks_wait, LIMIT) => {
                waiting.unwrap();
                transaction.batch_execute(&format!("LOCK TABLE {first} IN ROW EXCLUSIVE MODE")).await.unwrap();
                transaction.commit().await.unwrap();
                cutover.await
            }
        }
    };
    let taken_back = taken_back.unwrap();
    assert!(taken_back.all().contains("BARRIER_CONFLICT"), "{}", taken_back.all());
    let (_site, ledger) = journey.check_return().await.unwrap();
    assert!(!ledger.refused.contains_key("57014"), "a statement was cancelled: {:?}", ledger.refused);
}
