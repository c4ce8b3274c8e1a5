//! The mistakes that others have shipped, made on purpose, are each found by the
//! checker; and where nobody makes one, it finds nothing in the same scene.

use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_tests::checker::{Violation, check_both};
use pgportage_tests::cluster::{connect, free_port};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::{End, Ledger};
use pgportage_tests::site::wires::Wires;
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::{Ends, Workload, WorkloadOptions};
use pgportage_tests::{PostgresVersion, Site, SiteOptions, final_state};
use tokio_postgres::{Client, Config};

const LIMIT: Duration = Duration::from_secs(60);

/// A second role that writes, of which no fence may forget.
const CLERK: &str = "clerk";
const CLERK_OF: &str = "CREATE ROLE clerk LOGIN PASSWORD 'canary-clerk-password'";
const CLERK_MAY: &str = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk";

/// A table that is locked before all others, because it is older.
const GATE: &str = "CREATE TABLE gate (id integer PRIMARY KEY); ALTER TABLE gate OWNER TO app";

/// Where clients can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    /// To whichever side lets them in; some of them as the second role.
    Everywhere,
    /// Nobody gets as far as the destination.
    SourceOnly,
}

/// A site ready for its cutover, both agents of which make a mistake.
struct Scene {
    journey: Journey,
    wires: Wires,
    clerks: Workload,
}

impl Scene {
    async fn begin(bug: Option<&str>, options: SiteOptions, clients: Clients) -> Result<Self> {
        let mut site = Site::prepare(options).await?;
        let wires = Wires::lay(&mut site).await?;
        if let Some(bug) = bug {
            site.source_agent.set_variable("PGPORTAGE_SEEDED_BUG", bug);
            site.destination_agent.set_variable("PGPORTAGE_SEEDED_BUG", bug);
        }
        site.start_programs().await?;
        for cluster in [&site.source, &site.destination] {
            cluster.execute("postgres", CLERK_OF).await?;
        }
        site.source.execute(&site.database, GATE).await?;
        let mut ends = site.ends();
        if clients == Clients::SourceOnly {
            let mut nowhere = Config::new();
            nowhere.host("127.0.0.1").port(free_port()?).user(APPLICATION);
            ends.destination = nowhere;
        }
        pgportage_tests::workload::prepare(&site.source, &site.database, APPLICATION, 500).await?;
        site.source.execute(&site.database, CLERK_MAY).await?;
        let options = WorkloadOptions { writers: 8, ..WorkloadOptions::default() };
        let workload = Workload::start(&ends, &options);
        let login =
            |cluster: &pgportage_tests::Cluster| cluster.tcp_config(&site.database, CLERK, "canary-clerk-password");
        let ends = Ends { source: login(&site.source), destination: login(&site.destination) };
        let writers = if clients == Clients::Everywhere { 3 } else { 0 };
        let options = WorkloadOptions { writers, first_writer: 100, ..options };
        let clerks = Workload::start(&ends, &options);
        let journey = Journey { site, workload };
        journey.until_cutover().await?;
        Ok(Self { journey, wires, clerks })
    }

    /// Without a way back: it meets what a mistake left behind, and stops there.
    async fn cut_over(&self) -> Result<()> {
        let site = &self.journey.site;
        site.cli
            .expect(0, &["cutover", MIGRATION, "--yes", "--no-way-back"])
            .await
            .with_context(|| site.last_words())?;
        Ok(())
    }

    /// Lets everybody end and returns what the checker finds in both databases.
    async fn end(self) -> Result<Vec<Violation>> {
        let Self { journey: Journey { site, workload }, wires: _wires, clerks } = self;
        let mut ledger: Ledger = workload.stop().await?;
        ledger.merge(clerks.stop().await?);
        let reached = final_state::read(&site.destination.connect(&site.database).await?).await?;
        let left = final_state::read(&site.source.connect(&site.database).await?).await?;
        Ok(check_both(1, &ledger, &reached, &left))
    }

    /// A cutover whose barrier waits at its first table, while everybody goes on
    /// writing into all the others, over a line that has just become long.
    async fn cut_over_behind_an_open_gate(&self) -> Result<()> {
        let site = &self.journey.site;
        let login = site.source.tcp_config(&site.database, APPLICATION, APPLICATION_PASSWORD);
        let client = connect(&login).await?;
        client.batch_execute("BEGIN; INSERT INTO gate VALUES (1)").await?;
        tokio::try_join!(self.cut_over(), self.hold_gate(client))?;
        Ok(())
    }

    async fn hold_gate(&self, client: Client) -> Result<()> {
        // Whoever looks as superuser is in the way of the cutover.
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted)";
        wait::until("the barrier at the gate", LIMIT, async || {
            let waits: bool = client.query_one(waits, &[]).await?.try_get(0)?;
            Ok(if waits { Seen::Done(()) } else { Seen::NotYet("not there".to_owned()) })
        })
        .await?;
        // What is written from now on is behind the marker, if that was too early, by
        // more than fence and opening take on a slow machine.
        self.wires.to_source.delay(Duration::from_secs(3));
        self.journey.workload.wait_for_writes(End::Source, 500, LIMIT).await?;
        Ok(client.batch_execute("COMMIT").await?)
    }
}

