//! An upgrade in place. The programs of the release before begin a migration under
//! writers and are stopped in one of its states; those of this release take up the
//! same files, state directories and store, and nothing is lost on the way to the end.
//!
//! `.ci/before` builds the programs of before. With `PGPORTAGE_UPDATE_BEFORE=1` these
//! tests also write what those left anew, for the tests in `tests/before`.

use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, ballast, before};

const LIMIT: Duration = Duration::from_secs(180);

/// A site of the release before, with writers at work on its source.
async fn begin() -> Result<Journey> {
    let mut options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18);
    options.programs = Some(before::programs()?);
    let mut site = Site::prepare(options).await?;
    for config in [&mut site.source_config, &mut site.destination_config] {
        config.policy.destructive = before::DESTRUCTIVE.to_vec();
    }
    site.write_agent_files()?;
    site.start_programs().await?;
    ballast::prepare(&site.source, &site.database, APPLICATION, 20_000).await?;
    let options = WorkloadOptions { writers: 6, pause: Duration::from_millis(40), ..WorkloadOptions::default() };
    Journey::begin(site, 1_000, &options).await
}

/// Waits until the small tables are in, a part of the large one is, and others of its
/// parts are under way.
async fn half_copied(site: &Site) -> Result<()> {
    let state = "SELECT coalesce(sum(bytes_processed), 0) > 1048576 AND (SELECT count(*) > 3 FROM pgportage.copied)
        FROM pg_stat_progress_copy WHERE relid = to_regclass('public.ballast') AND command = 'COPY FROM'";
    wait::until("a copy that is half done", LIMIT, || async {
        // The table comes with the copy, and the session may end with the closing of the
        // destination.
        let client = site.destination.connect(&site.database).await?;
        Ok(match client.query_one(state, &[]).await {
            Ok(row) if row.get(0) => Seen::Done(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await
    .with_context(|| site.last_words())
}

/// Stops all three programs of before and starts those of this release.
async fn upgrade(journey: &mut Journey, state: &str) -> Result<()> {
    let said = journey.site.cli.expect(0, &["status", MIGRATION, "--json"]).await?.stdout;
    journey.site.stop_programs().await?;
    if std::env::var_os("PGPORTAGE_UPDATE_BEFORE").is_some() {
        before::capture(&journey.site, state, &said)?;
    }
    journey.site.replace_programs()?;
    journey.site.start_programs().await
}

/// To the end: applications move, go back, and move again.
async fn there_and_back_and_there(journey: Journey) -> Result<()> {
    journey.cut_over().await?;
    back_and_there(journey).await
}

async fn back_and_there(journey: Journey) -> Result<()> {
    journey.roll_back().await?;
    journey.cut_over().await?;
    journey.site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await?;
    let switches = journey.site.switches().await?;
    let (site, arrival) = Box::pin(journey.check_arrival_after(switches)).await?;
    println!("{} rows compared behind the upgrade", arrival.rows_compared);
    // All that were signed are proved, those of the release before too.
    for switch in 1..=switches {
        let number = switch.to_string();
        let shown = site.cli.run(&["certificate", "show", MIGRATION, "--switch", &number]).await?;
        anyhow::ensure!(shown.code == Some(0), "the certificate of switch {number}:\n{}", shown.all());
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs the programs of before; part of `make test-all`"]
async fn while_it_copies() {
    let mut journey = begin().await.unwrap();
    let (cli, database) = (journey.site.cli.clone(), journey.site.database.clone());
    let create =
        ["create", MIGRATION, "--from", "berlin", "--to", "oslo", "--database", &database, "--max-rate", "1MB"];
    cli.expect(0, &create).await.unwrap();
    cli.expect(0, &["start", MIGRATION, "--detach"]).await.unwrap();
    half_copied(&journey.site).await.unwrap();

    upgrade(&mut journey, "copying").await.unwrap();
    let cli = journey.site.cli.clone();
    // The limit was kept, and can be changed.
    let status = cli.expect(0, &["status", MIGRATION]).await.unwrap();
    assert!(status.stdout.contains("at most 1.0 MB/s"), "{}", status.stdout);
    cli.expect(0, &["tune", MIGRATION, "--max-rate", "none"]).await.unwrap();
    cli.wait_for(MIGRATION, "ready for cutover", LIMIT, |status| status.ready_for_cutover).await.unwrap();
    there_and_back_and_there(journey).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the programs of before; part of `make test-all`"]
async fn when_it_is_ready() {
    let mut journey = begin().await.unwrap();
    journey.until_cutover().await.unwrap();
    upgrade(&mut journey, "ready").await.unwrap();
    journey.workload.wait_for_writes(End::Source, 200, LIMIT).await.unwrap();
    journey.site.cli.expect(0, &["verify", MIGRATION]).await.unwrap();
    there_and_back_and_there(journey).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the programs of before; part of `make test-all`"]
async fn when_it_has_cut_over() {
    let mut journey = begin().await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.cut_over().await.unwrap();
    upgrade(&mut journey, "cut-over").await.unwrap();
    journey.workload.wait_for_writes(End::Destination, 200, LIMIT).await.unwrap();
    back_and_there(journey).await.unwrap();
}
