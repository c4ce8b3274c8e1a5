//! A migration that does not move, twice, and what the operator is told: who is in
//! the way on which side, what it costs meanwhile, and what to type. What is typed
//! helps, and nothing is lost.

use std::time::Duration;

use anyhow::Result;
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(120);

/// An index that is built as long as somebody on that server holds the gate.
const GATED: &str = "
    CREATE FUNCTION public.gate(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711); RETURN v; END $$;
    CREATE TABLE public.gated (id int PRIMARY KEY);
    CREATE INDEX gated_by_gate ON public.gated (public.gate(id));
    INSERT INTO public.gated SELECT generate_series(1, 100);
    ALTER FUNCTION public.gate(int) OWNER TO app;
    ALTER TABLE public.gated OWNER TO app;";

const OPEN_TRANSACTION: &str = "SET application_name = 'accounting'; BEGIN; SELECT pg_current_xact_id()";

async fn explained_as(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, LIMIT, async || {
        let told: Value = site.cli.json(&["explain", MIGRATION]).await?;
        Ok(if wanted(&told) { Seen::Done(told) } else { Seen::NotYet(format!("{told:#}")) })
    })
    .await
}

/// The first explanation, if it says that a session on this side is blocked.
fn blocked<'a>(told: &'a Value, side: &str) -> Option<&'a Value> {
    let first = &told["explanations"][0];
    let is = first["weight"] == "cause" && first["code"] == "SESSION_BLOCKED" && first["side"] == side;
    is.then_some(first)
}

async fn status_as(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, LIMIT, async || {
        let told: Value = site.cli.json(&["status", MIGRATION]).await?;
        Ok(if wanted(&told) { Seen::Done(told) } else { Seen::NotYet(format!("{:#}", told["figures"])) })
    })
    .await
}

/// Every line of a program's figures that has been there when the wanted ones
/// were.
async fn figures(port: u16, wanted: &[&str]) -> Result<String> {
    wait::until("figures", LIMIT, async || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let there = |name: &&str| text.lines().any(|line| line.starts_with(*name));
        Ok(if wanted.iter().all(there) { Seen::Done(text) } else { Seen::NotYet(text) })
    })
    .await
}

