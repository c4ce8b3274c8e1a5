//! A source that commits more than a thousand transactions a second while it is
//! copied, and all the time until the cutover.

use std::time::Duration;

use anyhow::Context;
use pgportage_tests::ballast::{self, Changes};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{Ledger, PostgresVersion, Site, SiteOptions};

use PostgresVersion::{V15, V18};

const LIMIT: Duration = Duration::from_secs(300);
/// Transactions a second that the source has to get.
const WANTED: f64 = 1000.0;
const BALLAST_ROWS: u32 = 300_000;
/// The rate is looked at in so many parts of the copy.
const PARTS: u32 = 4;

/// Acknowledgements of the source a second, between two times of the ledger.
fn rate(ledger: &Ledger, from: Duration, to: Duration) -> f64 {
    let acknowledged = ledger.completions(End::Source).filter(|time| (from..to).contains(time)).count();
    acknowledged as f64 / (to - from).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_transactions_a_second_during_the_whole_copy() {
    let mut options = SiteOptions::new(V15, V18);
    // Checkpoints of a real server are further apart.
    options.source = options.source.setting("max_wal_size", "4GB").setting("max_connections", "200");
    options.destination = options.destination.setting("max_wal_size", "4GB");
    let site = Site::start(options).await.unwrap();
    ballast::prepare(&site.source, &site.database, APPLICATION, BALLAST_ROWS).await.unwrap();
    let writers = WorkloadOptions { writers: 4, rapid_writers: 60, ..WorkloadOptions::default() };
    let journey = Journey::begin(site, 2_000, &writers).await.unwrap();
    let (site, workload) = (&journey.site, &journey.workload);
    site.create(MIGRATION).await.unwrap();
    site.cli.run(&["start", MIGRATION, "--detach"]).await.unwrap();

    let copying = async |what: &str, state: &str| {
        wait::until(what, LIMIT, async || {
            let status = site.cli.status(MIGRATION).await?;
            let copy = status.step("copy").context("no such step")?;
            Ok(if copy.state == state { Seen::Done(workload.start.elapsed()) } else { Seen::NotYet(status.summary()) })
        })
        .await
        .with_context(|| site.last_words())
    };
    let begun = copying("the copy to begin", "running").await.unwrap();
    let ended = copying("the copy to end", "succeeded").await.unwrap();
    let ready = site.cli.wait_for(MIGRATION, "the cutover", LIMIT, |status| status.ready_for_cutover).await;
    ready.with_context(|| site.last_words()).unwrap();
    let caught_up = workload.start.elapsed();
    journey.cut_over().await.unwrap();
    let (site, arrival) = journey.finish().await.unwrap();

    let part = (ended - begun) / PARTS;
    let during = (0..PARTS).map(|number| rate(&arrival.ledger, begun + part * number, begun + part * (number + 1)));
    let during: Vec<f64> = during.collect();
    let after = rate(&arrival.ledger, ended, caught_up);
    println!(
        "{during:.0?} transactions a second during the copy of {:.1} s, {after:.0} until ready for the cutover {:.1} s \
         later; outage {:?}, {} rows compared",
        (ended - begun).as_secs_f64(),
        (caught_up - ended).as_secs_f64(),
        arrival.ledger.outage().unwrap().length(),
        arrival.rows_compared,
    );
    let source = site.source.connect(&site.database).await.unwrap();
    let destination = site.destination.connect(&site.database).await.unwrap();
    ballast::compare(&source, &destination, BALLAST_ROWS, Changes::default()).await.unwrap();
    assert!(during.iter().all(|rate| *rate >= WANTED), "{during:?} transactions a second during the copy");
    assert!(ended - begun >= Duration::from_secs(2), "a copy of {:?} proves little", ended - begun);
}
