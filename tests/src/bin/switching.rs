//! How long applications cannot write while they change sides, as they see it:
//! our cutover beside the one that people make by hand, on the same servers.
//!
//! Honest only with release builds and a quiet machine: `make bench` sees to the
//! first.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use pgportage_tests::bench::switch::{Arena, Heat, Parts, Way};
use pgportage_tests::figures;

/// Measures the outage of many cutovers, there and back.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many cutovers of ours
    #[arg(long, default_value_t = 100)]
    switches: u32,
    /// How many switches by hand
    #[arg(long, default_value_t = 10)]
    by_hand: u32,
    /// So many switches in a row before everything is checked and begins anew
    #[arg(long, default_value_t = 10)]
    heat: u32,
    /// Milliseconds there and back between the programs
    #[arg(long, default_value_t = 0)]
    round_trip: u64,
    /// The document to write the figures into
    #[arg(long)]
    record: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut arena = Arena::start(Duration::from_millis(arguments.round_trip)).await?;
    let mut report =
        "\n| way | switches | median | second worst | worst | writes a second | taken back | cancelled | cut off | unknown |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    let mut parts = Vec::new();
    for (way, switches) in [(Way::Recipe, arguments.by_hand), (Way::Pgportage, arguments.switches)] {
        let mut heats = Vec::new();
        let mut left = switches;
        while left > 0 {
            let length = left.min(arguments.heat);
            left -= length;
            let heat = Box::pin(arena.heat(way, length)).await.with_context(|| way.name())?;
            writeln!(io::stdout(), "{}: {:?}", way.name(), outages(std::slice::from_ref(&heat)))?;
            heats.push(heat);
        }
        if !heats.is_empty() {
            report.push_str(&row(way, &heats));
        }
        parts.extend(heats.into_iter().flat_map(|heat| heat.parts));
    }
    report.push_str(&parts_of(&parts));
    writeln!(io::stdout(), "{report}")?;
    if let Some(document) = &arguments.record {
        let name = match arguments.round_trip {
            0 => "switching-local".to_owned(),
            milliseconds => format!("switching-{milliseconds}"),
        };
        figures::record(document, &name, &format!("\n{report}\n"))?;
    }
    Ok(())
}

/// In milliseconds, the shortest first.
fn outages(heats: &[Heat]) -> Vec<u128> {
    let outages = heats.iter().flat_map(|heat| heat.ledger.outages());
    let mut lengths: Vec<_> = outages.map(|outage| outage.length().as_millis()).collect();
    lengths.sort_unstable();
    lengths
}

/// A row of the table.
fn row(way: Way, heats: &[Heat]) -> String {
    let lengths = outages(heats);
    let count = lengths.len();
    let at = |place: usize| lengths.get(place).copied().unwrap_or_default();
    let refused = |codes: &[&str]| -> u64 {
        heats.iter().flat_map(|heat| codes.iter().filter_map(|code| heat.ledger.refused.get(*code))).sum()
    };
    let unknown: usize = heats.iter().map(|heat| heat.ledger.unknown()).sum();
    let rate = heats.iter().map(|heat| heat.rate).sum::<f64>() / heats.len() as f64;
    format!(
        "| {} | {count} | {} ms | {} ms | {} ms | {rate:.0} | {} | {} | {} | {unknown} |\n",
        way.name(),
        at(count / 2),
        at(count.saturating_sub(2)),
        at(count.saturating_sub(1)),
        heats.iter().map(|heat| heat.taken_back).sum::<usize>(),
        refused(&["57014", "40P01"]),
        refused(&["57P01", "connection"]),
    )
}

/// What the coordinator says about our own.
fn parts_of(parts: &[Parts]) -> String {
    let median = |part: fn(&Parts) -> Option<u64>| {
        let mut values: Vec<_> = parts.iter().filter_map(part).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _written = writeln!(
        text,
        "\nOf ours, as the coordinator saw it, in the median: {} ms from the first lock request to the decision, of which \
         {} ms until the locks were granted and {} ms until the marker had arrived.",
        median(|parts| parts.outage),
        median(|parts| parts.lock_wait),
        median(|parts| parts.drain)
    );
    text
}
