//! Where the machine's processor time goes while a way is measured.
//!
//! Twice a second every process is looked at: what it has used since the last look
//! counts for what PostgreSQL's title of it says now. What a process used between
//! its last look and its end counts as the machine's.

use std::collections::HashMap;
use std::fs;
use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_link::Clock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(500);

/// What processor time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// COPY, in both servers.
    Copy,
    /// Indexes, keys and other constraints, in both servers.
    Indexes,
    /// Everything else in both servers.
    Servers,
    /// Our agents.
    Agents,
    /// Every other program, and what belongs to no known process.
    Others,
    /// Nothing, or waiting for the disk.
    Idle,
}

impl Share {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Copy, Self::Indexes, Self::Servers, Self::Agents, Self::Others, Self::Idle];

    /// What it is called on the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY, in both servers",
            Self::Indexes => "indexes and constraints, in both servers",
            Self::Servers => "the rest of both servers",
            Self::Agents => "both agents",
            Self::Others => "other programs",
            Self::Idle => "idle, or waiting for the disk",
        }
    }

    /// What a process does, by its title. None: none of these.
    fn of(title: &str) -> Option<Self> {
        if let Some(server) = title.strip_prefix("postgres: ") {
            let does = |what: &str| server.contains(what);
            return Some(if does("CREATE INDEX") || does("ALTER TABLE") || does("parallel worker") {
                Self::Indexes
            } else if does(" COPY") {
                Self::Copy
            } else {
                Self::Servers
            });
        }
        title.contains("pgportage-agent").then_some(Self::Agents)
    }
}

/// Clock ticks of all cores together, by what they went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares([u64; Share::ALL.len()]);

impl Shares {
    /// Seconds of a core.
    #[must_use]
    pub fn seconds(self, share: Share) -> f64 {
        let ticks = u32::try_from(self.0[share as usize]).unwrap_or(u32::MAX);
        f64::from(ticks) / rustix::param::clock_ticks_per_second() as f64
    }
}

impl AddAssign for Shares {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// Looks until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    stop: CancellationToken,
    looking: JoinHandle<Result<Shares>>,
}

impl Watch {
    /// Begins to look.
    #[must_use]
    pub fn begin() -> Self {
        let stop = CancellationToken::new();
        let looking = tokio::spawn(look(stop.clone()));
        Self { stop, looking }
    }

    /// What it has seen.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub async fn end(self) -> Result<Shares> {
        self.stop.cancel();
        self.looking.await?
    }
}

async fn look(stop: CancellationToken) -> Result<Shares> {
    let first = machine()?;
    let mut used = processes()?;
    let mut shares = Shares::default();
    loop {
        let over = stop.run_until_cancelled(Clock.sleep(LOOK)).await.is_none();
        let now = processes()?;
        for (pid, (ticks, share)) in &now {
            let Some(share) = share else { continue };
            let before = used.get(pid).map_or(0, |(before, _)| *before);
            shares.0[*share as usize] += ticks.saturating_sub(before);
        }
        used = now;
        if over {
            let (busy, idle) = machine()?;
            let known: u64 = shares.0.iter().sum();
            shares.0[Share::Others as usize] += (busy - first.0).saturating_sub(known);
            shares.0[Share::Idle as usize] = idle - first.1;
            return Ok(shares);
        }
    }
}

/// Ticks that all cores were busy, and that they were not.
fn machine() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("nothing in /proc/stat")?;
    // User, nice, system, idle, waiting, interrupts, soft interrupts; what a host
    // has stolen is not this machine's.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(7).map(str::parse).collect::<Result<_, _>>()?;
    let [user, nice, system, idle, waiting, interrupts, soft] = ticks[..] else {
        anyhow::bail!("an unknown form of /proc/stat: {line}");
    };
    Ok((user + nice + system + interrupts + soft, idle + waiting))
}

type Processes = HashMap<u32, (u64, Option<Share>)>;

fn processes() -> Result<Processes> {
    let mut all = Processes::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended has nothing to read.
        if let Some(process) = process(pid) {
            all.insert(pid, process);
        }
    }
    Ok(all)
}

fn process(pid: u32) -> Option<(u64, Option<Share>)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; what follows does not.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some((ticks, Share::of(&String::from_utf8_lossy(&title))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_say_what_a_process_does() {
        for (title, share) in [
            ("postgres: app shop [local] COPY", Some(Share::Copy)),
            ("postgres: app shop [local] CREATE INDEX", Some(Share::Indexes)),
            ("postgres: app shop 127.0.0.1(4711) ALTER TABLE waiting", Some(Share::Indexes)),
            ("postgres: parallel worker for PID 4711 ", Some(Share::Indexes)),
            ("postgres: walwriter ", Some(Share::Servers)),
            ("postgres: app shop [local] idle in transaction", Some(Share::Servers)),
            ("/usr/bin/pgportage-agent\0--config\0agent.toml", Some(Share::Agents)),
            ("pgcopydb: copy", None),
            ("", None),
        ] {
            assert_eq!(Share::of(title), share, "{title}");
        }
    }

    #[tokio::test]
    async fn everything_is_somebodys() {
        let before = machine().unwrap();
        let watch = Watch::begin();
        Clock.sleep(LOOK).await;
        let shares = watch.end().await.unwrap();
        let after = machine().unwrap();
        let seen: u64 = shares.0.iter().sum();
        assert!(seen > 0 && seen <= after.0 + after.1 - before.0 - before.1 + 2, "{shares:?}");
    }
}
