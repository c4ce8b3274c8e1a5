//! Whole migrations under load: nothing lost, nothing doubled, nothing left.

use std::time::Duration;

use pgportage_tests::journey::{Journey, MIGRATION, expect_refused};
use pgportage_tests::ledger::End;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, traces};

use PostgresVersion::{V14, V15, V16, V17, V18};

/// Generous for two busy cores; the demo prints what it really takes.
const LONGEST_OUTAGE: Duration = Duration::from_secs(10);

async fn migrate(source: PostgresVersion, destination: PostgresVersion) {
    let site = Site::start(SiteOptions::new(source, destination)).await.unwrap();
    let journey = Journey::begin(site, 20_000, &WorkloadOptions::default()).await.unwrap();
    let cli = &journey.site.cli;
    let database = &journey.site.database;
    cli.expect(0, &["preflight", "--from", "berlin", "--to", "oslo", "--database", database]).await.unwrap();
    journey.until_cutover().await.unwrap();
    expect_refused(&journey.site, End::Destination).await.unwrap();
    cli.expect(0, &["plan", MIGRATION]).await.unwrap();
    cli.expect(0, &["verify", MIGRATION]).await.unwrap();
    journey.cut_over().await.unwrap();
    let (site, arrival) = journey.finish().await.unwrap();

    let outage = arrival.ledger.outage().unwrap();
    println!(
        "{source} to {destination}: outage {:?}, {} + {} writes acknowledged, {} unknown, {} rows compared, refused {:?}",
        outage.length(),
        arrival.ledger.acknowledged(End::Source),
        arrival.ledger.acknowledged(End::Destination),
        arrival.ledger.unknown(),
        arrival.rows_compared,
        arrival.ledger.refused,
    );
    assert!(outage.length() < LONGEST_OUTAGE, "{outage:?}");
    assert!(arrival.rows_compared > 20_000);
    let status = site.cli.status(MIGRATION).await.unwrap();
    assert_eq!(status.state, "succeeded");
    assert!(!status.unfence_statements.is_empty());

    // The statements that were handed out do open the source again.
    for statement in &status.unfence_statements {
        site.source.execute("postgres", statement).await.unwrap();
    }
    expect_refused(&site, End::Source).await.unwrap_err();
}

#[tokio::test]
async fn from_15_to_18() {
    migrate(V15, V18).await;
}

#[tokio::test]
async fn from_16_to_18() {
    migrate(V16, V18).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn from_14_to_18() {
    migrate(V14, V18).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn from_17_to_18() {
    migrate(V17, V18).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn from_18_to_18() {
    migrate(V18, V18).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn from_16_to_17() {
    migrate(V16, V17).await;
}

#[tokio::test]
async fn an_abort_leaves_both_servers_as_they_were() {
    let site = Site::start(SiteOptions::new(V15, V18)).await.unwrap();
    let destination_before = traces::catalog(&site.destination, &site.database).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    let source_before = traces::catalog(&journey.site.source, &journey.site.database).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.site.cli.expect(0, &["abort", MIGRATION, "--yes"]).await.unwrap();
    let (site, _ledger) = journey.check_return().await.unwrap();
    let source_after = traces::catalog(&site.source, &site.database).await.unwrap();
    let destination_after = traces::catalog(&site.destination, &site.database).await.unwrap();
    traces::expect_equal(&source_before, &source_after).unwrap();
    traces::expect_equal(&destination_before, &destination_after).unwrap();
    assert_eq!(site.cli.status(MIGRATION).await.unwrap().state, "aborted");
}

#[tokio::test]
async fn a_cutover_over_its_budget_is_taken_back() {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let cli = &journey.site.cli;
    cli.expect(1, &["cutover", MIGRATION, "--yes", "--max-outage", "1ms"]).await.unwrap();
    let status = cli.status(MIGRATION).await.unwrap();
    assert!(status.ready_for_cutover, "{}", status.summary());
    journey.workload.wait_for_writes(End::Source, 200, Duration::from_secs(60)).await.unwrap();
    // The next try has a budget that it can keep.
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}
