//! How long applications cannot write while they change sides, as they see it:
//! our cutover and rollback beside the switchover that people make by hand, on the same
//! servers; and ours again for the clients of a pooler.
//!
//! Honest only with release builds and a quiet machine: `make bench` sees to the
//! first.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use pgportage_tests::bench::switch::{Arena, Clients, Heat, Phases, Queue, Way};
use pgportage_tests::figures;

/// Measures the outage of many cutovers and rollbacks.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many switchovers of ours
    #[arg(long, default_value_t = 100)]
    switches: u32,
    /// How many switchovers by hand
    #[arg(long, default_value_t = 10)]
    by_hand: u32,
    /// How many switchovers of ours under clients of a pooler
    #[arg(long, default_value_t = 100)]
    pooled: u32,
    /// So many switchovers in a row before everything is checked and begins anew
    #[arg(long, default_value_t = 50)]
    heat: u32,
    /// What the scheduler's favour is worth: so many pairs of heats, one with it and one
    /// without
    #[arg(long, default_value_t = 0)]
    haste_pairs: u32,
    /// How many switchovers each heat of a pair has
    #[arg(long, default_value_t = 10)]
    haste_heat: u32,
    /// Milliseconds there and back between the programs
    #[arg(long, default_value_t = 0)]
    round_trip: u64,
    /// The document to write the figures into
    #[arg(long)]
    record: Option<PathBuf>,
}

