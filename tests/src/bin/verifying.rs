//! How long it takes to compare every row of a database with its copy: `pgportage
//! verify` beside `pg_dump > /dev/null` of the same database, in turn, in the same
//! run.
//!
//! Honest only with release builds and a quiet machine: `make bench` sees to the
//! first.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use pgportage_link::Clock;
use pgportage_tests::bench::dataset::Dataset;
use pgportage_tests::child::{Output, Program};
use pgportage_tests::postgres_versions::tools_for;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, figures};
use serde::Deserialize;

/// Longest anything may take.
const LIMIT: Duration = Duration::from_secs(3600);
const MIGRATION: &str = "bench";

/// Compares a comparison with a dump.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is compared
    #[arg(long, value_enum, default_value = "large")]
    data: Data,
    /// How large it is: hundreds of thousands of rows, or tables
    #[arg(long)]
    scale: Option<u32>,
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The document to write the figures into
    #[arg(long)]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Data {
    Large,
    Tables,
}

/// What `verify --json` says, as far as it is of interest here.
#[derive(Debug, Deserialize)]
struct Migration {
    verification: Verification,
}

#[derive(Debug, Deserialize)]
struct Verification {
    table_count: i32,
    row_count: i64,
    rows: Rows,
}

#[derive(Debug, Deserialize)]
struct Rows {
    range_count: i64,
    complete: bool,
    elapsed_milliseconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (name, dataset) = match arguments.data {
        Data::Large => ("large", Dataset::Large(arguments.scale.unwrap_or(60))),
        Data::Tables => ("tables", Dataset::ManyTables(arguments.scale.unwrap_or(2_000))),
    };
    let site = start().await?;
    dataset.make(&site.source, &site.database).await?;
    site.migrate_until_cutover(MIGRATION).await?;

    let (mut dumps, mut comparisons, mut rows, mut latest) = (Vec::new(), Vec::new(), Vec::new(), None);
    for run in 0..=arguments.runs {
        let dump = dump(&site).await?;
        let (whole, migration) = verify(&site).await?;
        let of_rows = Duration::from_millis(migration.verification.rows.elapsed_milliseconds);
        writeln!(
            io::stdout(),
            "pg_dump {:.1} s, verify {:.1} s, its rows {:.1} s",
            dump.as_secs_f64(),
            whole.as_secs_f64(),
            of_rows.as_secs_f64()
        )?;
        latest = Some(migration.verification);
        // The first finds cold caches.
        if run > 0 {
            dumps.push(dump);
            comparisons.push(whole);
            rows.push(of_rows);
        }
    }
    let report = report(&dumps, &comparisons, &rows, &latest.context("nothing was measured")?)?;
    writeln!(io::stdout(), "{report}")?;
    if let Some(document) = &arguments.record {
        figures::record(document, &format!("verifying-{name}"), &format!("\n{report}"))?;
    }
    Ok(())
}

async fn start() -> Result<Site> {
    let mut options = SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18);
    for cluster in [&mut options.source, &mut options.destination] {
        // The locks are for one transaction that makes thousands of tables.
        *cluster = std::mem::take(cluster)
            .setting("shared_buffers", "512MB")
            .setting("max_wal_size", "8GB")
            .setting("checkpoint_timeout", "30min")
            .setting("max_locks_per_transaction", "256");
    }
    Site::start(options).await
}

/// `pg_dump > /dev/null` of the source, beside its server.
async fn dump(site: &Site) -> Result<Duration> {
    let mut program = Program::new(tools_for(PostgresVersion::V18)?.program("pg_dump"))
        .argument(site.source.libpq(&site.database))
        .variable("PGPASSWORD", &site.source.superuser_password);
    program.stdout = Output::File(std::fs::OpenOptions::new().write(true).open("/dev/null")?);
    let begun = Clock.now();
    let status = program.spawn()?.wait(LIMIT).await?;
    ensure!(status.success(), "pg_dump ended with {status}");
    Ok(begun.elapsed())
}

/// The whole of `pgportage verify`, the wait for a level stream and the comparison
/// of the schema included.
async fn verify(site: &Site) -> Result<(Duration, Migration)> {
    let begun = Clock.now();
    let migration: Migration = site.cli.json(&["verify", MIGRATION]).await?;
    let taken = begun.elapsed();
    ensure!(migration.verification.rows.complete, "the comparison is not complete");
    Ok((taken, migration))
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn report(dumps: &[Duration], whole: &[Duration], rows: &[Duration], found: &Verification) -> Result<String> {
    let dump = median(dumps).as_secs_f64();
    let mut report = "\n| what | median | ratio to pg_dump | all runs |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, times) in [
        ("`pg_dump > /dev/null`", dumps),
        ("rows compared by their hashes", rows),
        ("`pgportage verify`, all of it", whole),
    ] {
        let all: Vec<String> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
        let median = median(times).as_secs_f64();
        writeln!(report, "| {name} | {median:.1} s | {:.2} | {} |", median / dump, all.join(", "))?;
    }
    writeln!(report, "\n{} tables, {} rows, {} parts.\n", found.table_count, found.row_count, found.rows.range_count)?;
    Ok(report)
}