/// The value of a figure of the migration.
fn figure(text: &str, name: &str) -> f64 {
    let start = format!("pgportage_{name}{{migration=\"{MIGRATION}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_is_in_the_way_is_named_and_what_is_typed_helps() {
    Box::pin(two_obstacles(PostgresVersion::V16, PostgresVersion::V18)).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn who_is_in_the_way_is_named_in_other_versions() {
    Box::pin(two_obstacles(PostgresVersion::V14, PostgresVersion::V17)).await;
}

async fn two_obstacles(source: PostgresVersion, destination: PostgresVersion) {
    let site = Site::start(SiteOptions::new(source, destination)).await.unwrap();
    let journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    let site = &journey.site;
    let database = site.database.as_str();
    site.source.execute(database, GATED).await.unwrap();

    // A transaction that somebody forgot: the slot cannot be made.
    let forgotten = site.source.connect_as(database, APPLICATION, APPLICATION_PASSWORD).await.unwrap();
    forgotten.batch_execute(OPEN_TRANSACTION).await.unwrap();
    let pid: i32 = forgotten.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    site.create(MIGRATION).await.unwrap();
    let told = site.cli.expect(0, &["explain", MIGRATION]).await.unwrap();
    assert!(told.stdout.contains("it was not started"), "{told:?}");
    site.cli.expect(0, &["start", MIGRATION, "--detach"]).await.unwrap();
    let in_the_way = format!("process {pid} (role app, application accounting, idle in transaction");
    let told = explained_as(site, "the transaction is named", |told| {
        blocked(told, "source").is_some_and(|first| first["message"].to_string().contains(&in_the_way))
    })
    .await
    .unwrap();
    let first = blocked(&told, "source").unwrap();
    assert!(
        first["message"].as_str().unwrap().starts_with("the creation of the replication slot waits for"),
        "{first}"
    );
    assert_eq!(told["all_checked"], true, "{told:#}");
    for report in told["reports"].as_array().unwrap() {
        assert!(report["situation"]["round_trip_milliseconds"].is_u64(), "{report:#}");
    }

    // What that costs the source is known from this moment on.
    let growing = status_as(site, "the WAL kept has an end", |told| {
        told["figures"]["wal_forecast"]["left_milliseconds"].is_u64()
    })
    .await
    .unwrap();
    let forecast = &growing["figures"]["wal_forecast"];
    assert!(growing["figures"]["retained_wal_bytes"].as_i64().unwrap() > 0, "{forecast:#}");
    assert!(forecast["growth_bytes_per_second"].as_i64().unwrap() > 0, "{forecast:#}");
    assert!(forecast["limit"] == "policy" || forecast["limit"] == "disk", "{forecast:#}");
    let text = site.cli.expect(0, &["status", MIGRATION]).await.unwrap().stdout;
    assert!(text.contains("on the source, limit in ") && text.contains(" at this rate ("), "{text}");
    let names = ["pgportage_wal_left_seconds{", "pgportage_wal_left_bytes{", "pgportage_retained_wal_bytes{"];
    let source_figures = figures(site.source_config.metrics_port, &names).await.unwrap();
    assert!(figure(&source_figures, "wal_left_bytes") > 0.0);

    // Meanwhile somebody stands in the way on the other side, too.
    let gate = site.destination.connect(database).await.unwrap();
    gate.batch_execute("SET application_name = 'gatekeeper'; SELECT pg_advisory_lock(4711)").await.unwrap();
    let gate_pid: i32 = gate.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);

    // What explain says to type, typed there.
    site.source.execute("postgres", first["statements"][0].as_str().unwrap()).await.unwrap();
    let in_the_way = format!("process {gate_pid} (");
    let told = explained_as(site, "the gatekeeper is named", |told| {
        blocked(told, "destination").is_some_and(|first| first["message"].to_string().contains(&in_the_way))
    })
    .await
    .unwrap();
    assert!(told["explanations"][0]["message"].to_string().contains("application gatekeeper"), "{told:#}");
    let building = |told: &Value| {
        told["steps"].as_array().unwrap().iter().any(|step| {
            let builds = step["progress"]["builds"].as_array();
            builds.is_some_and(|builds| builds.iter().any(|build| build["table"] == "public.gated"))
        })
    };
    status_as(site, "the build is shown", building).await.unwrap();
    let text = site.cli.expect(0, &["status", MIGRATION]).await.unwrap().stdout;
    assert!(text.contains("index of public.gated: building index"), "{text}");
    let names = ["pgportage_index_builds{", "pgportage_copy_total_bytes{", "pgportage_copy_done_rows{"];
    let copied = figures(site.destination_config.metrics_port, &names).await.unwrap();
    assert!(figure(&copied, "copy_done_rows") >= 100.0);
    let (done, total) = (figure(&copied, "copy_done_tables"), figure(&copied, "copy_total_tables"));
    assert!(done >= 1.0 && done <= total, "{done} of {total}");
    assert!(figure(&copied, "copy_done_bytes") <= figure(&copied, "copy_total_bytes"));
    assert!(figure(&copied, "copy_done_rows") <= figure(&copied, "copy_total_rows"));
    assert!(figure(&copied, "index_builds") >= 1.0);

    gate.batch_execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    drop(gate);
    site.cli.expect(0, &["start", MIGRATION]).await.unwrap();
    journey.workload.wait_for_writes(End::Source, 200, LIMIT).await.unwrap();
    let told: Value = site.cli.json(&["explain", MIGRATION]).await.unwrap();
    let messages: Vec<_> = told["explanations"].as_array().unwrap().iter().map(|found| &found["message"]).collect();
    assert_eq!(messages, ["it waits for your word before step cutover"], "{told:#}");
    assert_eq!(told["reports"][1]["situation"]["subscription"]["enabled"], true, "{told:#}");

    journey.cut_over().await.unwrap();
    let (site, _) = journey.finish().await.unwrap();
    let told = site.cli.expect(0, &["explain", MIGRATION]).await.unwrap();
    assert!(told.stdout.contains("it is over"), "{told:?}");
}
