//! Cutovers under the loads that break naive ones: logins caught in flight,
//! autovacuum on a large table. (Writers whose transactions visit tables in
//! random order are part of every workload.)

use std::time::Duration;

use pgportage_link::Clock;
use pgportage_tests::cluster::connect;
use pgportage_tests::journey::Journey;
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
