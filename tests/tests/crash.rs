//! Every process killed at every fail point of subscribe, catch-up, cutover and
//! finish; both servers killed as well. The migration goes on by itself, or the
//! source is open again by itself; nothing is lost.
//!
//! One migration passes through all points of one process: killed at the first,
//! started again with the next one armed, and so on. A kill before the point of
//! no return takes the cutover back, so the next point gets the next cutover.

use std::time::Duration;

use anyhow::{Context, Result, bail};
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

    fn fail_points(self) -> Vec<String> {
        match self {
            Self::Coordinator => fail_points::of_coordinator(),
            Self::Agent(end) => fail_points::of_agent(end),
        }
        .unwrap()
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
    let status = cli.wait_for(MIGRATION, "an answer about the migration", LIMIT, |_| true).await?;
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

/// Pushes the migration until the victim dies at its armed point.
///
/// # Errors
///
/// When the migration ends or gets stuck first.
async fn push_until_death(journey: &mut Journey, victim: Victim, point: &str) -> Result<()> {
    wait::until(&format!("death at {point}"), LIMIT, async || {
        if !victim.service(&mut journey.site).running()? {
            return Ok(Seen::Done(()));
        }
        if victim == Victim::Coordinator {
            // It may die under our question.
            return Ok(match push(journey).await {
                Ok(status) => Seen::NotYet(status.summary()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            });
        }
        let status = push(journey).await?;
        match status.state.as_str() {
            "succeeded" | "aborted" => bail!("{} without passing {point}", status.state),
            _ => Ok(Seen::NotYet(status.summary())),
        }
    })
    .await
    .with_context(|| journey.site.last_words())
}

/// Pushes the migration to its end with everybody alive.
async fn push_to_the_end(journey: &Journey) -> Result<()> {
    wait::until("the end of the migration", 3 * LIMIT, async || {
        let status = push(journey).await?;
        Ok(if status.state == "succeeded" { Seen::Done(()) } else { Seen::NotYet(status.summary()) })
    })
    .await
    .with_context(|| journey.site.last_words())
}

async fn kill_at_every_point(victim: Victim, company: Company) {
    let points = victim.fail_points();
    println!("{} fail points of {victim:?}: {points:#?}", points.len());
    let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.site.create(MIGRATION).await.unwrap();

    for point in &points {
        let service = victim.service(&mut journey.site);
        service.stop().await.unwrap();
        service.start_to_fail_at(point).unwrap();
        push_until_death(&mut journey, victim, point).await.unwrap();
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
    let (_site, arrival) = journey.check_arrival().await.unwrap();
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
    kill_at_every_point(Victim::Agent(End::Source), Company::Nobody).await;
}

#[tokio::test]
async fn destination_agent_killed_at_every_point() {
    kill_at_every_point(Victim::Agent(End::Destination), Company::Nobody).await;
}

#[tokio::test]
async fn coordinator_killed_at_every_point() {
    kill_at_every_point(Victim::Coordinator, Company::Nobody).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn source_server_killed_at_every_point() {
    kill_at_every_point(Victim::Agent(End::Source), Company::Server(End::Source)).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn destination_server_killed_at_every_point() {
    kill_at_every_point(Victim::Agent(End::Destination), Company::Server(End::Destination)).await;
}

/// Anybody killed at any moment, a kill after every few writes, all the way.
#[tokio::test]
async fn everybody_killed_at_random_moments() {
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::start(SiteOptions::new(PostgresVersion::V17, PostgresVersion::V18)).await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.site.create(MIGRATION).await.unwrap();
    for kill in 0..25 {
        push(&journey).await.unwrap();
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
