//! Faults at every sub-step of a switch, there and back: whoever takes part killed or
//! frozen, and every pair of programs deaf to each other, in one direction or in both.
//!
//! An agent stops at a point of its own, the fault happens, the agent goes on.
//! While the fault lasts, the side that was to be left has to take writes again by
//! itself within the budget, unless nothing but the other side's word could prove that
//! it may; behind the decision the other side has to. Once the fault is over, everybody
//! has to write again in a short time, somewhere; never on both sides, and nothing that
//! was acknowledged is lost.
//!
//! One migration meets one fault at all points. What is taken back is followed by the
//! next try, and what has gone through by one in the other direction.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgportage_link::Clock;
use pgportage_tests::cli::Status;
use pgportage_tests::journey::{Journey, MIGRATION, expect_level, expect_refused};
use pgportage_tests::ledger::{End, Ledger, Outcome};
use pgportage_tests::site::wires::{Deaf, Pair, Wires};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, checker, fail_points, final_state, traces};

/// How long anything may take to come back by itself.
const LIMIT: Duration = Duration::from_secs(120);
/// The budget of every switch.
const BUDGET: Duration = Duration::from_secs(2);
/// What may come on top of it before writers write again where they were.
const MARGIN: Duration = Duration::from_millis(200);
/// How long they may take once a fault is over, and behind a death.
const RECOVERY: Duration = Duration::from_secs(10);
/// How long a fault lasts at least behind the decision, where no budget ends.
const WHILE: Duration = Duration::from_secs(1);

/// Who can be killed and frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Coordinator,
    Agent(End),
    Server(End),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// With SIGKILL; started again at once, as by a supervisor.
    Killed(Party),
    Frozen(Party),
    Partition(Pair, Deaf),
}

use End::{Destination, Source};
use Fault::{Frozen, Killed, Partition};
use Pair::{Agents, CoordinatorAnd};
use Party::{Agent, Coordinator, Server};

/// How far a switch is at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing durable has happened.
    Prepared,
    /// The fence may be durable: only the promise of the side to be entered lifts it.
    Fenced,
    /// The other side takes writes.
    Decided,
}

/// A fault at a place of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    fault: Fault,
    /// The side that is left: a cutover leaves the source, a rollback the destination.
    left: End,
    /// Whose agent passes the point.
    end: End,
    point: String,
    /// Whether what is written in the switch is compared before the other side opens.
    compares: bool,
}

impl Case {
    fn new(fault: Fault, left: End, end: End, point: &str) -> Self {
        Self { fault, left, end, point: point.to_owned(), compares: false }
    }

    fn name(&self) -> String {
        format!("{:?} in a {} at {}", self.fault, switch_from(self.left), self.point)
    }

    fn stage(&self) -> Stage {
        let is_one_of = |action: &str, moments: &[&str]| {
            moments.iter().any(|moment| self.point == format!("{action}.perform.{moment}"))
        };
        let of = |action: &str| self.point.starts_with(&format!("{action}."));
        let decided = is_one_of("open_destination", &["committed", "performed", "recorded"]);
        if decided || ["release_barrier", "keep_stream", "follow_stream"].into_iter().any(of) {
            return Stage::Decided;
        }
        let to_be_fenced = is_one_of("fence_source", &["accepted", "surveyed", "noted"]);
        // Once an outcome is on disk the other side may hear of it and go on. An agent
        // that has done its part, or is about to fence, goes on by itself unless it is
        // struck: it needs its server no more.
        let goes_on =
            to_be_fenced || is_one_of("raise_barrier", &["recorded"]) || is_one_of("drain_to_marker", &["performed"]);
        let may_be_fenced = is_one_of("drain_to_marker", &["recorded"]) || goes_on && !self.strikes_whom_it_meets();
        if of("open_destination") || of("fence_source") && !to_be_fenced || may_be_fenced {
            Stage::Fenced
        } else {
            Stage::Prepared
        }
    }

    /// Whether applications can write while the fault lasts.
    fn leaves_them_a_side(&self) -> bool {
        match (self.stage(), self.fault) {
            (_, Killed(_)) => true,
            (Stage::Prepared, fault) => fault != Frozen(Server(self.left)),
            // Nobody can know then that the other side stays closed.
            (Stage::Fenced, Frozen(Agent(_) | Server(_)) | Partition(Agents, _)) => false,
            // Clients that try the side that was left hang there.
            (Stage::Decided, Frozen(Server(_))) => false,
            (Stage::Fenced | Stage::Decided, Frozen(_) | Partition(..)) => true,
        }
    }

