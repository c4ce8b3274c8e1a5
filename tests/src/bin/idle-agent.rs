//! What an agent costs while it has nothing to do: resident memory and share of a
//! core, attached and with its exporters on.
//!
//! Honest only with release builds: `make bench` sees to that.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use pgportage_link::Clock;
use pgportage_tests::otlp::Receiver;
use pgportage_tests::{PostgresVersion, Site, SiteOptions, figures};

/// Measures an idle agent.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long to let it idle
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The document to write the figure into
    #[arg(long)]
    record: Option<PathBuf>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
struct Usage {
    resident_kib: u64,
    processor: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let receiver = Receiver::start().await?;
    let mut site = Site::prepare(SiteOptions::new(PostgresVersion::V18, PostgresVersion::V18)).await?;
    for service in [&mut site.coordinator, &mut site.source_agent, &mut site.destination_agent] {
        service.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint);
    }
    site.start_programs().await?;
    let pid = site.source_agent.pid().context("the agent does not run")?;

    let start = usage(pid)?;
    let began = Clock.now();
    Clock.sleep(Duration::from_secs(60 * arguments.minutes)).await;
    site.wait_for_agents().await?;
    let end = usage(pid)?;
    let elapsed = began.elapsed();
    let used = end.processor.saturating_sub(start.processor);
    let share = 100.0 * used.as_secs_f64() / elapsed.as_secs_f64();
    let resident = f64::from(u32::try_from(end.resident_kib)?) / 1024.0;
    let figure = format!("{resident:.1} MiB resident, {share:.2} % of a core");
    writeln!(io::stdout(), "idle agent after {} minutes, attached, exporters on: {figure}", arguments.minutes)?;
    if let Some(document) = &arguments.record {
        figures::record(document, "idle-agent", &figure)?;
    }
    Ok(())
}

/// Reads `/proc` for one process.
fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let resident_kib = resident.trim().trim_end_matches(" kB").parse()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; what follows does not.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let processor = Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second());
    Ok(Usage { resident_kib, processor })
}
