//! What the writers were told: every write that was acknowledged, and every one
//! whose outcome nobody knows.
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
    /// When switches to the other end were asked for, from the start of the
    /// workload. Between two of them the applications change sides once at most.
    /// Empty means: one, some time.
    pub turns: Vec<Duration>,
    /// Refused attempts by SQLSTATE, or by `connection` when there was none. Those
    /// to log in: the same behind `login `.
    pub refused: BTreeMap<String, u64>,
    /// Errors that no migration may cause, for example a key handed out twice.
    pub anomalies: Vec<String>,
}

/// The gap that the writers saw at one switch.
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
    /// How long nobody could write. Zero if the two overlap within what clients
    /// can tell.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.first_after.saturating_sub(self.last_before)
    }
}

/// What was acknowledged around one switch.
#[derive(Clone, Debug)]
pub struct Epoch<'a> {
    /// The side that the applications were on when it began.
    pub home: End,
    /// What was acknowledged, in the order of the answers.
    pub entries: Vec<&'a Entry>,
}

impl Entry {
    /// Whether it changed anything. Under table locks readers go on.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.effects.is_empty()
    }
}

impl Epoch<'_> {
    /// The first answer of the other side: from then on it is the one that counts.
    #[must_use]
    pub fn arrival(&self) -> Option<Duration> {
        self.entries.iter().find(|entry| entry.end != self.home).map(|entry| entry.complete)
    }

    fn outage(&self) -> Option<Outage> {
        let mut written = self.entries.iter().filter(|entry| entry.is_write());
        let first_after = written.clone().find(|entry| entry.end != self.home)?.complete;
        let last_before = written.rfind(|entry| entry.end == self.home)?.complete;
        Some(Outage { left: self.home, last_before, first_after })
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

    /// The outage of every switch that happened. One that was taken back has none.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.epochs().iter().filter_map(Epoch::outage).collect()
    }

    /// What was acknowledged, from one switch to the next.
    #[must_use]
    pub fn epochs(&self) -> Vec<Epoch<'_>> {
        let mut acknowledged: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged).collect();
        acknowledged.sort_by_key(|entry| entry.complete);
        let mut rest = acknowledged.as_slice();
        let mut home = End::Source;
        let mut epochs = Vec::new();
        for number in 1..=self.turns.len().max(1) {
            let length = match self.turns.get(number) {
                Some(turn) => rest.partition_point(|entry| entry.complete < *turn),
                None => rest.len(),
            };
            let (within, later) = rest.split_at(length);
            let epoch = Epoch { home, entries: within.to_vec() };
            if epoch.arrival().is_some() {
                home = home.other();
            }
            epochs.push(epoch);
            rest = later;
        }
        epochs
    }

    /// Adds what other writers were told.
    pub fn merge(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.turns.extend(other.turns);
        self.turns.sort_unstable();
        self.anomalies.extend(other.anomalies);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }

    /// How often the side that took writes must have changed, beginning with the
    /// source: the length of the longest chain of acknowledged writes, by turns on one
    /// end and on the other, each begun after the one before was acknowledged. Two ends
    /// that take writes at the same time make it long at once.
    #[must_use]
    pub fn switches(&self) -> usize {
        let mut acknowledged: Vec<_> =
            self.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged).collect();
        acknowledged.sort_by_key(|entry| entry.complete);
        let (mut end, mut since, mut links) = (End::Source, None, 0);
        // The earliest answer leaves the most room for the next.
        for entry in acknowledged {
            if entry.end == end && since.is_none_or(|since| entry.invoke > since) {
                (end, since, links) = (end.other(), Some(entry.complete), links + 1);
            }
        }
        links.max(1) - 1
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
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
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
