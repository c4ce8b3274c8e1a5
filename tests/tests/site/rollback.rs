//! There and back: applications return to the source with everything they wrote on
//! the destination, as often as one likes. (Faults on the way are in `switch_faults.rs`.)

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgportage_certificate::{Account, Direction, Statement, SwitchCertificate};
use pgportage_link::Clock;
use pgportage_tests::cli::Cli;
use pgportage_tests::journey::{Journey, MIGRATION, expect_level, expect_refused};
use pgportage_tests::ledger::{End, Ledger};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, checker, final_state, traces};
use serde_json::Value;
use tokio_postgres::Client;

use PostgresVersion::{V15, V16, V17, V18};

const LIMIT: Duration = Duration::from_secs(120);

fn options() -> WorkloadOptions {
    WorkloadOptions { writers: 6, pause: Duration::from_millis(40), ..WorkloadOptions::default() }
}

async fn at_cutover(source: PostgresVersion, destination: PostgresVersion) -> Journey {
    let site = Site::start(SiteOptions::new(source, destination)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    assert_eq!(journey.site.cli.status(MIGRATION).await.unwrap().way_back, "proved");
    journey
}

/// What the coordinator says about the switch that was last.
async fn told(journey: &Journey) -> String {
    let status = journey.site.cli.status(MIGRATION).await.unwrap();
    let cutover = status.cutover.unwrap();
    let what = if cutover.rollback { "rollback" } else { "cutover" };
    let (outage, drain) = (cutover.outage_milliseconds, cutover.drain_milliseconds);
    format!("{what} {}: {outage:?} ms, {drain:?} ms of it the drain", cutover.epoch)
}

/// Stops the writers where they are, and proves that both sides hold the same, that
/// every acknowledged write is there, and that only one side ever took any.
async fn level(journey: Journey, open: End) -> (Site, Ledger) {
    let Journey { site, workload } = journey;
    let ledger = workload.stop().await.unwrap();
    let rows = expect_level(&site).await.unwrap();
    let client = site.cluster(open).connect(&site.database).await.unwrap();
    let state = final_state::read(&client).await.unwrap();
    checker::verdict(site.switches().await.unwrap(), &ledger, &state).unwrap();
    expect_refused(&site, open.other()).await.unwrap();
    println!("{rows} rows are the same on both sides; {} changes of side", ledger.switches());
    (site, ledger)
}

/// Rehearses what comes next: writers wait a few times and are where they were.
async fn rehearse(journey: &Journey, switch: &str, rounds: &str) {
    say(journey, &[switch, MIGRATION, "--rehearse", "--rounds", rounds, "--yes"]).await;
    let rehearsal = journey.site.cli.status(MIGRATION).await.unwrap().rehearsal.unwrap();
    println!("rehearsed: {rehearsal:?}");
    assert_eq!((rehearsal.phase.as_str(), rehearsal.completed_count.to_string().as_str()), ("done", rounds));
    assert_eq!((rehearsal.rollback, rehearsal.fits), (switch == "rollback", true));
    let rest = if switch == "rollback" { "switch" } else { "estimate" };
    assert_eq!(rehearsal.rest_source, rest);
}

async fn status_as(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, LIMIT, async || {
        let told: Value = site.cli.json(&["status", MIGRATION]).await?;
        Ok(if wanted(&told) { Seen::Done(told) } else { Seen::NotYet(format!("{:#}", told["schema_drift"])) })
    })
    .await
    .unwrap()
}

