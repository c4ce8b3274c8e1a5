//! Somebody dies in the middle of a large copy: it goes on by itself, copies
//! again no more than what was under way (everything, where the snapshot died
//! too), and no row is lost or doubled while writers are at work.
//!
//! What was copied again is counted from outside: what crossed the link, minus
//! what the destination's ledger of the copy holds. Nothing is packed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgportage_tests::ballast::{self, Changer};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::proxy::Proxy;
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{Cluster, PostgresVersion, Site, SiteOptions};

use PostgresVersion::{V15, V18};

/// How long anything may take to come back by itself.
const LIMIT: Duration = Duration::from_secs(180);
/// The agent copies so many parts at the same time at most: one for each core.
const MOST_JOBS: usize = 8;
/// What may be copied again of a large copy whose snapshot survived.
const LARGEST_SHARE: f64 = 0.05;
/// What TLS, gRPC and a few calls add to the rows on the link.
const OVERHEAD: f64 = 0.01;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Coordinator,
    Agent(End),
    /// With SIGKILL of the postmaster.
    Server(End),
    /// The session that keeps the snapshot, and nobody else.
    Keeper,
    /// Every connection between the agents.
    Link,
}

impl Fault {
    /// Whether the snapshot dies too: it lives in one session of the source's
    /// agent.
    fn takes_the_snapshot(self) -> bool {
        match self {
            Self::Agent(End::Source) | Self::Server(End::Source) | Self::Keeper => true,
            Self::Coordinator | Self::Agent(End::Destination) | Self::Server(End::Destination) | Self::Link => false,
        }
    }
}

/// How large the copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// A dozen parts and a few.
    Small,
    /// Parts enough that one for each job is a few hundredths.
    Large,
}

impl Size {
    fn rows(self) -> u32 {
        match self {
            Self::Small => 200_000,
            Self::Large => 420_000 * u32::try_from(jobs()).unwrap(),
        }
    }
}

/// Parts that the destination's agent copies at the same time.
fn jobs() -> usize {
    std::thread::available_parallelism().unwrap().get().min(MOST_JOBS)
}

/// Both agents with a proxy between them.
struct Scene {
    journey: Journey,
    link: Proxy,
    changer: Changer,
    rows: u32,
}

/// What the destination's ledger of the copy says.
#[derive(Clone, Debug, Default)]
struct Kept {
    ballast_rows: i64,
    bytes: i64,
    largest_part: i64,
    repeated_bytes: i64,
    rows_complete: bool,
}

impl Kept {
    /// Reads it over a session of its own: closing the destination ends others.
    async fn read(destination: &Cluster, database: &str) -> Result<Self> {
        let client = destination.connect(database).await?;
        let exists: bool = client.query_one("SELECT to_regclass('pgportage.copied') IS NOT NULL", &[]).await?.get(0);
        if !exists {
            return Ok(Self::default());
        }
        let state = "SELECT repeated_bytes, rows_complete FROM pgportage.copy";
        let Some(state) = client.query_opt(state, &[]).await? else { return Ok(Self::default()) };
        let parts = "
            SELECT coalesce(sum(row_count) FILTER (WHERE relation = 'ballast'), 0)::bigint,
                   coalesce(sum(copied_bytes), 0)::bigint, coalesce(max(copied_bytes), 0)
            FROM pgportage.copied";
        let parts = client.query_one(parts, &[]).await?;
        Ok(Self {
            ballast_rows: parts.get(0),
            bytes: parts.get(1),
            largest_part: parts.get(2),
            repeated_bytes: state.get(0),
            rows_complete: state.get(1),
        })
    }
}

