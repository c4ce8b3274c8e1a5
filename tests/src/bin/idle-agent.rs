//! What an agent costs while it has nothing to do: resident memory and share of a
//! core, attached and with its exporters on.
//!
//! Honest only with release builds: `make bench` sees to that.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use pgportage_link::Clock;
use pgportage_tests::bench::usage::{Usage, mebibytes};
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

    let start = Usage::of(pid)?;
    let began = Clock.now();
    Clock.sleep(Duration::from_secs(60 * arguments.minutes)).await;
    site.wait_for_agents().await?;
    let end = Usage::of(pid)?;
    let elapsed = began.elapsed();
    let used = end.processor.saturating_sub(start.processor);
    let share = 100.0 * used.as_secs_f64() / elapsed.as_secs_f64();
    let resident = mebibytes(end.resident_kib);
    let figure = format!("{resident:.1} MiB resident, {share:.2} % of a core");
    writeln!(io::stdout(), "idle agent after {} minutes, attached, exporters on: {figure}", arguments.minutes)?;
    if let Some(document) = &arguments.record {
        figures::record(document, "idle-agent", &figure)?;
    }
    Ok(())
}
