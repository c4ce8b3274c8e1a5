//! An agent's state directory is deleted in the middle of a migration. What an abort or a finish has to
//! remove stands on the servers, so nothing is left; and an abort opens no destination that holds a copy.

use std::fs;

use pgportage_tests::PostgresVersion::{V15, V18};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::traces;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{Site, SiteOptions};

/// Replication slots of any name.
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

async fn lose_journal(site: &mut Site, end: End) {
    site.agent(end).stop().await.unwrap();
    let config = match end {
        End::Source => &site.source_config,
        End::Destination => &site.destination_config,
    };
    fs::remove_dir_all(&config.state_directory).unwrap();
    site.agent(end).start().unwrap();
    site.wait_for_agents().await.unwrap();
}

async fn expect_no_slots(site: &Site) {
    for cluster in [&site.source, &site.destination] {
        let client = cluster.connect("postgres").await.unwrap();
        assert_eq!(client.query_one(SLOTS, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

async fn abort_without_the_journal_of(end: End) {
    let site = Site::start(SiteOptions::new(V15, V18)).await.unwrap();
    let destination_before = traces::catalog(&site.destination, &site.database).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    lose_journal(&mut journey.site, end).await;
    journey.site.cli.expect(0, &["abort", MIGRATION, "--yes"]).await.unwrap();
    let (site, _ledger) = journey.check_return().await.unwrap();
    expect_no_slots(&site).await;
    // Open again, and as empty as it was.
    let destination_after = traces::catalog(&site.destination, &site.database).await.unwrap();
    traces::expect_equal(&destination_before, &destination_after).unwrap();
}

async fn finish_without_the_journal_of(end: End) {
    let site = Site::start(SiteOptions::new(V15, V18)).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.cut_over().await.unwrap();
    lose_journal(&mut journey.site, end).await;
    let (site, _arrival) = journey.finish().await.unwrap();
    expect_no_slots(&site).await;
}

#[tokio::test]
async fn an_abort_after_the_destination_agents_journal_is_lost() {
    abort_without_the_journal_of(End::Destination).await;
}

#[tokio::test]
async fn an_abort_after_the_source_agents_journal_is_lost() {
    abort_without_the_journal_of(End::Source).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn a_finish_after_either_journal_is_lost() {
    for end in [End::Source, End::Destination] {
        finish_without_the_journal_of(end).await;
    }
}
