//! Faults at every sub-step of the cutover: whoever takes part frozen, and every
//! pair of programs deaf to each other, in one direction or in both. (Kills are in
//! `crash.rs`.)
//!
//! An agent stops at a point of its own, the fault happens, the agent goes on.
//! While the fault lasts, the source has to be open again by itself within the
//! budget, unless nothing but the destination's word could prove that it may be;
//! once it is over, everybody has to write again in a short time, somewhere; never
//! on both sides, and nothing that was acknowledged is lost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "they print what they measured")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgportage_link::Clock;
use pgportage_tests::cli::Status;
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::{End, Ledger, Outcome};
use pgportage_tests::site::wires::{Deaf, Pair, Wires};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, fail_points};

/// How long anything may take to come back by itself.
const LIMIT: Duration = Duration::from_secs(120);
/// The budget of every cutover.
const BUDGET: Duration = Duration::from_secs(3);
/// What may come on top of it before writers write again on the source.
const MARGIN: Duration = Duration::from_millis(200);
/// How long they may take once a fault is over: as long as after a death.
const RECOVERY: Duration = Duration::from_secs(10);

/// Who can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Coordinator,
    Agent(End),
    Server(End),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Frozen(Party),
    Partition(Pair, Deaf),
}

use Fault::{Frozen, Partition};
use Pair::{Agents, CoordinatorAnd};
use Party::{Agent, Coordinator, Server};

/// A place of the protocol, by the agent that passes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Point {
    end: End,
    name: String,
}

impl Point {
    fn named(end: End, name: &str) -> Self {
        Self { end, name: name.to_owned() }
    }

    /// Whether the fence may be durable here: then only the destination's promise
    /// lifts it.
    fn is_fenced(&self) -> bool {
        let noted = ["accepted", "surveyed", "noted"].map(|moment| format!("fence_source.perform.{moment}"));
        let of_the_fence = self.name.starts_with("fence_source.") && !noted.contains(&self.name);
        of_the_fence || self.name.starts_with("open_destination.") || self.name.starts_with("release_barrier.")
    }
}

impl Fault {
    /// Whether nobody can know, while it lasts, that the destination stays closed.
    fn hides_the_destination(self) -> bool {
        match self {
            Frozen(Agent(_) | Server(_)) | Partition(Agents, _) => true,
            Frozen(Coordinator) | Partition(CoordinatorAnd(_), _) => false,
        }
    }

    /// Whether the source can take writes while it lasts.
    fn leaves_the_source(self) -> bool {
        self != Frozen(Server(End::Source))
    }

    fn begin(self, site: &mut Site, wires: &Wires) -> Result<()> {
        match self {
            Frozen(Coordinator) => site.coordinator.freeze(),
            Frozen(Agent(end)) => site.agent(end).freeze(),
            Frozen(Server(end)) => site.cluster_mut(end).freeze(),
            Partition(pair, deaf) => {
                wires.deafen(pair, deaf);
                Ok(())
            }
        }
    }

    fn end(self, site: &mut Site, wires: &Wires) -> Result<()> {
        match self {
            Frozen(Coordinator) => site.coordinator.thaw(),
            Frozen(Agent(end)) => site.agent(end).thaw(),
            Frozen(Server(end)) => site.cluster_mut(end).thaw(),
            Partition(..) => {
                wires.mend();
                Ok(())
            }
        }
    }
}

/// A migration whose programs talk through wires that can be made deaf.
struct Scene {
    journey: Journey,
    wires: Wires,
    /// Faults that left the source to itself: what, from when until when, from the
    /// start of the workload.
    alone: Vec<(String, Duration, Duration)>,
}

