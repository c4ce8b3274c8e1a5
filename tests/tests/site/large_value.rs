//! One value of half a gigabyte: the source's agent holds the row that carries it,
//! once, because its server hands out whole rows; the destination's agent holds
//! pieces.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::service::Service;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{Cluster, PostgresVersion, Site, SiteOptions};

use PostgresVersion::{V15, V18};

const LIMIT: Duration = Duration::from_secs(300);
const VALUE_BYTES: u64 = 500 << 20;
/// What an agent holds besides: the program, windows of the link, pieces under
/// way.
const MOST_BESIDES: u64 = 128 << 20;

/// The most memory that a program has ever held.
fn peak_bytes(service: &Service) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid().context("it does not run")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

async fn value(cluster: &Cluster, database: &str) -> Result<(i64, String)> {
    let client = cluster.connect(database).await?;
    let row = client.query_one("SELECT octet_length(body)::bigint, md5(body) FROM boulder WHERE id = 1", &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-all"]
async fn a_large_value_is_carried_in_pieces() {
    let mut options = SiteOptions::new(V15, V18);
    options.source = options.source.setting("max_wal_size", "4GB");
    options.destination = options.destination.setting("max_wal_size", "4GB");
    let site = Site::start(options).await.unwrap();
    let make = format!(
        "SET ROLE {APPLICATION};
         CREATE TABLE boulder (id int PRIMARY KEY, body bytea);
         ALTER TABLE boulder ALTER body SET STORAGE EXTERNAL;
         INSERT INTO boulder SELECT 1, convert_to(repeat(md5('a'), {}), 'UTF8');
         INSERT INTO boulder SELECT i, '\\x00ff' FROM generate_series(2, 1000) i;",
        VALUE_BYTES / 32,
    );
    site.source.execute(&site.database, &make).await.unwrap();
    let journey = Journey::begin(site, 2_000, &WorkloadOptions::default()).await.unwrap();
    let site = &journey.site;
    site.create(MIGRATION).await.unwrap();
    site.cli.run(&["start", MIGRATION, "--detach"]).await.unwrap();
    let ready = site.cli.wait_for(MIGRATION, "the cutover", LIMIT, |status| status.ready_for_cutover).await;
    ready.with_context(|| site.last_words()).unwrap();
    let [there, here] = [&site.source_agent, &site.destination_agent].map(|agent| peak_bytes(agent).unwrap());
    println!("the source's agent held {there} bytes, the destination's {here}, of a value of {VALUE_BYTES}");
    assert!(there <= VALUE_BYTES + MOST_BESIDES, "the source's agent held {there} bytes");
    assert!(here <= MOST_BESIDES, "the destination's agent held {here} bytes");
    journey.cut_over().await.unwrap();
    let (site, _arrival) = journey.finish().await.unwrap();
    let there = value(&site.source, &site.database).await.unwrap();
    assert_eq!(there.0, i64::try_from(VALUE_BYTES).unwrap());
    assert_eq!(there, value(&site.destination, &site.database).await.unwrap());
}