/// DDL on the side that takes writes, which stops the stream: within seconds it holds
/// the next switch, by name, and the same change on the other side ends it.
async fn drift_and_mend(journey: &Journey, open: End, switch: &str, column: &str) {
    let site = &journey.site;
    let level = |told: &Value| told["held_by"].is_null() && told["schema_drift"]["object_count"] == 0;
    status_as(site, "both sides to be compared", level).await;
    let ddl = format!(
        "ALTER TABLE public.accounts ADD COLUMN {column} text NOT NULL DEFAULT 'it''s';
         CREATE INDEX ON public.accounts ({column})"
    );
    site.cluster(open).execute(&site.database, &ddl).await.unwrap();
    let begun = Clock.now();
    let held = status_as(site, "the drift to be told", |told| told["schema_drift"]["object_count"] == 2).await;
    let took = Clock.now().duration_since(begun);
    println!("the drift was told after {took:?}");
    // 10 s, and what a busy machine adds.
    assert!(took < Duration::from_secs(30), "told after {took:?}");
    let table = &held["schema_drift"]["objects"][0];
    assert_eq!(table["identity"], "table public.accounts", "{held:#}");
    assert_eq!(table["change"], "different", "{held:#}");
    assert_eq!((&held["held_by"]["reason"], &held["ready_for_cutover"]), (&"SCHEMA_DIFFERS".into(), &false.into()));
    let refused = site.cli.run(&[switch, MIGRATION, "--yes"]).await.unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.all());
    assert!(refused.all().contains(held["held_by"]["detail"].as_str().unwrap()), "{}", refused.all());
    let explained: Value = site.cli.json(&["explain", MIGRATION]).await.unwrap();
    let causes = explained["explanations"].as_array().unwrap();
    assert!(causes.iter().any(|cause| cause["code"] == "SCHEMA_DIFFERS"), "{explained:#}");

    // As `docs/operating.md` says: by a superuser, whose session may write.
    let closed = format!("BEGIN READ WRITE; {ddl}; COMMIT");
    site.cluster(open.other()).execute(&site.database, &closed).await.unwrap();
    status_as(site, "both sides to be level again", level).await;
    let flows = |told: &Value| told["figures"]["lag_milliseconds"].as_u64().is_some_and(|lag| lag < 1_000);
    status_as(site, "the stream to flow again", flows).await;
}

async fn there_and_back_and_there(source: PostgresVersion, destination: PostgresVersion) {
    let mut journey = at_cutover(source, destination).await;
    rehearse(&journey, "cutover", "2").await;
    journey.workload.wait_for_writes(End::Source, 100, LIMIT).await.unwrap();
    drift_and_mend(&journey, End::Source, "cutover", "came_first").await;
    for round in 0..2 {
        if round == 0 {
            journey.cut_over().await.unwrap();
        } else {
            cut_over_with_a_death_before_the_statement(&mut journey).await;
        }
        println!("{}", told(&journey).await);
        if round == 0 {
            drift_and_mend(&journey, End::Destination, "rollback", "came_later").await;
        }
        let status = journey.site.cli.status(MIGRATION).await.unwrap();
        assert_eq!((status.way_back.as_str(), status.ready_for_finish), ("running", true));
        if round == 1 {
            break;
        }
        rehearse(&journey, "rollback", "1").await;
        journey.workload.wait_for_writes(End::Destination, 100, LIMIT).await.unwrap();
        journey.roll_back().await.unwrap();
        println!("{}", told(&journey).await);
        let status = journey.site.cli.status(MIGRATION).await.unwrap();
        assert_eq!((status.way_back.as_str(), status.ready_for_cutover), ("proved", true));
    }
    let (mut site, ledger) = level(journey, End::Destination).await;
    assert_eq!(ledger.switches(), 3, "a rehearsal changes nobody's side");
    let marks = Marks::read(&site).await;
    site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
    // Nothing but what was made to drift: no step of ours is taken for one.
    for service in [&site.source_agent, &site.destination_agent] {
        let log = service.log_text().unwrap();
        assert_eq!(log.matches("schema drift: the two sides are not level").count(), 1, "{log}");
    }
    for cluster in [&site.source, &site.destination] {
        traces::expect_nothing(cluster, &site.database).await.unwrap();
    }
    expect_refused(&site, End::Source).await.unwrap();
    certified(&mut site, &marks).await;
}

/// The source's agent dies when it has made its statement and not told it.
async fn cut_over_with_a_death_before_the_statement(journey: &mut Journey) {
    journey.site.source_agent.stop().await.unwrap();
    journey.site.source_agent.start_to_fail_at("certify_switch.perform.stated").unwrap();
    journey.site.wait_for_agents().await.unwrap();
    say(journey, &["cutover", MIGRATION, "--yes", "--detach"]).await;
    wait::until("death before the statement", LIMIT, async || {
        let alive = journey.site.source_agent.running()?;
        Ok(if alive { Seen::NotYet("alive".to_owned()) } else { Seen::Done(()) })
    })
    .await
    .unwrap();
    journey.site.source_agent.start().unwrap();
    journey.writes_arrive().await.unwrap();
    let cli = &journey.site.cli;
    cli.wait_for(MIGRATION, "the cutover to be over", LIMIT, |status| status.ready_for_finish).await.unwrap();
    // The agent's restart had cut the stream: that is waited for before writers are.
    let drain = cli.status(MIGRATION).await.unwrap().cutover.unwrap().drain_milliseconds.unwrap();
    assert!(drain < 1_000, "{drain} ms");
}