fn versions() -> SiteOptions {
    let mut options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18);
    // The gate is open for longer than a barrier usually waits.
    options.limits = vec![("barrier_timeout".to_owned(), "\"9s\"".to_owned())];
    options
}

fn count(violations: &[Violation], kind: fn(&Violation) -> bool) -> usize {
    violations.iter().filter(|violation| kind(violation)).count()
}

fn is_loss(violation: &Violation) -> bool {
    matches!(violation, Violation::Lost(_))
}

/// Everything that brings a mistake to light, and nobody makes one.
#[tokio::test]
async fn nothing_is_found_where_nobody_makes_a_mistake() {
    let scene = Scene::begin(None, versions(), Clients::Everywhere).await.unwrap();
    scene.cut_over_behind_an_open_gate().await.unwrap();
    scene.journey.writes_arrive().await.unwrap();
    scene.clerks.wait_for_writes(End::Destination, 50, LIMIT).await.unwrap();
    assert_eq!(scene.end().await.unwrap(), []);
}

#[tokio::test]
async fn a_position_read_before_the_barrier_is_found() {
    let scene = Scene::begin(Some("marker_before_barrier"), versions(), Clients::Everywhere).await.unwrap();
    scene.cut_over_behind_an_open_gate().await.unwrap();
    scene.journey.writes_arrive().await.unwrap();
    let violations = scene.end().await.unwrap();
    assert!(count(&violations, is_loss) > 0, "{violations:#?}");
    assert!(count(&violations, |it| matches!(it, Violation::Stranded(_))) > 0, "{violations:#?}");
}

/// Somebody holds a table of the destination, so that the stream stands still and
/// its counters do too.
#[tokio::test]
async fn a_drain_by_counters_is_found() {
    let scene = Scene::begin(Some("drain_by_counters"), versions(), Clients::Everywhere).await.unwrap();
    let site = &scene.journey.site;
    let client = site.destination.connect(&site.database).await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE accounts IN SHARE MODE").await.unwrap();
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'accounts'::regclass AND NOT granted)";
    site.destination.wait_until(&site.database, waits, LIMIT).await.unwrap();
    scene.journey.workload.wait_for_writes(End::Source, 100, LIMIT).await.unwrap();
    scene.cut_over().await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    scene.journey.writes_arrive().await.unwrap();
    let violations = scene.end().await.unwrap();
    assert!(count(&violations, is_loss) > 0, "{violations:#?}");
}

/// The destination's server dies behind the commit that opens it, before its agent can
/// say so and before any client has reached it: whatever else commits waits for the disk,
/// and so would make everything before safe too.
async fn die_when_open(bug: Option<&str>) -> Vec<Violation> {
    let mut options = versions();
    for (name, value) in
        [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB"), ("autovacuum", "off"), ("wal_buffers", "16MB")]
    {
        options.destination = options.destination.setting(name, value);
    }
    let mut scene = Scene::begin(bug, options, Clients::SourceOnly).await.unwrap();
    scene.journey.workload.wait_for_writes(End::Source, 100, LIMIT).await.unwrap();
    let site = &mut scene.journey.site;
    site.destination_agent.stop_at("open_destination.perform.committed").unwrap();
    site.cli.expect(0, &["cutover", MIGRATION, "--yes", "--no-way-back", "--detach"]).await.unwrap();
    wait::until("the destination agent behind the commit", LIMIT, async || {
        let stopped = site.destination_agent.stopped()?;
        Ok(if stopped { Seen::Done(()) } else { Seen::NotYet("it goes on".to_owned()) })
    })
    .await
    .unwrap();
    site.destination.kill9().unwrap();
    scene.wires.to_source.cut();
    site.destination.start_again().await.unwrap();
    site.destination_agent.thaw().unwrap();
    scene.end().await.unwrap()
}

#[tokio::test]
async fn a_missing_flush_is_found() {
    assert_eq!(die_when_open(None).await, []);
    let violations = die_when_open(Some("no_flush")).await;
    assert!(count(&violations, is_loss) > 0, "{violations:#?}");
}

#[tokio::test]
async fn sequences_by_their_columns_are_found() {
    let scene = Scene::begin(Some("sequences_by_max"), versions(), Clients::Everywhere).await.unwrap();
    scene.cut_over().await.unwrap();
    scene.journey.writes_arrive().await.unwrap();
    let violations = scene.end().await.unwrap();
    assert!(count(&violations, |it| matches!(it, Violation::WrongIdentity(_))) > 0, "{violations:#?}");
}

#[tokio::test]
async fn a_fence_of_one_role_is_found() {
    let scene = Scene::begin(Some("fence_of_one_role"), versions(), Clients::Everywhere).await.unwrap();
    scene.cut_over().await.unwrap();
    scene.journey.writes_arrive().await.unwrap();
    scene.clerks.wait_for_writes(End::Source, 20, LIMIT).await.unwrap();
    let violations = scene.end().await.unwrap();
    assert!(count(&violations, |it| matches!(it, Violation::BothOpen(_))) > 0, "{violations:#?}");
    assert!(count(&violations, |it| matches!(it, Violation::Stranded(_))) > 0, "{violations:#?}");
}
