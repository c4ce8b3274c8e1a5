//! Every process killed at every fail point of subscribe, catch-up, cutover and
//! finish; both servers killed as well. The migration goes on by itself, or the
//! source is open again by itself; nothing is lost.
//!
//! One migration passes through all points of one process: killed at the first,
//! started again with the next one armed, and so on. A kill before the point of
//! no return takes the cutover back, so the next point gets the next cutover.

use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_tests::cli::Status;
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::service::Service;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, fail_points};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How long anything may take to come back by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Coordinator,
    Agent(End),
}

impl Victim {
    fn service(self, site: &mut Site) -> &mut Service {
        match self {
            Self::Coordinator => &mut site.coordinator,
            Self::Agent(end) => site.agent(end),
        }
    }
}

/// What dies besides the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Nobody,
    /// The server at that end, with SIGKILL.
    Server(End),
}

fn options() -> WorkloadOptions {
    WorkloadOptions { writers: 6, pause: Duration::from_millis(60), ..WorkloadOptions::default() }
}

/// Asks for whatever the migration waits for. Nothing while it runs. A refusal
/// is no failure of the test: the picture may have changed meanwhile, and the
/// caller looks again.
async fn push(journey: &Journey) -> Result<Status> {
    let cli = &journey.site.cli;
    let status = cli.status(MIGRATION).await?;
    let verb: Option<&[&str]> = if status.ready_for_cutover {
        Some(&["cutover", MIGRATION, "--yes", "--detach"])
    } else if status.ready_for_finish {
        Some(&["finish", MIGRATION, "--yes", "--detach"])
    } else if status.state == "pending" {
        Some(&["start", MIGRATION, "--detach"])
    } else {
        None
    };
    if let Some(verb) = verb {
        let output = cli.run(verb).await?;
        tracing::debug!(?verb, ?output, "pushed");
    }
    Ok(status)
}

/// How a wait for a death ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The victim died.
    Died,
    /// The migration was over first.
    Over,
}