/// What the servers themselves say about the last cutover, once nobody writes.
struct Marks {
    /// The marker, on each side.
    markers: [String; 2],
    /// The sequences of the source, which nobody has moved since it was left.
    sequences: Vec<(String, String, i64, bool)>,
    /// Which servers these are.
    systems: [String; 2],
}

impl Marks {
    async fn read(site: &Site) -> Self {
        let source = site.source.connect(&site.database).await.unwrap();
        let destination = site.destination.connect(&site.database).await.unwrap();
        let one = async |client: &Client, sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
        let marker = "SELECT marker_id::text FROM pgportage.marker";
        let system = "SELECT system_identifier::text FROM pg_control_system()";
        let names = source
            .query("SELECT schemaname::text, sequencename::text FROM pg_sequences ORDER BY 1, 2", &[])
            .await
            .unwrap();
        let mut sequences = Vec::new();
        for row in names {
            let (schema, name): (String, String) = (row.get(0), row.get(1));
            let state = format!("SELECT last_value, is_called FROM \"{schema}\".\"{name}\"");
            let state = source.query_one(&state, &[]).await.unwrap();
            sequences.push((schema, name, state.get(0), state.get(1)));
        }
        Self {
            markers: [one(&source, marker).await, one(&destination, marker).await],
            sequences,
            systems: [one(&source, system).await, one(&destination, system).await],
        }
    }
}

/// Numbers of the switches: those of three rounds of rehearsals are in between.
const SWITCHES: [(i64, Direction); 3] = [(3, Direction::Cutover), (5, Direction::Rollback), (6, Direction::Cutover)];

/// After the end, and with the coordinator gone: every switch has a certificate that
/// anybody can check, the last one says what the servers say, and one that was
/// changed, or put together of two, is refused.
async fn certified(site: &mut Site, marks: &Marks) {
    let directory = site.directory().to_owned();
    let file = |switch: i64| directory.join(format!("switch-{switch}.json"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut statements = Vec::new();
    for (switch, direction) in SWITCHES {
        let (number, output) = (switch.to_string(), text(&file(switch)));
        let save = ["certificate", "save", MIGRATION, "--switch", &number, "--output", &output];
        site.cli.expect(0, &save).await.unwrap();
        let certificate = SwitchCertificate::parse(&fs::read_to_string(file(switch)).unwrap()).unwrap();
        let told: Vec<Statement> = certificate.statements().iter().map(|signed| signed.read().unwrap()).collect();
        assert!(told.iter().all(|statement| (statement.cutover_epoch, statement.direction) == (switch, direction)));
        emptied_before_it_was_opened(&told);
        statements.push((certificate, told));
    }
    let (last, told) = &statements[2];
    let [left, entered] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!([&left.marker_id, &entered.marker_id], [&marks.markers[0], &marks.markers[1]]);
    assert_eq!(
        [&left.server.system_identifier, &entered.server.system_identifier],
        [&marks.systems[0], &marks.systems[1]]
    );
    let mut stated: Vec<_> = left.sequences.entries.iter().flatten().collect();
    stated.sort_by_key(|sequence| (&sequence.schema, &sequence.name));
    let stated: Vec<_> = stated
        .into_iter()
        .map(|sequence| (sequence.schema.clone(), sequence.name.clone(), sequence.last_value, sequence.called))
        .collect();
    assert!(!stated.is_empty() && stated == marks.sequences, "{stated:?} {:?}", marks.sequences);

    site.coordinator.stop().await.unwrap();
    let offline = Cli { config: "/nonexistent".into(), ..site.cli.clone() };
    let authority = text(&directory.join("certificates/ca.pem"));
    for (switch, _) in SWITCHES {
        let verified = ["certificate", "verify", &text(&file(switch)), "--authority", &authority];
        let story = offline.expect(0, &verified).await.unwrap();
        assert!(!story.all().contains("on another clock"), "{}", story.all());
    }
    let good = fs::read_to_string(file(SWITCHES[2].0)).unwrap();
    let value = format!("\\\"last_value\\\":{}", stated[0].2);
    assert!(good.contains(&value), "{value}");
    let halves = |one: usize, other: usize| {
        let half = |which: usize, side: usize| statements[which].0.statements()[side].clone();
        SwitchCertificate::new(vec![half(one, 0), half(other, 1)]).text()
    };
    let forged = [
        good.replacen(&value, &format!("\\\"last_value\\\":{}", stated[0].2 + 1), 1),
        halves(0, 2),
        halves(2, 1),
        SwitchCertificate::new(last.statements()[..1].to_vec()).text(),
    ];
    for (number, text_of_it) in forged.into_iter().enumerate() {
        let path = directory.join(format!("forged-{number}.json"));
        fs::write(&path, text_of_it).unwrap();
        let refused =
            offline.expect(1, &["certificate", "verify", &text(&path), "--authority", &authority]).await.unwrap();
        assert!(refused.stderr.contains("CERTIFICATE_NOT_PROVED"), "{}", refused.all());
    }
}

/// Both sides have one clock here, so the order must be the right one.
fn emptied_before_it_was_opened(told: &[Statement]) {
    let [left, entered] = told else { panic!("{told:?}") };
    let (Account::Left(left), Account::Entered(entered)) = (&left.account, &entered.account) else {
        panic!("{told:?}")
    };
    let (emptied, opened) = (left.fence_time, entered.decision_time);
    assert!(emptied < opened, "nobody was left at {emptied}, and the other side was opened at {opened}");
}

/// Versions that know nothing of `origin`, and ones that do.
#[tokio::test]
async fn from_an_old_version_and_back() {
    Box::pin(there_and_back_and_there(V15, V18)).await;
}

/// Before version 16 SET is no right of its own, and no subscription knows origins.
#[tokio::test]
async fn between_old_versions_and_back() {
    Box::pin(there_and_back_and_there(V15, V15)).await;
}

#[tokio::test]
#[ignore = "part of make test-all: another pair is tried in every run"]
async fn between_equals_and_back() {
    Box::pin(there_and_back_and_there(V18, V18)).await;
}

#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn every_other_version_and_back() {
    for (source, destination) in [(V15, V16), (V16, V17), (V17, V18)] {
        Box::pin(there_and_back_and_there(source, destination)).await;
    }
}

/// What is taken back after a rollback leaves the source as if nothing had been.
#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn a_rollback_and_then_an_abort() {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &options()).await.unwrap();
    let before = traces::catalog(&journey.site.source, &journey.site.database).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.cut_over().await.unwrap();
    journey.roll_back().await.unwrap();
    journey.site.cli.expect(0, &["abort", MIGRATION, "--yes"]).await.unwrap();
    let Journey { site, workload } = journey;
    let ledger = workload.stop().await.unwrap();
    let source = site.source.connect(&site.database).await.unwrap();
    checker::verdict(2, &ledger, &final_state::read(&source).await.unwrap()).unwrap();
    let after = traces::catalog(&site.source, &site.database).await.unwrap();
    traces::expect_equal(&before, &after).unwrap();
    traces::expect_nothing(&site.destination, &site.database).await.unwrap();
}

