//! How long it takes to get a database to another server: pgportage beside what
//! users would run instead, on the same data and servers, in alternating order.
//!
//! Honest only with release builds and a quiet machine: `make bench` sees to the
//! first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pgportage_tests::bench::contestant::{Contestant, Ring, StepTime};
use pgportage_tests::bench::dataset::{Dataset, FULL};
use pgportage_tests::bench::scrape;
use pgportage_tests::bench::shares::{Share, Shares};
use pgportage_tests::bench::usage::{Usage, mebibytes};
use pgportage_tests::cluster::ClusterOptions;
use pgportage_tests::place::Network;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, figures};

/// Compares ways to copy a database.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is copied
    #[arg(long, value_enum, default_value = "large")]
    data: Data,
    /// How large it is: hundreds of thousands of rows, or tables
    #[arg(long)]
    scale: Option<u32>,
    /// Put a link of so many megabits a second between the servers
    #[arg(long)]
    megabits: Option<u32>,
    /// How often each way is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The ways, all that are installed if none is named
    #[arg(long = "way")]
    ways: Vec<String>,
    /// The document to write the figures into
    #[arg(long)]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Data {
    Large,
    Tables,
}

/// What our agents used over all runs.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    source: Duration,
    destination: Duration,
    plain_bytes: f64,
    sent_bytes: f64,
    source_peak_kib: u64,
    destination_peak_kib: u64,
}

type Times = BTreeMap<Contestant, Vec<Duration>>;

/// What the machine did, over all runs of a way.
type Work = BTreeMap<Contestant, Shares>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let dataset = match arguments.data {
        Data::Large => Dataset::Large(arguments.scale.unwrap_or(FULL)),
        Data::Tables => Dataset::ManyTables(arguments.scale.unwrap_or(2_000)),
    };
    let mut ways = Contestant::ALL.to_vec();
    if !arguments.ways.is_empty() {
        ways = arguments.ways.iter().map(|name| Contestant::named(name)).collect::<Result<_>>()?;
    }
    ways.retain(|way| way.is_there());
    let network = arguments.megabits.map(Network::start).transpose()?;
    let site = start(network.as_ref()).await?;
    dataset.make(&site.source, &site.database).await?;
    let ring = Ring::new(&site)?;

    // The first way finds cold caches and makes the servers' WAL files: this one does not
    // count.
    ring.measure(Contestant::DumpRestore).await.context("to warm up")?;
    ring.clean_up(Contestant::DumpRestore).await?;
    let (mut times, mut work, mut cost, mut steps) = (Times::new(), Work::new(), Cost::default(), Vec::new());
    for run in 0..arguments.runs {
        // No way always comes after the same one.
        ways.rotate_left(usize::from(run > 0));
        for way in ways.clone() {
            let before = [agent(&site.source_agent)?, agent(&site.destination_agent)?];
            let (taken, shares) = ring.measure(way).await.with_context(|| way.name())?;
            if way == Contestant::Pgportage {
                cost.add(&site, before)?;
                steps = ring.steps().await?;
            }
            ring.clean_up(way).await.with_context(|| format!("after {}", way.name()))?;
            writeln!(io::stdout(), "{}: {:.1} s", way.name(), taken.as_secs_f64())?;
            times.entry(way).or_default().push(taken);
            *work.entry(way).or_default() += shares;
        }
    }
    for (form, bytes) in [("plain", &mut cost.plain_bytes), ("sent", &mut cost.sent_bytes)] {
        let name = format!("pgportage_link_bytes_total{{carries=\"rows\",form=\"{form}\"}}");
        let address = site.source_config.place.at(site.source_config.metrics_port);
        *bytes = scrape::series(&address, &name).await.unwrap_or_default();
    }
    let report = report(&times, &work, cost, &steps)?;
    writeln!(io::stdout(), "{report}")?;
    if let Some(document) = &arguments.record {
        figures::record(document, &figure_name(&arguments), &format!("\n{report}"))?;
    }
    Ok(())
}