impl Scene {
    async fn begin() -> Result<Self> {
        let mut site = Site::prepare(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await?;
        let wires = Wires::lay(&mut site).await?;
        site.start_programs().await?;
        let options = WorkloadOptions { writers: 8, pause: Duration::from_millis(40), ..WorkloadOptions::default() };
        let journey = Journey::begin(site, 500, &options).await?;
        journey.until_cutover().await?;
        Ok(Self { journey, wires, alone: Vec::new() })
    }

    /// One cutover that meets a fault. Says whether the destination is open.
    async fn meet(&mut self, fault: Fault, point: &Point) -> Result<bool> {
        let agent = self.journey.site.agent(point.end);
        agent.stop().await?;
        agent.start_to_stop_at(&point.name)?;
        self.journey.site.wait_for_agents().await?;
        let site = &self.journey.site;
        site.cli.wait_for(MIGRATION, "ready for cutover", LIMIT, |status| status.ready_for_cutover).await?;
        let budget = format!("{}ms", BUDGET.as_millis());
        let asked = self.journey.workload.start.elapsed();
        self.wait_for_stop(point, &budget).await?;

        let site = &mut self.journey.site;
        fault.begin(site, &self.wires)?;
        if fault != Frozen(Agent(point.end)) {
            site.agent(point.end).thaw()?;
        }
        let begun = Clock.now();
        let in_doubt = point.is_fenced() && fault.hides_the_destination() || !fault.leaves_the_source();
        if !in_doubt {
            let what = format!("{fault:?} at {}", point.name);
            self.writes_go_on(BUDGET + MARGIN).await.with_context(|| what.clone())?;
            self.alone.push((what, asked, self.journey.workload.start.elapsed()));
        }
        let alone = begun.elapsed();
        // However soon that was: the budget must be over before anybody is helped.
        Clock.sleep_until(begun + BUDGET).await;
        fault.end(&mut self.journey.site, &self.wires)?;
        let ended = Clock.now();
        self.writes_go_on(RECOVERY).await.with_context(|| format!("after {fault:?} at {}", point.name))?;
        let open = self.settled().await?;
        println!(
            "{fault:?} at {}: {} writes after {} ms, {}",
            point.name,
            if in_doubt { "in doubt," } else { "by itself," },
            if in_doubt { ended.elapsed() } else { alone }.as_millis(),
            if open { "gone through" } else { "taken back" }
        );
        Ok(open)
    }

    async fn ask_for_cutover(&self, budget: &str) -> Result<()> {
        let site = &self.journey.site;
        let verb = ["cutover", MIGRATION, "--yes", "--detach", "--max-outage", budget];
        site.cli.expect(0, &verb).await.with_context(|| site.last_words())?;
        Ok(())
    }

    /// Asks for the cutover until the agent stands at its point. It has just been
    /// started, so the stream through it may not flow yet: the first try may be refused,
    /// or be taken back.
    async fn wait_for_stop(&mut self, point: &Point, budget: &str) -> Result<()> {
        wait::until(&format!("a stop at {}", point.name), LIMIT, async || {
            if self.journey.site.agent(point.end).stopped()? {
                return Ok(Seen::Done(()));
            }
            let status = self.journey.site.cli.status(MIGRATION).await?;
            if status.ready_for_cutover && !self.journey.site.agent(point.end).stopped()? {
                // A refusal is none of ours: the picture may have changed meanwhile.
                let asked = self.ask_for_cutover(budget).await;
                tracing::debug!(?asked, "asked again");
            }
            Ok(Seen::NotYet(status.summary()))
        })
        .await
        .with_context(|| self.journey.site.last_words())
    }

    /// Waits until every writer has had the time for a few writes, wherever.
    async fn writes_go_on(&self, limit: Duration) -> Result<()> {
        let counts = &self.journey.workload.counts;
        let target = counts.total() + 20;
        wait::until("more writes", limit, async || {
            let now = counts.total();
            Ok(if now >= target { Seen::Done(()) } else { Seen::NotYet(format!("{now} of {target}")) })
        })
        .await
        .with_context(|| self.journey.site.last_words())
    }

    /// Waits until the cutover is over, one way or the other.
    async fn settled(&self) -> Result<bool> {
        let over = |status: &Status| status.ready_for_cutover || status.ready_for_finish;
        let site = &self.journey.site;
        let status = site.cli.wait_for(MIGRATION, "the end of the cutover", LIMIT, over).await;
        Ok(status.with_context(|| site.last_words())?.ready_for_finish)
    }

    /// The rest of the migration, and every check.
    async fn arrive(mut self, open: bool) -> Result<()> {
        if !open {
            for end in [End::Source, End::Destination] {
                let agent = self.journey.site.agent(end);
                agent.stop().await?;
                agent.start()?;
            }
            self.journey.site.wait_for_agents().await?;
            let site = &self.journey.site;
            site.cli.wait_for(MIGRATION, "ready for cutover", LIMIT, |status| status.ready_for_cutover).await?;
            self.journey.cut_over().await?;
        }
        self.journey.writes_arrive().await?;
        let (_site, arrival) = self.journey.finish().await?;
        let ledger = arrival.ledger;
        for (what, from, until) in &self.alone {
            let waited = longest_pause(&ledger, *from, *until);
            println!("{what}: nobody wrote for {} ms at most", waited.as_millis());
            // From the first writer that had to wait, not from the fault.
            ensure!(waited <= BUDGET + MARGIN, "{what}: nobody wrote for {waited:?}");
        }
        println!(
            "{} + {} writes, {} unknown",
            ledger.acknowledged(End::Source),
            ledger.acknowledged(End::Destination),
            ledger.unknown()
        );
        Ok(())
    }
}

/// The longest time between two writes that were acknowledged one after the other,
/// whoever wrote them.
fn longest_pause(ledger: &Ledger, from: Duration, until: Duration) -> Duration {
    let mut times: Vec<Duration> = ledger
        .entries
        .iter()
        .filter(|entry| entry.is_write() && entry.outcome == Outcome::Acknowledged)
        .map(|entry| entry.complete)
        .filter(|complete| (from..=until).contains(complete))
        .collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(until.saturating_sub(from))
}

/// Every fault at its point. A new migration begins whenever one has gone through.
async fn survive(cases: &[(Fault, Point)]) -> Result<()> {
    ensure!(!cases.is_empty(), "nothing to survive");
    let mut scene = Box::pin(Scene::begin()).await?;
    for (number, (fault, point)) in cases.iter().enumerate() {
        let open = Box::pin(scene.meet(*fault, point)).await?;
        let last = number + 1 == cases.len();
        if open || last {
            Box::pin(scene.arrive(open)).await?;
            if last {
                return Ok(());
            }
            scene = Box::pin(Scene::begin()).await?;
        }
    }
    bail!("no case was the last one")
}

/// Every point of the cutover, in its order on each side.
fn points() -> Vec<Point> {
    let acts =
        ["prepare_cutover", "raise_barrier", "drain_to_marker", "fence_source", "open_destination", "release_barrier"];
    let of = |end: End| {
        let points = fail_points::of_agent(end).unwrap().into_iter();
        points.filter(|name| acts.iter().any(|act| name.starts_with(act))).map(move |name| Point { end, name })
    };
    of(End::Source).chain(of(End::Destination)).collect()
}

async fn survive_everywhere(fault: Fault) {
    let cases: Vec<_> = points().into_iter().map(|point| (fault, point)).collect();
    println!("{fault:?} at {} points", cases.len());
    survive(&cases).await.unwrap();
}

/// One of each kind where it hurts most; the rest is in the matrix below. The last
/// one goes through: what is still to be done needs the coordinator only.
#[tokio::test]
async fn freezes_and_partitions_at_the_worst_moments() {
    let source = |name| Point::named(End::Source, name);
    let destination = |name| Point::named(End::Destination, name);
    survive(&[
        (Frozen(Agent(End::Source)), source("raise_barrier.perform.locked")),
        (Partition(CoordinatorAnd(End::Source), Deaf::First), source("raise_barrier.perform.marked")),
        (Frozen(Coordinator), source("fence_source.perform.committed")),
        (Frozen(Server(End::Destination)), destination("drain_to_marker.perform.seen")),
        (Partition(Agents, Deaf::Both), source("fence_source.perform.expelled")),
    ])
    .await
    .unwrap();
}

macro_rules! matrix {
    ($($name:ident: $fault:expr;)*) => {
        $(
            #[tokio::test]
            #[ignore = "make test-all"]
            async fn $name() {
                survive_everywhere($fault).await;
            }
        )*
    };
}

matrix! {
    coordinator_frozen_at_every_point: Frozen(Coordinator);
    source_agent_frozen_at_every_point: Frozen(Agent(End::Source));
    destination_agent_frozen_at_every_point: Frozen(Agent(End::Destination));
    source_server_frozen_at_every_point: Frozen(Server(End::Source));
    destination_server_frozen_at_every_point: Frozen(Server(End::Destination));
    coordinator_deaf_to_the_source: Partition(CoordinatorAnd(End::Source), Deaf::First);
    source_agent_deaf_to_the_coordinator: Partition(CoordinatorAnd(End::Source), Deaf::Second);
    coordinator_and_source_agent_apart: Partition(CoordinatorAnd(End::Source), Deaf::Both);
    coordinator_deaf_to_the_destination: Partition(CoordinatorAnd(End::Destination), Deaf::First);
    destination_agent_deaf_to_the_coordinator: Partition(CoordinatorAnd(End::Destination), Deaf::Second);
    coordinator_and_destination_agent_apart: Partition(CoordinatorAnd(End::Destination), Deaf::Both);
    source_agent_deaf_to_the_destination: Partition(Agents, Deaf::First);
    destination_agent_deaf_to_the_source: Partition(Agents, Deaf::Second);
    agents_apart: Partition(Agents, Deaf::Both);
}