#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn ten_times_in_a_row() {
    let journey = at_cutover(V18, V18).await;
    for _round in 0..10 {
        journey.cut_over().await.unwrap();
        println!("{}", told(&journey).await);
        journey.roll_back().await.unwrap();
        println!("{}", told(&journey).await);
    }
    let (site, ledger) = level(journey, End::Source).await;
    assert_eq!(ledger.switches(), 20);
    site.cli.expect(0, &["abort", MIGRATION, "--yes"]).await.unwrap();
    for cluster in [&site.source, &site.destination] {
        traces::expect_nothing(cluster, &site.database).await.unwrap();
    }
}

/// A server that crashes right after it opened must not send back what came from the
/// other side: its slot was moved, and a move is not on disk before a checkpoint.
#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn a_server_that_crashes_after_the_switch_sends_nothing_twice() {
    let mut journey = at_cutover(V15, V18).await;
    journey.cut_over().await.unwrap();
    journey.site.destination.kill9().unwrap();
    journey.site.destination.start_again().await.unwrap();
    journey.writes_arrive().await.unwrap();
    journey.roll_back().await.unwrap();
    journey.site.source.kill9().unwrap();
    journey.site.source.start_again().await.unwrap();
    journey.workload.wait_for_writes(End::Source, 200, LIMIT).await.unwrap();
    let (_site, _ledger) = level(journey, End::Source).await;
}

/// Says a word until it is heeded: after a kill the lag is above its limit for a while.
async fn say(journey: &Journey, words: &[&str]) {
    wait::until_told(&format!("{words:?}"), LIMIT, async || {
        let said = journey.site.cli.run(words).await?;
        Ok(if said.code == Some(0) { Seen::Done(()) } else { Seen::NotYet(said.all()) })
    })
    .await
    .unwrap();
}
