//! How fast a migration copies, as the operator says: from the first row, whoever
//! dies and whoever is away, and otherwise from one moment to the next.

use std::time::Duration;

use pgportage_link::Clock;
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};

/// Bytes a second. Low enough that the copy would take a minute.
const RATE: i64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// One table that takes its time.
const BALLAST: &str = "\
CREATE TABLE public.ballast (id int PRIMARY KEY, v text NOT NULL);
INSERT INTO public.ballast SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 60000) i";

/// What the destination's server has taken in of the parts of the ballast that are
/// under way, in bytes. None of them is in before the others are well on their way.
async fn taken_in(journey: &Journey) -> anyhow::Result<i64> {
    let site = &journey.site;
    let client = site.destination.connect(&site.database).await?;
    let taken_in = "SELECT coalesce(sum(bytes_processed), 0)::bigint FROM pg_stat_progress_copy
        WHERE relid = to_regclass('public.ballast') AND command = 'COPY FROM'";
    Ok(client.query_one(taken_in, &[]).await?.get(0))
}

/// Watches the ballast grow by two seconds' worth, and says how fast it was. What
/// is under way between the two servers may come at once, so that is waited for
/// first.
async fn speed(journey: &Journey) -> f64 {
    let beyond = |bytes: i64| {
        wait::until("more of the ballast", PATIENCE, move || async move {
            Ok(match taken_in(journey).await {
                Ok(seen) if seen >= bytes => Seen::Done(seen),
                // The session may be ended by the closing of the destination.
                other => Seen::NotYet(format!("{other:?} of {bytes} bytes")),
            })
        })
    };
    let from = beyond(4 * RATE).await.unwrap();
    let begun = Clock.now();
    let to = beyond(from + 4 * RATE).await.unwrap();
    (to - from) as f64 / Clock.now().duration_since(begun).as_secs_f64()
}

#[tokio::test]
async fn a_rate_holds_whoever_dies_and_can_be_taken_away() {
    let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
    site.source.execute(&site.database, BALLAST).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    let database = journey.site.database.clone();
    let cli = journey.site.cli.clone();
    let create =
        ["create", MIGRATION, "--from", "berlin", "--to", "oslo", "--database", &database, "--max-rate", "2GB"];
    cli.expect(0, &create).await.unwrap();
    // Said again before it starts: the agents do not know of the migration yet.
    let tune = |rate: &'static str| ["tune", MIGRATION, "--max-rate", rate];
    cli.expect(0, &tune("1MB")).await.unwrap();
    cli.expect(0, &["start", MIGRATION, "--detach"]).await.unwrap();
    let status = cli.expect(0, &["status", MIGRATION]).await.unwrap();
    assert!(status.stdout.contains("at most 1.0 MB/s"), "{}", status.stdout);
    let allowed = 0.5 * RATE as f64..1.25 * RATE as f64;
    let fresh = speed(&journey).await;
    assert!(allowed.contains(&fresh), "{fresh} bytes a second");

    // The source's agent dies and comes back while nobody can tell it anything.
    journey.site.coordinator.stop().await.unwrap();
    journey.site.source_agent.kill9().unwrap();
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgportage scan')";
    journey.site.source.wait_until("postgres", gone, PATIENCE).await.unwrap();
    journey.site.source_agent.start().unwrap();
    let anew = "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_copy WHERE bytes_processed > 2 * 1048576)";
    journey.site.destination.wait_until(&database, anew, PATIENCE).await.unwrap();
    let alone = speed(&journey).await;
    assert!(allowed.contains(&alone), "{alone} bytes a second");

    journey.site.coordinator.start().unwrap();
    journey.site.wait_for_agents().await.unwrap();
    let begun = Clock.now();
    cli.expect(0, &tune("none")).await.unwrap();
    let ready =
        cli.wait_for(MIGRATION, "ready for cutover", PATIENCE, |status| status.ready_for_cutover).await.unwrap();
    assert!(ready.step("copy").unwrap().state == "succeeded");
    assert!(
        Clock.now().duration_since(begun) < Duration::from_secs(40),
        "at the old rate the copy alone would take longer"
    );
    // A comparison of rows keeps to it as well, until the cutover.
    cli.expect(0, &tune("none")).await.unwrap();
    journey.cut_over().await.unwrap();
    cli.expect(1, &tune("1MB")).await.unwrap();
    journey.finish().await.unwrap();
}