    /// How long writers may wait while it lasts.
    fn limit(&self) -> Duration {
        match self.fault {
            Killed(_) => RECOVERY,
            Frozen(_) | Partition(..) => BUDGET + MARGIN,
        }
    }

    /// How long it lasts at least. The budget must be over before anybody is helped.
    fn length(&self) -> Duration {
        match (self.fault, self.stage()) {
            (Killed(_), _) => Duration::ZERO,
            (Frozen(_) | Partition(..), Stage::Decided) => WHILE,
            (Frozen(_) | Partition(..), Stage::Prepared | Stage::Fenced) => BUDGET,
        }
    }

    /// Whether the agent at the point is the victim, which nobody else may let go on.
    fn strikes_whom_it_meets(&self) -> bool {
        [Frozen(Agent(self.end)), Killed(Agent(self.end))].contains(&self.fault)
    }
}

/// What an operator types to leave a side.
fn switch_from(left: End) -> &'static str {
    match left {
        Source => "cutover",
        Destination => "rollback",
    }
}

impl Fault {
    fn begin(self, site: &mut Site, wires: &Wires) -> Result<()> {
        match self {
            Killed(Coordinator) => site.coordinator.kill9(),
            Killed(Agent(end)) => site.agent(end).kill9(),
            Killed(Server(end)) => site.cluster_mut(end).kill9(),
            Frozen(Coordinator) => site.coordinator.freeze(),
            Frozen(Agent(end)) => site.agent(end).freeze(),
            Frozen(Server(end)) => site.cluster_mut(end).freeze(),
            Partition(pair, deaf) => {
                wires.deafen(pair, deaf);
                Ok(())
            }
        }
    }

    /// What a supervisor does about it at once.
    async fn restart(self, site: &mut Site) -> Result<()> {
        match self {
            Killed(Coordinator) => site.coordinator.start(),
            Killed(Agent(end)) => site.agent(end).start(),
            Killed(Server(end)) => site.cluster_mut(end).start_again().await,
            Frozen(_) | Partition(..) => Ok(()),
        }
    }