fn figure_name(arguments: &Arguments) -> String {
    let data = match arguments.data {
        Data::Large => "large",
        Data::Tables => "tables",
    };
    match arguments.megabits {
        Some(megabits) => format!("copying-{data}-{megabits}"),
        None => format!("copying-{data}-local"),
    }
}

async fn start(network: Option<&Network>) -> Result<Site> {
    let settings = |options: ClusterOptions| {
        // The locks are for one transaction that makes thousands of tables.
        options
            .setting("shared_buffers", "512MB")
            .setting("max_wal_size", "8GB")
            .setting("checkpoint_timeout", "30min")
            .setting("max_locks_per_transaction", "256")
    };
    let mut options = SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18);
    options.source = settings(options.source);
    options.destination = settings(options.destination);
    if let Some(network) = network {
        options = options.network(network);
    }
    Site::start(options).await
}

fn agent(service: &pgportage_tests::service::Service) -> Result<Usage> {
    Usage::of(service.pid().context("an agent does not run")?)
}

impl Cost {
    fn add(&mut self, site: &Site, [source, destination]: [Usage; 2]) -> Result<()> {
        let now = [agent(&site.source_agent)?, agent(&site.destination_agent)?];
        self.source += now[0].processor.saturating_sub(source.processor);
        self.destination += now[1].processor.saturating_sub(destination.processor);
        self.source_peak_kib = now[0].peak_kib;
        self.destination_peak_kib = now[1].peak_kib;
        Ok(())
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What the machine did in one run, on average: a table of Markdown.
fn profile(times: &Times, work: &Work) -> String {
    let head = |of: fn(&Contestant) -> String| work.keys().map(of).collect::<Vec<_>>().join(" | ");
    let mut table = format!(
        "\n| seconds of a core in one run | {} |\n| --- | {} |\n",
        head(|way| way.name().to_owned()),
        head(|_| "---".to_owned())
    );
    for share in Share::ALL {
        let seconds = work.iter().map(|(way, shares)| {
            let runs = times.get(way).map_or(1, Vec::len).max(1);
            format!("{:.1}", shares.seconds(share) / runs as f64)
        });
        table.push_str(&format!("| {} | {} |\n", share.name(), seconds.collect::<Vec<_>>().join(" | ")));
    }
    table
}

fn report(times: &Times, work: &Work, cost: Cost, steps: &[StepTime]) -> Result<String> {
    let Some(ours) = times.get(&Contestant::Pgportage).map(|ours| median(ours).as_secs_f64()) else {
        bail!("there is nothing to compare with");
    };
    let mut report = "\n| way | median | pgportage takes | all runs |\n| --- | --- | --- | --- |\n".to_owned();
    for (way, times) in times {
        let seconds: Vec<String> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
        let median = median(times).as_secs_f64();
        writeln!(report, "| {} | {median:.1} s | {:.2} | {} |", way.name(), ours / median, seconds.join(", "))?;
    }
    report.push_str(&profile(times, work));
    let gigabytes = cost.plain_bytes / 1e9;
    let row = |name: &str, used: Duration, peak: u64| {
        format!("| {name} | {:.1} MiB | {:.1} s |\n", mebibytes(peak), used.as_secs_f64() / gigabytes)
    };
    report.push_str("\n| agent | most memory | processor time per GB of rows |\n| --- | --- | --- |\n");
    report.push_str(&row("source", cost.source, cost.source_peak_kib));
    report.push_str(&row("destination", cost.destination, cost.destination_peak_kib));
    let (gigabytes, ratio) =
        (gigabytes / times[&Contestant::Pgportage].len() as f64, cost.plain_bytes / cost.sent_bytes);
    writeln!(report, "\n{gigabytes:.2} GB of COPY data each time, sent as 1/{ratio:.2} of that.\n")?;
    let steps: Vec<String> =
        steps.iter().map(|step| format!("{} {:.1} s", step.name, step.taken.as_secs_f64())).collect();
    writeln!(report, "Steps of the last migration: {}.\n", steps.join(", "))?;
    Ok(report)
}
