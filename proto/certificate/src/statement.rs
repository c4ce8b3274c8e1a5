//! What one agent states about a switchover: a cutover or a rollback.
//!
//! Names, positions, numbers and hashes only: what the coordinator may know as
//! well. **Invariant:** an agent states what it did and saw itself. `certificate verify`
//! compares what both agents state. What only one agent can know stands in its `account`.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The form of statements that this release writes and reads.
pub const FORMAT: u32 = 1;

/// Lists up to this length are part of the statement; of longer ones there is the
/// number of entries and their hash.
const LISTED: usize = 500;

/// One agent's account of one switchover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// [`FORMAT`].
    pub format: u32,
    /// The migration.
    pub migration: String,
    /// Number of the switchover.
    pub cutover_epoch: i64,
    /// Which way applications went.
    pub direction: Direction,
    /// The database.
    pub database: String,
    /// SHA-256 of the plan that was carried out, in hexadecimal digits.
    pub plan_sha256: String,
    /// SPIFFE id of the agent that states this.
    pub agent: String,
    /// SPIFFE id of the other one.
    pub peer: String,
    /// The agent's server.
    pub server: Server,
    /// The row that travelled the stream behind the barrier: written on the side
    /// that was left, seen on the side that was entered.
    pub marker_id: String,
    /// The tables published, or subscribed to, before the barrier.
    pub tables: TableSet,
    /// SHA-256 over the catalog's definitions, as both sides can compute it.
    pub catalog_sha256: String,
    /// Every sequence: as it was read when no application session was left, or as it was
    /// set before the decision.
    pub sequences: Listing<Sequence>,
    /// The acts of this agent, in order, on its own clock.
    pub phases: Vec<Phase>,
    /// What only this side can tell.
    pub account: Account,
    /// The last comparison of rows, or count of them, that this agent made.
    pub verification: Option<Verification>,
    /// When this was stated, on the agent's clock: the moment at which its
    /// certificate had to be in force.
    pub statement_time: Moment,
}

/// Which way applications went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the source to the destination.
    Cutover,
    /// From the destination back to the source.
    Rollback,
}

impl Direction {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cutover => "cutover",
            Self::Rollback => "rollback",
        }
    }
}

/// A server, as it knows itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// `server_version_num`.
    pub version_num: i32,
}

/// A set of tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSet {
    /// How many.
    pub count: u64,
    /// SHA-256 over their sorted names.
    pub sha256: String,
}

/// Where one sequence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
}

/// One act of the switchover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name, as in logs and in the policy, for example `fence_source`.
    pub name: String,
    /// When the agent took it up.
    pub begin: Moment,
    /// When it was done.
    pub end: Moment,
}

/// What only one side can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "snake_case")]
pub enum Account {
    /// Of the side that was left.
    Left(Left),
    /// Of the side that was entered.
    Entered(Entered),
}

/// How a side was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Position of this server behind the marker.
    pub marker_lsn: String,
    /// Position of this server behind the durable fence.
    pub fence_lsn: String,
    /// When it was proved that no application session was left and none could log in.
    pub fence_time: Moment,
    /// How long the table locks took.
    pub lock_wait_microseconds: u64,
    /// From the pause of poolers, or the first lock request, to the release. Zero
    /// when the barrier had gone before.
    pub barrier_microseconds: u64,
    /// Statements cancelled for the barrier.
    pub cancelled_session_count: u32,
    /// Sessions ended for the fence.
    pub terminated_session_count: u32,
}

/// How a side was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Position of this server behind a commit that flushed the marker.
    pub flush_lsn: String,
    /// How long the marker was waited for.
    pub drain_microseconds: u64,
    /// Position of this server in the transaction of the decision.
    pub decision_lsn: String,
    /// When the commit of the decision was asked for, on the server's clock: behind the
    /// proof that no application session was left on the other side. Agents of an earlier
    /// release stated when the transaction was prepared, some milliseconds before that
    /// proof; that reads as a clock that is behind, and is proved as before.
    pub decision_time: Moment,
    /// What was compared behind the marker. Absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
}

/// Rows that were written from the preconditions of the switchover to its marker, compared
/// by their hashes while no application could write. None of them differed: otherwise the
/// destination would not have opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Tables that were compared.
    pub table_count: u32,
    /// Rows of them.
    pub row_count: u64,
    /// Tables that were written to and not compared, with their schemas.
    pub left_out: Vec<String>,
    /// How long it took.
    pub elapsed_microseconds: u64,
}

/// What the agent knows about rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When that was known, on the agent's clock.
    pub time: Moment,
    /// One entry for each table.
    pub tables: Listing<Rows>,
    /// Rows of all tables together.
    pub row_count: i64,
    /// How they compare with the other side's. Absent when rows were only counted.
    pub comparison: Option<Comparison>,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Rows counted or hashed.
    pub row_count: i64,
    /// Sum of the rows' hashes, in hexadecimal digits. Empty when rows were only
    /// counted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// How the rows of both sides compare, by their hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Whether every table was compared to its end.
    pub complete: bool,
    /// Rows that differ.
    pub difference_count: i64,
    /// Rows that changed at every look.
    pub unsettled_count: i64,
}

/// A list, its length and its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// Its length.
    pub count: u64,
    /// SHA-256 over its entries in order, in hexadecimal digits.
    pub sha256: String,
    /// The entries. Absent where there are too many.
    pub entries: Option<Vec<T>>,
}

impl<T: Serialize> Listing<T> {
    /// Of entries in an order that both sides agree on.
    pub fn of(entries: Vec<T>) -> Self {
        let (count, sha256) = (entries.len() as u64, hash(&entries));
        Self { count, sha256, entries: (entries.len() <= LISTED).then_some(entries) }
    }

    /// Whether length and hash are those of the entries, where these are there.
    #[must_use]
    pub(crate) fn holds_together(&self) -> bool {
        self.entries.as_ref().is_none_or(|entries| entries.len() as u64 == self.count && hash(entries) == self.sha256)
    }

    /// Whether the other one lists the same.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        (self.count, &self.sha256) == (other.count, &other.sha256)
    }
}

/// Each entry as JSON, its length before it: no two lists read the same.
fn hash<T: Serialize>(entries: &[T]) -> String {
    let mut digest = Sha256::new();
    for entry in entries {
        // Our own entries have neither maps nor serializers that fail.
        let text = serde_json::to_vec(entry).unwrap_or_default();
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    hex(&digest.finalize())
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A moment of one machine's wall clock, written as RFC 3339 has it, to the
/// microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(SystemTime);

impl Moment {
    /// The time.
    pub fn time(self) -> SystemTime {
        self.0
    }

    /// How much later it is than `other`; zero when it is not.
    pub fn since(self, other: Self) -> Duration {
        self.0.duration_since(other.0).unwrap_or_default()
    }
}

impl From<SystemTime> for Moment {
    /// Leaves out what is below a microsecond, so that it reads back as written.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_micros() * 1000))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_micros(self.0))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self::from).map_err(serde::de::Error::custom)
    }
}
