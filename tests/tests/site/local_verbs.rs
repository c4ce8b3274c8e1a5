//! What a person can do on the agent's own machine while the coordinator is away.

use std::time::Duration;

use pgportage_tests::cli::{Cli, CliOutput};
use pgportage_tests::journey::{Journey, MIGRATION, expect_refused};
use pgportage_tests::ledger::End;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, checker, final_state, traces};

use PostgresVersion::{V16, V18};

const LIMIT: Duration = Duration::from_secs(60);

/// Types a verb of the agent on its machine.
async fn on_the_machine(site: &Site, end: End, verb: &[&str]) -> CliOutput {
    let name = match end {
        End::Source => &site.source_config.name,
        End::Destination => &site.destination_config.name,
    };
    let agent = Cli {
        path: site.cli.path.with_file_name("pgportage-agent"),
        config: site.directory().join(format!("{name}.toml")),
        ..site.cli.clone()
    };
    agent.run(verb).await.unwrap()
}

async fn ready() -> Journey {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey
}

/// The source agent died between the fence and its proof, and the coordinator is
/// gone for good.
#[tokio::test]
async fn unfence_opens_the_source_once_the_destination_promises_to_stay_closed() {
    let mut journey = ready().await;
    journey.site.source_agent.stop().await.unwrap();
    journey.site.source_agent.start_to_fail_at("fence_source.perform.committed").unwrap();
    journey.site.wait_for_agents().await.unwrap();
    journey.site.cli.run(&["cutover", MIGRATION, "--yes", "--detach"]).await.unwrap();
    journey.site.source_agent.wait_for_end(LIMIT).await.unwrap();
    journey.site.coordinator.kill9().unwrap();
    expect_refused(&journey.site, End::Source).await.unwrap();

    // While the destination cannot be asked, nothing is opened.
    journey.site.destination_agent.freeze().unwrap();
    let output = on_the_machine(&journey.site, End::Source, &["unfence", MIGRATION]).await;
    assert_ne!(output.code, Some(0), "{}", output.all());
    expect_refused(&journey.site, End::Source).await.unwrap();
    journey.site.destination_agent.thaw().unwrap();

    let output = on_the_machine(&journey.site, End::Source, &["unfence", MIGRATION]).await;
    assert_eq!(output.code, Some(0), "{}", output.all());
    expect_refused(&journey.site, End::Destination).await.unwrap();
    journey.check_return().await.unwrap();
}

#[tokio::test]
async fn unfence_is_refused_once_the_destination_has_opened() {
    let journey = ready().await;
    journey.cut_over().await.unwrap();
    let output = on_the_machine(&journey.site, End::Source, &["unfence", MIGRATION]).await;
    assert_ne!(output.code, Some(0), "{}", output.all());
    assert!(output.all().contains("DESTINATION_OPENED"), "{}", output.all());
    expect_refused(&journey.site, End::Source).await.unwrap();

    // The same after a rollback, with the sides exchanged.
    journey.roll_back().await.unwrap();
    let output = on_the_machine(&journey.site, End::Destination, &["unfence", MIGRATION]).await;
    assert_ne!(output.code, Some(0), "{}", output.all());
    assert!(output.all().contains("the source has opened (DESTINATION_OPENED)"), "{}", output.all());
    expect_refused(&journey.site, End::Destination).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
    Box::pin(journey.check_arrival_after(3)).await.unwrap();
}

/// The destination agent died between the fence of a rollback and its proof.
#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn unfence_opens_the_destination_of_a_rollback_once_the_source_promises_to_stay_closed() {
    let mut journey = ready().await;
    journey.cut_over().await.unwrap();
    journey.site.destination_agent.stop().await.unwrap();
    journey.site.destination_agent.start_to_fail_at("fence_source.perform.committed").unwrap();
    journey.site.wait_for_agents().await.unwrap();
    journey.site.cli.run(&["rollback", MIGRATION, "--yes", "--detach"]).await.unwrap();
    journey.site.destination_agent.wait_for_end(LIMIT).await.unwrap();
    journey.site.coordinator.kill9().unwrap();
    expect_refused(&journey.site, End::Destination).await.unwrap();

    // While the source cannot be asked, nothing is opened, and the wrong side cannot
    // be said to be destroyed.
    journey.site.source_agent.freeze().unwrap();
    for verb in [vec!["unfence", MIGRATION], vec!["unfence", MIGRATION, "--destination-destroyed"]] {
        let output = on_the_machine(&journey.site, End::Destination, &verb).await;
        assert_ne!(output.code, Some(0), "{}", output.all());
        assert!(output.all().contains("source"), "{}", output.all());
    }
    expect_refused(&journey.site, End::Destination).await.unwrap();
    journey.site.source_agent.thaw().unwrap();

    let output = on_the_machine(&journey.site, End::Destination, &["unfence", MIGRATION]).await;
    assert_eq!(output.code, Some(0), "{}", output.all());
    journey.writes_arrive().await.unwrap();
    expect_refused(&journey.site, End::Source).await.unwrap();
    let Journey { site, workload } = journey;
    let ledger = workload.stop().await.unwrap();
    let destination = site.destination.connect(&site.database).await.unwrap();
    checker::verdict(1, &ledger, &final_state::read(&destination).await.unwrap()).unwrap();
}

#[tokio::test]
async fn cleanup_removes_everything_without_the_coordinator() {
    let mut journey = ready().await;
    journey.site.coordinator.kill9().unwrap();
    for end in [End::Destination, End::Source] {
        let output = on_the_machine(&journey.site, end, &["cleanup", MIGRATION]).await;
        assert_eq!(output.code, Some(0), "{}", output.all());
    }
    traces::expect_nothing(&journey.site.source, &journey.site.database).await.unwrap();
    traces::expect_nothing(&journey.site.destination, &journey.site.database).await.unwrap();
    // The agents still run, and do nothing there any more.
    let alone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'pgportage%')";
    for cluster in [&journey.site.source, &journey.site.destination] {
        cluster.wait_until(&journey.site.database, alone, LIMIT).await.unwrap();
    }
    journey.check_return().await.unwrap();
}
