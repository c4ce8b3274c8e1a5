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
    /// `register` has a new value. Each register has one writer.
    Assign {
        /// Name of the register.
        register: String,
        /// Its value; nothing if its row was deleted.
        value: Option<i64>,
    },
}

/// One write.
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
}

/// Everything a workload was told. Entries of one writer are in order.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The writes.
    pub entries: Vec<Entry>,
    /// Refused attempts by SQLSTATE, or by `connection` when there was none.
    pub refused: BTreeMap<String, u64>,
    /// Errors that no migration may cause, for example a key handed out twice.
    pub anomalies: Vec<String>,
}

/// The gap that the writers saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The last acknowledgement of the source.
    pub last_on_source: Duration,
    /// The first acknowledgement of the destination.
    pub first_on_destination: Duration,
}

impl Outage {
    /// How long nobody could write. Zero if the two overlap within what clients
    /// can tell.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.first_on_destination.saturating_sub(self.last_on_source)
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

    /// The outage, once both ends have acknowledged something.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        Some(Outage {
            last_on_source: self.answers(End::Source).map(|entry| entry.complete).max()?,
            first_on_destination: self.answers(End::Destination).map(|entry| entry.complete).min()?,
        })
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
        self.entries.iter().filter(move |entry| entry.end == end && entry.outcome == Outcome::Acknowledged)
    }
}
