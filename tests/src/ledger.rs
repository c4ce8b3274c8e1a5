//! What the writers were told: every write that was acknowledged, and every one
//! whose outcome its writer does not know.
//!
//! The ledger, not the database, is the source of truth about what must be there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// Which server a writer talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The server moved from.
    Source,
    /// The server moved to.
    Destination,
}

impl End {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// As stored in the rows that the workload writes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How a write ended. A write that was certainly refused is not in the ledger:
/// its token simply must not be in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The server confirmed the commit.
    Acknowledged,
    /// The connection ended between the request to commit and the answer.
    Unknown,
}

/// What one write leaves in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// `token` is in `set`, exactly `copies` times.
    Member {
        /// Name of the set.
        set: String,
        /// What is in it. Never used by another write.
        token: i64,
        /// How often.
        copies: i64,
    },
    /// The server handed out `id` for `token`.
    Identity {
        /// Name of the set.
        set: String,
        /// The row.
        token: i64,
        /// What the server said.
        id: i64,
    },
    /// A sequence handed out `value`, and no table has it.
    Number {
        /// Name of the sequence.
        sequence: String,
        /// What the server said.
        value: i64,
    },
    /// `register` has a new value. Each register has one writer.
    Assign {
        /// Name of the register.
        register: String,
        /// Its value; nothing if its row was deleted.
        value: Option<i64>,
    },
}

/// What a transaction saw. Kept of those that were acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// `register` had a value. Its own writer looked.
    Register {
        /// Name of the register.
        register: String,
        /// Its value; nothing if there was no row.
        value: Option<i64>,
    },
    /// Whether `token` was in `set`.
    Member {
        /// Name of the set.
        set: String,
        /// What was looked for.
        token: i64,
        /// Whether it was there.
        found: bool,
    },
    /// A sum that never changes, in one snapshot.
    Sum {
        /// What was summed.
        name: String,
        /// What the database held.
        found: i64,
        /// What it must hold.
        expected: i64,
    },
}

/// One transaction of a writer.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Who wrote.
    pub writer: u32,
    /// The server asked.
    pub end: End,
    /// How it ended.
    pub outcome: Outcome,
    /// When the write began, from the start of the workload.
    pub invoke: Duration,
    /// When the answer, or its loss, was seen.
    pub complete: Duration,
    /// What it leaves, all or nothing.
    pub effects: Vec<Effect>,
    /// What it saw.
    pub reads: Vec<Read>,
}

/// Everything a workload was told. Entries of one writer are in order.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The writes.
    pub entries: Vec<Entry>,
    /// Refused attempts by SQLSTATE, or by `connection` when there was none. Those
    /// to log in: the same behind `login `.
    pub refused: BTreeMap<String, u64>,
    /// Errors that no migration may cause, for example a key handed out twice.
    pub anomalies: Vec<String>,
}

/// The gap that the writers saw at one cutover or rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The side that they left.
    pub left: End,
    /// Its last acknowledgement.
    pub last_before: Duration,
    /// The first acknowledgement of the other side.
    pub first_after: Duration,
}

impl Outage {
    /// How long no writer could write. Zero if the two overlap within what clients
    /// can tell.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.first_after.saturating_sub(self.last_before)
    }
}

impl Entry {
    /// Whether it changed anything. Under table locks readers go on.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.effects.is_empty()
    }
}

impl Ledger {
    /// How many writes were acknowledged by one end.
    #[must_use]
    pub fn acknowledged(&self, end: End) -> usize {
        self.answers(end).count()
    }

    /// When one end acknowledged what it did, in no order.
    pub fn completions(&self, end: End) -> impl Iterator<Item = Duration> {
        self.answers(end).map(|entry| entry.complete)
    }

    /// How many writes have an unknown outcome.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == Outcome::Unknown).count()
    }

    /// The first outage, once both ends have acknowledged something.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.outages().into_iter().next()
    }

    /// The outage of every change of side, in order.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        let answers = self.first_answers();
        let ends = answers.iter().skip(2).map(|entry| entry.complete).chain([Duration::MAX]);
        let changes = answers.iter().zip(answers.iter().skip(1)).zip(ends);
        changes
            .filter_map(|((home, arrival), end)| {
                let written = |on: End, from: Duration| {
                    self.answers(on).map(|entry| entry.complete).filter(move |at| (from..end).contains(at))
                };
                let first_after = written(arrival.end, arrival.complete).min()?;
                let last_before = written(home.end, home.complete).max()?;
                Some(Outage { left: home.end, last_before, first_after })
            })
            .collect()
    }

    /// Adds what other writers were told.
    pub fn merge(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.anomalies.extend(other.anomalies);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }

    /// The first answer of each change of side, the source's very first before them:
    /// the longest chain of acknowledged transactions, by turns on one end and on the
    /// other, each begun after the one before was acknowledged. Two ends that take
    /// writes at the same time make it long at once.
    #[must_use]
    pub fn first_answers(&self) -> Vec<&Entry> {
        let mut acknowledged: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged).collect();
        // The earliest answer leaves the most room for the next.
        acknowledged.sort_by_key(|entry| entry.complete);
        let mut chain: Vec<&Entry> = Vec::new();
        for entry in acknowledged {
            let next = chain
                .last()
                .map_or(entry.end == End::Source, |last| entry.end != last.end && entry.invoke > last.complete);
            if next {
                chain.push(entry);
            }
        }
        chain
    }

    /// How often the side that took writes must have changed, beginning with the
    /// source.
    #[must_use]
    pub fn switches(&self) -> usize {
        self.first_answers().len().max(1) - 1
    }

    /// The longest time that one end acknowledged nothing at all between two
    /// acknowledgements: what a step of ours may have cost the applications.
    #[must_use]
    pub fn longest_silence(&self, end: End) -> Duration {
        let mut times: Vec<Duration> = self.answers(end).map(|entry| entry.complete).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
    }

    /// Writes one JSON object a line and flushes it to the disk.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for entry in &self.entries {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        Ok(file.get_ref().sync_all()?)
    }

    fn answers(&self, end: End) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.end == end && entry.outcome == Outcome::Acknowledged && entry.is_write())
    }
}