impl Arguments {
    /// So many switchovers in heats.
    fn heats(&self, switches: u32) -> impl Iterator<Item = u32> {
        let length = self.heat.max(1);
        let rest = switches % length;
        (0..switches / length).map(move |_| length).chain((rest > 0).then_some(rest))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = "\n".to_owned();
    if arguments.by_hand + arguments.switches > 0 {
        report.push_str(&under_writers(&arguments).await?);
    }
    if arguments.haste_pairs > 0 {
        report.push_str(&with_and_without_haste(&arguments).await?);
    }
    if arguments.pooled > 0 {
        report.push_str(&under_a_pooler(&arguments).await?);
    }
    writeln!(io::stdout(), "{report}")?;
    if let Some(document) = &arguments.record {
        let name = match arguments.round_trip {
            0 => "switching-local".to_owned(),
            milliseconds => format!("switching-{milliseconds}"),
        };
        figures::record(document, &name, &report)?;
    }
    Ok(())
}

async fn under_writers(arguments: &Arguments) -> Result<String> {
    let mut arena = Arena::start(Clients::OfBothServers, Duration::from_millis(arguments.round_trip)).await?;
    let mut report =
        "| way | switchovers | median | second worst | worst | writes a second | taken back | cancelled | cut off | unknown |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    let mut phases = Vec::new();
    for (way, switches) in [(Way::Recipe, arguments.by_hand), (Way::Pgportage, arguments.switches)] {
        let mut heats = Vec::new();
        for length in arguments.heats(switches) {
            let heat = Box::pin(arena.heat(way, length)).await.with_context(|| way.name())?;
            writeln!(io::stdout(), "{}: {}", way.name(), listed(outages(std::slice::from_ref(&heat))))?;
            heats.push(heat);
        }
        if !heats.is_empty() {
            report.push_str(&row(way, &heats));
        }
        phases.extend(heats.into_iter().flat_map(|heat| heat.phases));
    }
    if !phases.is_empty() {
        report.push_str(&made_of(&phases));
    }
    Ok(report)
}

/// Pairs on the same servers in one run: what else the machine does meets both.
async fn with_and_without_haste(arguments: &Arguments) -> Result<String> {
    let mut arena = Arena::start(Clients::OfBothServers, Duration::from_millis(arguments.round_trip)).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..arguments.haste_pairs {
        // The second of a pair must not always be the same.
        for haste in if pair % 2 == 0 { [true, false] } else { [false, true] } {
            arena.haste(haste).await?;
            let heat = Box::pin(arena.heat(Way::Pgportage, arguments.haste_heat)).await?;
            let lengths = outages(std::slice::from_ref(&heat));
            writeln!(io::stdout(), "haste {haste}: {}", listed(lengths.clone()))?;
            if haste { with.extend(lengths) } else { without.extend(lengths) }
        }
    }
    let ratio = median(&with).as_secs_f64() / median(&without).as_secs_f64();
    Ok(format!(
        "\n| scheduler's favour | switchovers | median | second worst | worst |\n| --- | --- | --- | --- | --- |\n\
         | with | {} | {} |\n| without | {} | {} |\n\nMedian with divided by median without: {ratio:.2}.\n",
        with.len(),
        spread(with),
        without.len(),
        spread(without),
    ))
}

fn median(lengths: &[Duration]) -> Duration {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or_default()
}

async fn under_a_pooler(arguments: &Arguments) -> Result<String> {
    let mut arena = Arena::start(Clients::OfAPooler, Duration::from_millis(arguments.round_trip)).await?;
    let mut queues = Vec::new();
    for length in arguments.heats(arguments.pooled) {
        let queue = Box::pin(arena.queue(length)).await.context("through the pooler")?;
        writeln!(io::stdout(), "through the pooler: {}", listed(queue.pauses.clone()))?;
        for failure in queue.failures.iter().take(5) {
            writeln!(io::stdout(), "failed: {failure}")?;
        }
        queues.push(queue);
    }
    Ok(pooled(&queues))
}

/// Lengths in milliseconds, the shortest first.
fn listed(mut lengths: Vec<Duration>) -> String {
    lengths.sort_unstable();
    let milliseconds: Vec<String> = lengths.iter().map(|length| length.as_millis().to_string()).collect();
    format!("{} ms", milliseconds.join(", "))
}

fn outages(heats: &[Heat]) -> Vec<Duration> {
    heats.iter().flat_map(|heat| heat.ledger.outages()).map(|outage| outage.length()).collect()
}

/// Median, second worst and worst of some lengths, as cells of a table.
fn spread(mut lengths: Vec<Duration>) -> String {
    lengths.sort_unstable();
    let count = lengths.len();
    let at = |place: usize| lengths.get(place).copied().unwrap_or_default().as_millis();
    format!("{} ms | {} ms | {} ms", at(count / 2), at(count.saturating_sub(2)), at(count.saturating_sub(1)))
}

fn row(way: Way, heats: &[Heat]) -> String {
    let lengths = outages(heats);
    let refused = |codes: &[&str]| -> u64 {
        heats.iter().flat_map(|heat| codes.iter().filter_map(|code| heat.ledger.refused.get(*code))).sum()
    };
    let unknown: usize = heats.iter().map(|heat| heat.ledger.unknown()).sum();
    let rate = heats.iter().map(|heat| heat.rate).sum::<f64>() / heats.len() as f64;
    format!(
        "| {} | {} | {} | {rate:.0} | {} | {} | {} | {unknown} |\n",
        way.name(),
        lengths.len(),
        spread(lengths),
        heats.iter().map(|heat| heat.taken_back).sum::<usize>(),
        refused(&["57014", "40P01"]),
        refused(&["57P01", "connection"]),
    )
}

/// One of the phases of a switchover.
type Phase = fn(&Phases) -> Duration;

/// What the outages of ours consist of.
fn made_of(phases: &[Phases]) -> String {
    let rows: [(&str, Phase); 7] = [
        ("barrier: locks, marker, sequences, catalog", |phases| phases.raise),
        ("of that, until every lock was granted", |phases| phases.locks),
        ("drain: the marker applied and flushed", |phases| phases.drain),
        ("fence: committed, and no session left", |phases| phases.fence),
        ("decision", |phases| phases.open),
        ("between these: coordinator, journals, network", |phases| phases.between),
        ("from the request for the barrier to the news of the decision", |phases| phases.whole),
    ];
    let mut text = "\n| of ours | median | second worst | worst |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, phase) in rows {
        text.push_str(&format!("| {name} | {} |\n", spread(phases.iter().map(phase).collect())));
    }
    text
}

/// What the clients of the pooler saw.
fn pooled(queues: &[Queue]) -> String {
    let pauses: Vec<Duration> = queues.iter().flat_map(|queue| queue.pauses.iter().copied()).collect();
    format!(
        "\n| through PgBouncer | switchovers | median | second worst | worst | transactions a second | taken back | failed |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- |\n\
        | pgportage | {} | {} | {:.0} | {} | {} |\n",
        pauses.len(),
        spread(pauses),
        queues.iter().map(|queue| queue.rate).sum::<f64>() / queues.len().max(1) as f64,
        queues.iter().map(|queue| queue.taken_back).sum::<usize>(),
        queues.iter().map(|queue| queue.failures.len()).sum::<usize>(),
    )
}