impl Scene {
    async fn begin(size: Size) -> Result<Self> {
        let mut options = SiteOptions::new(V15, V18);
        // Otherwise checkpoints are what is measured.
        options.source = options.source.setting("max_wal_size", "4GB");
        options.destination = options.destination.setting("max_wal_size", "4GB");
        let mut site = Site::prepare(options).await?;
        let link = Proxy::start(site.source_config.link_port).await?;
        // Rows have headers that can be packed: the bytes that cross the link are those
        // that the ledger counts.
        site.destination_config.compression = "off";
        site.destination_config.policy.peers = vec![("berlin".to_owned(), format!("127.0.0.1:{}", link.port))];
        site.write_agent_files()?;
        site.start_programs().await?;
        let rows = size.rows();
        ballast::prepare(&site.source, &site.database, APPLICATION, rows).await?;
        let workload = WorkloadOptions { writers: 6, pause: Duration::from_millis(60), ..WorkloadOptions::default() };
        let journey = Journey::begin(site, 2_000, &workload).await?;
        let source = &journey.site.source;
        let login = source.tcp_config(&journey.site.database, APPLICATION, APPLICATION_PASSWORD);
        let changer = Changer::start(login, rows, 7);
        Ok(Self { journey, link, changer, rows })
    }

    /// Waits until a part of the ballast is there, in hundredths.
    async fn wait_for_share(&self, percent: u32) -> Result<Kept> {
        let site = &self.journey.site;
        let target = i64::from(self.rows) * i64::from(percent) / 100;
        wait::until(&format!("{percent} % of the ballast"), LIMIT, async || {
            Ok(match Kept::read(&site.destination, &site.database).await {
                Ok(kept) if kept.ballast_rows >= target => Seen::Done(kept),
                // The session may be ended by the closing of the destination.
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await
        .with_context(|| site.last_words())
    }

    /// Waits until what the ledger of the copy held was thrown away.
    async fn wait_for_another_snapshot(&self, seen: &Kept) -> Result<()> {
        let site = &self.journey.site;
        wait::until("another snapshot", LIMIT, async || {
            let kept = Kept::read(&site.destination, &site.database).await?;
            let begun = kept.repeated_bytes > seen.repeated_bytes;
            Ok(if begun { Seen::Done(()) } else { Seen::NotYet(format!("{kept:?}")) })
        })
        .await
        .with_context(|| site.last_words())
    }

    async fn inflict(&mut self, fault: Fault) -> Result<()> {
        let site = &mut self.journey.site;
        match fault {
            Fault::Coordinator => site.coordinator.kill9_and_start(),
            Fault::Agent(end) => site.agent(end).kill9_and_start(),
            Fault::Server(end) => {
                let cluster = match end {
                    End::Source => &mut site.source,
                    End::Destination => &mut site.destination,
                };
                cluster.kill9()?;
                cluster.start_again().await
            }
            Fault::Keeper => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE application_name = 'pgportage keeper' AND backend_type = 'walsender'";
                let client = site.source.connect("postgres").await?;
                let ended: i64 = client.query_one(end, &[]).await?.get(0);
                ensure!(ended == 1, "{ended} keepers");
                Ok(())
            }
            Fault::Link => {
                self.link.cut();
                // Nobody reads on for a destination that is away.
                let quiet = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                    WHERE application_name = 'pgportage scan' AND state = 'active')";
                site.source.wait_until("postgres", quiet, LIMIT).await?;
                self.link.mend();
                Ok(())
            }
        }
    }

    /// Waits until every row is there: what is kept then, and what has crossed the
    /// link until then.
    async fn wait_for_all(&self) -> Result<(Kept, u64)> {
        let site = &self.journey.site;
        let kept = wait::until("every row", LIMIT, async || {
            let kept = Kept::read(&site.destination, &site.database).await?;
            Ok(if kept.rows_complete { Seen::Done(kept) } else { Seen::NotYet(format!("{kept:?}")) })
        })
        .await
        .with_context(|| site.last_words())?;
        Ok((kept, self.link.answered_bytes()))
    }

    /// To the end, without anybody's help, and everything compared.
    async fn arrive(self) -> Result<()> {
        let Self { journey, link: _carries, changer, rows } = self;
        let ready = journey.site.cli.wait_for(MIGRATION, "the cutover", LIMIT, |status| status.ready_for_cutover).await;
        ready.with_context(|| journey.site.last_words())?;
        let changes = changer.stop().await?;
        ensure!(changes.acknowledged > 0, "nobody changed the ballast");
        journey.cut_over().await?;
        let (site, arrival) = journey.finish().await?;
        let source = site.source.connect(&site.database).await?;
        let destination = site.destination.connect(&site.database).await?;
        ballast::compare(&source, &destination, rows, changes).await?;
        println!(
            "{changes:?} of the ballast, {} + {} other writes acknowledged, {} unknown",
            arrival.ledger.acknowledged(End::Source),
            arrival.ledger.acknowledged(End::Destination),
            arrival.ledger.unknown(),
        );
        Ok(())
    }
}

/// A copy that meets faults, each when so many hundredths of the ballast are
/// there.
async fn survive(faults: &[(Fault, u32)], size: Size) -> Result<()> {
    let mut scene = Box::pin(Scene::begin(size)).await?;
    scene.journey.site.create(MIGRATION).await?;
    let before = scene.link.answered_bytes();
    scene.journey.site.cli.run(&["start", MIGRATION, "--detach"]).await?;
    for &(fault, percent) in faults {
        let seen = scene.wait_for_share(percent).await?;
        ensure!(!seen.rows_complete && seen.ballast_rows < i64::from(scene.rows), "{fault:?} came too late: {seen:?}");
        scene.inflict(fault).await?;
        println!("{fault:?} at {percent} %, with {} bytes there", seen.bytes);
        if fault.takes_the_snapshot() {
            scene.wait_for_another_snapshot(&seen).await?;
        }
    }
    let (kept, crossed) = scene.wait_for_all().await?;
    check_cost(faults, size, &kept, i64::try_from(crossed - before)?)?;
    Box::pin(scene.arrive()).await
}

/// Each fault may cost the parts that were under way; with a snapshot goes what
/// the destination threw away and counted, and nothing else does.
fn check_cost(faults: &[(Fault, u32)], size: Size, kept: &Kept, crossed: i64) -> Result<()> {
    let lost = faults.iter().any(|(fault, _)| fault.takes_the_snapshot());
    ensure!((kept.repeated_bytes > 0) == lost, "a snapshot was lost: {lost}, and {kept:?}");
    let again = crossed - kept.bytes - kept.repeated_bytes;
    let share = again as f64 / kept.bytes as f64;
    println!(
        "{} bytes copied in parts of at most {}; {again} copied again ({:.1} %), and {} with a lost snapshot",
        kept.bytes,
        kept.largest_part,
        share * 100.0,
        kept.repeated_bytes,
    );
    // Everything that is kept, or was thrown away, has crossed the link.
    ensure!(again >= 0, "{again} bytes were copied again: less crossed the link than the ledger counts");
    let under_way = kept.largest_part * i64::try_from(faults.len() * jobs())?;
    let most = under_way as f64 + crossed as f64 * OVERHEAD;
    ensure!(again as f64 <= most, "{again} bytes were copied again, where {under_way} can have been under way");
    ensure!(size == Size::Small || share < LARGEST_SHARE, "{share} of the copy was copied again");
    Ok(())
}

/// A large copy each time, and one fault in it.
async fn survive_early_and_late(fault: Fault) {
    for percent in [10, 50, 90] {
        survive(&[(fault, percent)], Size::Large).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_beside_the_snapshot_dies_half_way() {
    let faults = [
        (Fault::Coordinator, 50),
        (Fault::Agent(End::Destination), 55),
        (Fault::Link, 65),
        (Fault::Server(End::Destination), 75),
    ];
    survive(&faults, Size::Small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_the_snapshot_dies_half_way() {
    let faults = [(Fault::Keeper, 50), (Fault::Agent(End::Source), 50), (Fault::Server(End::Source), 50)];
    survive(&faults, Size::Small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn coordinator_killed_early_and_late() {
    survive_early_and_late(Fault::Coordinator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn source_agent_killed_early_and_late() {
    survive_early_and_late(Fault::Agent(End::Source)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn destination_agent_killed_early_and_late() {
    survive_early_and_late(Fault::Agent(End::Destination)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn source_server_killed_early_and_late() {
    survive_early_and_late(Fault::Server(End::Source)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn destination_server_killed_early_and_late() {
    survive_early_and_late(Fault::Server(End::Destination)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn keeper_ended_early_and_late() {
    survive_early_and_late(Fault::Keeper).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn link_cut_early_and_late() {
    survive_early_and_late(Fault::Link).await;
}