    fn end(self, site: &mut Site, wires: &Wires) -> Result<()> {
        match self {
            Killed(_) => Ok(()),
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

/// A pause of everybody that must not have been long.
struct Pause {
    what: String,
    limit: Duration,
    /// From when until when to look, from the start of the workload.
    from: Duration,
    until: Duration,
}

/// A migration whose programs talk through wires that can be made deaf.
struct Scene {
    journey: Journey,
    wires: Wires,
    /// Who takes writes.
    open: End,
    /// How often that has changed.
    switches: usize,
    pauses: Vec<Pause>,
}

impl Scene {
    async fn begin() -> Result<Self> {
        let mut options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18);
        // A subscription comes back after five seconds otherwise, at every point.
        for cluster in [&mut options.source, &mut options.destination] {
            *cluster = cluster.clone().setting("wal_retrieve_retry_interval", "500ms");
        }
        let mut site = Site::prepare(options).await?;
        let wires = Wires::lay(&mut site).await?;
        site.start_programs().await?;
        let options = WorkloadOptions { writers: 8, pause: Duration::from_millis(40), ..WorkloadOptions::default() };
        let journey = Journey::begin(site, 500, &options).await?;
        journey.until_cutover().await?;
        Ok(Self { journey, wires, open: Source, switches: 0, pauses: Vec::new() })
    }

    /// Every fault at its point, in whichever order the sides allow.
    async fn survive(&mut self, mut cases: Vec<Case>) -> Result<()> {
        ensure!(!cases.is_empty(), "nothing to survive");
        while !cases.is_empty() {
            match cases.iter().position(|case| case.left == self.open) {
                Some(next) => {
                    let case = cases.remove(next);
                    Box::pin(self.meet(&case)).await.with_context(|| case.name())?;
                }
                None => self.switch().await?,
            }
        }
        Ok(())
    }

    /// One switch that meets a fault.
    async fn meet(&mut self, case: &Case) -> Result<()> {
        let from = self.journey.workload.start.elapsed();
        self.wait_for_stop(case).await?;

        let (site, begun) = (&mut self.journey.site, Clock.now());
        case.fault.begin(site, &self.wires)?;
        if !case.strikes_whom_it_meets() {
            site.agent(case.end).thaw()?;
        }
        case.fault.restart(site).await?;
        if case.leaves_them_a_side() {
            // How long they really waited is seen in the ledger, at the end.
            self.writes_go_on(RECOVERY).await?;
            let (what, until) = (case.name(), self.journey.workload.start.elapsed());
            self.pauses.push(Pause { what, limit: case.limit(), from, until });
        }
        let alone = begun.elapsed();
        Clock.sleep_until(begun + case.length()).await;
        case.fault.end(&mut self.journey.site, &self.wires)?;
        let ended = Clock.now();
        self.writes_go_on(RECOVERY).await.context("once the fault was over")?;
        let recovered = ended.elapsed();
        let through = self.settle().await?;
        ensure!(through || case.stage() != Stage::Decided, "a decision was taken back");
        println!(
            "{}: {} writes after {} ms, {}",
            case.name(),
            if case.leaves_them_a_side() { "by itself," } else { "in doubt," },
            if case.leaves_them_a_side() { alone } else { recovered }.as_millis(),
            if through { "gone through" } else { "taken back" }
        );
        Ok(())
    }

    /// Asks for the switch until the agent stands at its point: the first try may be
    /// refused, or be taken back, while everybody still returns from the last fault.
    async fn wait_for_stop(&mut self, case: &Case) -> Result<()> {
        /// Looks at the agent for each question to the coordinator, which costs more.
        const LOOKS: u32 = 10;
        let budget = format!("{}ms", BUDGET.as_millis());
        let mut verb = vec![switch_from(case.left), MIGRATION, "--yes", "--detach", "--max-outage", &budget];
        if case.compares {
            verb.extend(["--compare", &budget]);
        }
        let site = &mut self.journey.site;
        site.agent(case.end).stop_at(&case.point)?;
        let (mut looks, mut last) = (0, String::new());
        wait::until("a stop at the point", LIMIT, async || {
            if site.agent(case.end).stopped()? {
                return Ok(Seen::Done(()));
            }
            if looks % LOOKS == 0 {
                let status = site.cli.status(MIGRATION).await?;
                last = status.summary();
                if takes_writes(&status) == Some(case.left) && !site.agent(case.end).stopped()? {
                    // A refusal is none of ours: the picture may have changed meanwhile.
                    last = site.cli.run(&verb).await?.all();
                }
            }
            looks += 1;
            Ok(Seen::NotYet(last.clone()))
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

    /// Waits until the switch is over, one way or the other, and says whether it has
    /// gone through.
    async fn settle(&mut self) -> Result<bool> {
        let site = &self.journey.site;
        let over = |status: &Status| takes_writes(status).is_some();
        let status = site.cli.wait_for(MIGRATION, "the end of the switch", LIMIT, over).await;
        let status = status.with_context(|| site.last_words())?;
        let open = takes_writes(&status).context("nobody takes writes")?;
        let through = open != self.open;
        if through {
            self.open = open;
            self.switches += 1;
        }
        // So many changes of side, and every one is seen: one more would be a fault.
        let seen = self.journey.workload.wait_for_writes(open, 20, LIMIT).await;
        seen.with_context(|| site.last_words())?;
        Ok(through)
    }

    /// A switch that meets nothing.
    async fn switch(&mut self) -> Result<()> {
        let verb = [switch_from(self.open), MIGRATION, "--yes"];
        let site = &self.journey.site;
        wait::until_told("a switch without a fault", LIMIT, async || {
            let said = site.cli.run(&verb).await?;
            Ok(if said.code == Some(0) { Seen::Done(()) } else { Seen::NotYet(said.all()) })
        })
        .await
        .with_context(|| site.last_words())?;
        ensure!(self.settle().await?, "a switch without a fault was taken back");
        Ok(())
    }

    /// The end of the migration, and every check.
    async fn arrive(mut self) -> Result<()> {
        if self.open == Source {
            self.switch().await?;
        }
        let Journey { site, workload } = self.journey;
        let ledger = workload.stop().await?;
        let rows = expect_level(&site).await?;
        let arrived = final_state::read(&site.destination.connect(&site.database).await?).await?;
        let left = final_state::read(&site.source.connect(&site.database).await?).await?;
        checker::verdict_on_both(self.switches, &ledger, &arrived, &left)?;
        expect_refused(&site, Source).await?;
        site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await.with_context(|| site.last_words())?;
        for cluster in [&site.source, &site.destination] {
            traces::expect_nothing(cluster, &site.database).await?;
        }
        for Pause { what, limit, from, until } in &self.pauses {
            let waited = longest_pause(&ledger, *from, *until);
            println!("{what}: nobody wrote for {} ms at most", waited.as_millis());
            // From the first writer that had to wait, not from the fault.
            ensure!(waited <= *limit, "{what}: nobody wrote for {waited:?}");
        }
        println!(
            "{rows} rows on both sides, {} changes of side, {} + {} writes, {} unknown",
            self.switches,
            ledger.acknowledged(Source),
            ledger.acknowledged(Destination),
            ledger.unknown()
        );
        Ok(())
    }
}

/// Who takes writes, while no switch is under way.
fn takes_writes(status: &Status) -> Option<End> {
    match (status.ready_for_cutover, status.ready_for_finish) {
        (true, _) => Some(Source),
        (false, true) => Some(Destination),
        (false, false) => None,
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

async fn survive(cases: Vec<Case>) -> Result<()> {
    let mut scene = Box::pin(Scene::begin()).await?;
    Box::pin(scene.survive(cases)).await?;
    Box::pin(scene.arrive()).await
}

/// One of each kind where it hurts most, there and back; the rest is in the matrix.
#[tokio::test]
async fn faults_at_the_worst_moments() {
    survive(vec![
        Case::new(Frozen(Agent(Source)), Source, Source, "raise_barrier.perform.locked"),
        Case::new(Partition(CoordinatorAnd(Source), Deaf::First), Source, Source, "raise_barrier.perform.marked"),
        Case::new(Frozen(Coordinator), Source, Source, "fence_source.perform.committed"),
        Case::new(Frozen(Server(Destination)), Source, Destination, "drain_to_marker.perform.seen"),
        Case::new(Partition(Agents, Deaf::Both), Source, Source, "fence_source.perform.expelled"),
        Case::new(Killed(Agent(Source)), Source, Destination, "open_destination.perform.committed"),
        Case::new(Frozen(Agent(Destination)), Destination, Destination, "fence_source.perform.committed"),
    ])
    .await
    .unwrap();
}

/// From the arrival of the marker on, both sides hash what was written.
#[tokio::test]
async fn faults_while_what_was_written_is_compared() {
    let comparing = |fault, left: End, end| Case {
        compares: true,
        ..Case::new(fault, left, end, "drain_to_marker.perform.flushed")
    };
    survive(vec![
        comparing(Partition(Agents, Deaf::Both), Source, Destination),
        comparing(Frozen(Agent(Source)), Source, Destination),
        comparing(Killed(Agent(Destination)), Source, Destination),
        comparing(Frozen(Server(Destination)), Source, Destination),
        comparing(Killed(Server(Source)), Source, Destination),
        comparing(Frozen(Agent(Source)), Destination, Source),
        comparing(Killed(Agent(Destination)), Destination, Source),
        comparing(Partition(Agents, Deaf::First), Destination, Source),
    ])
    .await
    .unwrap();
}

/// Every fault at every point, in both directions.
mod matrix {
    use super::*;

    /// Every point of a switch, in its order on each side.
    fn cases(fault: Fault, left: End) -> Vec<Case> {
        let of = |end: End| {
            let points = fail_points::of_switch(end, left).unwrap().into_iter();
            points.map(move |point| Case::new(fault, left, end, &point))
        };
        of(left).chain(of(left.other())).collect()
    }

    async fn survive_everywhere(fault: Fault) {
        let cases: Vec<_> = [Source, Destination].into_iter().flat_map(|left| cases(fault, left)).collect();
        println!("{fault:?} at {} points", cases.len());
        survive(cases).await.unwrap();
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
        coordinator_killed: Killed(Coordinator);
        source_agent_killed: Killed(Agent(Source));
        destination_agent_killed: Killed(Agent(Destination));
        source_server_killed: Killed(Server(Source));
        destination_server_killed: Killed(Server(Destination));
        coordinator_frozen: Frozen(Coordinator);
        source_agent_frozen: Frozen(Agent(Source));
        destination_agent_frozen: Frozen(Agent(Destination));
        source_server_frozen: Frozen(Server(Source));
        destination_server_frozen: Frozen(Server(Destination));
        coordinator_deaf_to_the_source: Partition(CoordinatorAnd(Source), Deaf::First);
        source_agent_deaf_to_the_coordinator: Partition(CoordinatorAnd(Source), Deaf::Second);
        coordinator_and_source_agent_apart: Partition(CoordinatorAnd(Source), Deaf::Both);
        coordinator_deaf_to_the_destination: Partition(CoordinatorAnd(Destination), Deaf::First);
        destination_agent_deaf_to_the_coordinator: Partition(CoordinatorAnd(Destination), Deaf::Second);
        coordinator_and_destination_agent_apart: Partition(CoordinatorAnd(Destination), Deaf::Both);
        source_agent_deaf_to_the_destination: Partition(Agents, Deaf::First);
        destination_agent_deaf_to_the_source: Partition(Agents, Deaf::Second);
        agents_apart: Partition(Agents, Deaf::Both);
    }
}