/// Pushes the migration until the victim dies at its armed point.
///
/// # Errors
///
/// When the migration gets stuck first.
async fn push_until_death(journey: &mut Journey, victim: Victim, point: &str) -> Result<Ending> {
    wait::until(&format!("death at {point}"), LIMIT, async || {
        if !victim.service(&mut journey.site).running()? {
            return Ok(Seen::Done(Ending::Died));
        }
        Ok(match push(journey).await {
            Ok(status) if ["succeeded", "aborted"].contains(&status.state.as_str()) => Seen::Done(Ending::Over),
            Ok(status) => Seen::NotYet(status.summary()),
            // The coordinator may die under our question.
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
    .with_context(|| journey.site.last_words())
}

/// Pushes the migration to its end with everybody alive.
async fn push_to_the_end(journey: &Journey) -> Result<()> {
    wait::until("the end of the migration", 3 * LIMIT, async || {
        Ok(match push(journey).await {
            Ok(status) if status.state == "succeeded" => Seen::Done(()),
            Ok(status) => Seen::NotYet(status.summary()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
    .with_context(|| journey.site.last_words())
}

async fn kill_agent_at_every_point(end: End, company: Company) {
    let victim = Victim::Agent(end);
    let mut points = fail_points::of_agent(end).unwrap();
    println!("{} fail points of {victim:?}: {points:#?}", points.len());
    points.retain(|point| !fail_points::is_behind_the_decision(point));
    let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.site.create(MIGRATION).await.unwrap();

    for point in &points {
        let service = victim.service(&mut journey.site);
        service.stop().await.unwrap();
        service.start_to_fail_at(point).unwrap();
        let ending = push_until_death(&mut journey, victim, point).await.unwrap();
        assert_eq!(ending, Ending::Died, "the migration was over before {point}");
        if let Company::Server(end) = company {
            let cluster = match end {
                End::Source => &mut journey.site.source,
                End::Destination => &mut journey.site.destination,
            };
            cluster.kill9().unwrap();
            cluster.start_again().await.unwrap();
        }
        println!("killed at {point}");
    }
    let service = victim.service(&mut journey.site);
    service.stop().await.unwrap();
    service.start().unwrap();
    push_to_the_end(&journey).await.unwrap();
    journey.writes_arrive().await.unwrap();
    let (site, arrival) = journey.check_arrival().await.unwrap();
    // What was answered before a death is stated behind it.
    site.cli.expect(0, &["certificate", "show", MIGRATION]).await.unwrap();
    println!(
        "survived {} kills of {victim:?}: {} + {} writes acknowledged, {} unknown",
        points.len(),
        arrival.ledger.acknowledged(End::Source),
        arrival.ledger.acknowledged(End::Destination),
        arrival.ledger.unknown(),
    );
}

#[tokio::test]
async fn source_agent_killed_at_every_point() {
    kill_agent_at_every_point(End::Source, Company::Nobody).await;
}

#[tokio::test]
async fn destination_agent_killed_at_every_point() {
    kill_agent_at_every_point(End::Destination, Company::Nobody).await;
}

/// Behind the decision there is only one way: forward.
#[tokio::test]
async fn destination_agent_killed_behind_the_decision() {
    let mut points = fail_points::of_agent(End::Destination).unwrap();
    points.retain(|point| fail_points::is_behind_the_decision(point));
    assert_eq!(points.len(), 3, "{points:?}");
    for point in points {
        let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
        let mut journey = Journey::begin(site, 500, &options()).await.unwrap();
        journey.until_cutover().await.unwrap();
        journey.site.destination_agent.stop().await.unwrap();
        journey.site.destination_agent.start_to_fail_at(&point).unwrap();
        journey.site.wait_for_agents().await.unwrap();
        let victim = Victim::Agent(End::Destination);
        assert_eq!(push_until_death(&mut journey, victim, &point).await.unwrap(), Ending::Died);
        journey.site.destination_agent.start().unwrap();
        journey.writes_arrive().await.unwrap();
        push_to_the_end(&journey).await.unwrap();
        let (site, _arrival) = journey.check_arrival().await.unwrap();
        // It decided, died, and still states what it had seen.
        site.cli.expect(0, &["certificate", "show", MIGRATION]).await.unwrap();
        println!("killed at {point}");
    }
}

/// The coordinator's points are passed with every command, so each kill arms the
/// next one, at one of its next few passages, until the migration is over or
/// there were kills enough.
async fn kill_coordinator(most_kills: usize) {
    let seed = 20_261_123;
    let mut random = StdRng::seed_from_u64(seed);
    let points = fail_points::of_coordinator().unwrap();
    println!("{} fail points of the coordinator: {points:#?}", points.len());
    let points: Vec<_> = points.into_iter().filter(|point| fail_points::is_on_the_way(point)).collect();
    let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.site.create(MIGRATION).await.unwrap();
    let mut kills = 0;
    for (turn, point) in points.iter().cycle().take(most_kills).enumerate() {
        // First every point at once, then at any moment.
        let passage = if turn < points.len() { 1 } else { random.random_range(1..4) };
        journey.site.coordinator.stop().await.unwrap();
        journey.site.coordinator.start_to_fail_at(&format!("{point}={passage}")).unwrap();
        match push_until_death(&mut journey, Victim::Coordinator, point).await.unwrap() {
            Ending::Died => kills += 1,
            Ending::Over => break,
        }
    }
    assert!(kills >= points.len(), "over after {kills} kills");
    if !journey.site.coordinator.running().unwrap() {
        journey.site.coordinator.start().unwrap();
    }
    push_to_the_end(&journey).await.unwrap();
    journey.writes_arrive().await.unwrap();
    journey.check_arrival().await.unwrap();
    println!("survived {kills} kills of the coordinator, seed {seed}");
}

#[tokio::test]
async fn coordinator_killed_at_every_point() {
    kill_coordinator(15).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn coordinator_killed_all_the_way() {
    kill_coordinator(120).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn source_server_killed_at_every_point() {
    kill_agent_at_every_point(End::Source, Company::Server(End::Source)).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn destination_server_killed_at_every_point() {
    kill_agent_at_every_point(End::Destination, Company::Server(End::Destination)).await;
}

/// Anybody killed at any moment, a kill after every few writes, all the way.
#[tokio::test]
#[ignore = "make test-all"]
async fn everybody_killed_at_random_moments() {
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::start(SiteOptions::new(PostgresVersion::V17, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.site.create(MIGRATION).await.unwrap();
    for kill in 0..25 {
        // Nobody may be there to answer: then the next one pushes.
        let pushed = push(&journey).await;
        tracing::debug!(?pushed, kill);
        let writes = random.random_range(0..60);
        let total = || journey.workload.counts.of(End::Source) + journey.workload.counts.of(End::Destination);
        let target = total() + writes;
        wait::until(&format!("{writes} writes before kill {kill}, seed {seed}"), LIMIT, async || {
            let now = total();
            Ok(if now >= target { Seen::Done(()) } else { Seen::NotYet(format!("{now} of {target}")) })
        })
        .await
        .with_context(|| journey.site.last_words())
        .unwrap();
        let victim = [Victim::Coordinator, Victim::Agent(End::Source), Victim::Agent(End::Destination)]
            [random.random_range(0..3)];
        victim.service(&mut journey.site).kill9_and_start().unwrap();
    }
    push_to_the_end(&journey).await.unwrap();
    journey.writes_arrive().await.unwrap();
    journey.check_arrival().await.unwrap();
}

/// Nobody opens the source again while it is not proved that the destination
/// stays closed, and everybody may write again once it is.
#[tokio::test]
async fn source_agent_killed_between_the_fence_and_its_last_proof() {
    let site = Site::start(SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.site.source_agent.stop().await.unwrap();
    journey.site.source_agent.start_to_fail_at("fence_source.perform.committed").unwrap();
    journey.site.wait_for_agents().await.unwrap();
    push_until_death(&mut journey, Victim::Agent(End::Source), "fence_source.perform.committed").await.unwrap();
    pgportage_tests::journey::expect_refused(&journey.site, End::Source).await.unwrap();
    journey.site.source_agent.start().unwrap();
    journey.workload.wait_for_writes(End::Source, 50, LIMIT).await.unwrap();
    let cli = &journey.site.cli;
    cli.wait_for(MIGRATION, "the cutover taken back", LIMIT, |status| status.ready_for_cutover).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}
