//! How long a migration takes from `start` until it is ready for the cutover, the
//! two copy methods side by side: same source, same data, alternating order.
//!
//! Honest only with release builds: `make bench` sees to that.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pgportage_link::Clock;
use pgportage_tests::cluster::ClusterOptions;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::{PostgresVersion, Site, SiteOptions};

/// Compares the copy methods.
#[derive(Debug, Parser)]
struct Arguments {
    /// Size of the data: hundreds of thousands of narrow rows, and two fifths as
    /// many documents
    #[arg(long, default_value_t = 60)]
    scale: u32,
    /// How often each method is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const METHODS: [&str; 2] = ["snapshot", "native"];
const LIMIT: Duration = Duration::from_secs(1800);

/// One table is more than half of it; eight indexes, a GIN among them. Always the
/// same rows.
fn schema(scale: u32) -> Vec<String> {
    let (narrow, documents) = (u64::from(scale) * 100_000, u64::from(scale) * 40_000);
    vec![
        "CREATE TABLE narrow (id bigint PRIMARY KEY, a int NOT NULL, b int NOT NULL, c timestamptz NOT NULL, d text)"
            .to_owned(),
        format!(
            "INSERT INTO narrow SELECT i, i % 1000, hashint8(i), timestamptz '2026-01-01' + i * interval '1 second',
                    'row ' || (i % 5000) FROM generate_series(1, {narrow}) i"
        ),
        "CREATE INDEX ON narrow (a)".to_owned(),
        "CREATE INDEX ON narrow (b)".to_owned(),
        "CREATE INDEX ON narrow (c)".to_owned(),
        "CREATE TABLE document (id bigint PRIMARY KEY, owner int NOT NULL, body jsonb NOT NULL)".to_owned(),
        format!(
            "INSERT INTO document SELECT i, hashint8(i) % 10000,
                    jsonb_build_object('name', 'customer ' || i % 20000, 'tags', jsonb_build_array(i % 7, i % 11),
                                       'note', md5(i::text), 'city', 'town ' || i % 300)
               FROM generate_series(1, {documents}) i"
        ),
        "CREATE INDEX ON document (owner)".to_owned(),
        "CREATE INDEX ON document USING gin (body jsonb_path_ops)".to_owned(),
        "CREATE INDEX ON document ((body ->> 'city'))".to_owned(),
        "CREATE TABLE small (id int PRIMARY KEY, v text)".to_owned(),
        "INSERT INTO small SELECT i, 'v' || i FROM generate_series(1, 10000) i".to_owned(),
    ]
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = |options: ClusterOptions| {
        options.setting("shared_buffers", "512MB").setting("max_wal_size", "8GB").setting("checkpoint_timeout", "30min")
    };
    let mut options = SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18);
    options.source = settings(options.source);
    options.destination = settings(options.destination);
    let site = Site::start(options).await?;
    for statement in schema(arguments.scale) {
        site.source.execute(&site.database, &statement).await?;
    }
    let give = format!(
        "ALTER TABLE narrow OWNER TO {APPLICATION}; ALTER TABLE document OWNER TO {APPLICATION};
         ALTER TABLE small OWNER TO {APPLICATION}"
    );
    site.source.execute(&site.database, &give).await?;
    for statement in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        site.source.execute(&site.database, statement).await?;
    }
    let mut times: [Vec<f64>; 2] = Default::default();
    for run in 0..arguments.runs {
        let order = if run % 2 == 0 { [0, 1] } else { [1, 0] };
        for method in order {
            let seconds = measure(&site, METHODS[method], run).await?;
            writeln!(io::stdout(), "{}: {seconds:.1} s", METHODS[method])?;
            times[method].push(seconds);
        }
    }
    let [snapshot, native] = times.map(median);
    writeln!(io::stdout(), "median: snapshot {snapshot:.1} s, native {native:.1} s, ratio {:.2}", snapshot / native)?;
    Ok(())
}

/// One migration, up to the cutover and back.
async fn measure(site: &Site, method: &str, run: usize) -> Result<f64> {
    let name = format!("{method}-{run}");
    let create =
        ["create", &name, "--from", "berlin", "--to", "oslo", "--database", &site.database, "--copy-method", method];
    site.cli.expect(0, &create).await?;
    let begun = Clock.now();
    site.cli.run(&["start", &name, "--detach"]).await?;
    wait::until("ready for the cutover", LIMIT, async || {
        let status = site.cli.status(&name).await?;
        ensure!(status.failure().is_none(), "{}\n{}", status.summary(), site.last_words());
        Ok(if status.ready_for_cutover { Seen::Done(()) } else { Seen::NotYet(status.summary()) })
    })
    .await?;
    let seconds = begun.elapsed().as_secs_f64();
    site.cli.run(&["abort", &name, "--yes"]).await?;
    wait::until("aborted", LIMIT, async || {
        let status = site.cli.status(&name).await?;
        Ok(if status.state == "aborted" { Seen::Done(()) } else { Seen::NotYet(status.summary()) })
    })
    .await
    .context("after the measurement")?;
    Ok(seconds)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
