//! How far the work of a command is. Lossy: the latest wins.

use pgportage_proto::v1;
use serde::Serialize;

/// How far an attempt is. The serde form is the CLI's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What the act works on or waits for.
    pub subject: String,
    /// Work done so far, in `unit`.
    pub completed: i64,
    /// Work in total, in `unit`. Zero while unknown.
    pub total: i64,
    /// What `completed` and `total` count.
    pub unit: Unit,
    /// One entry for each part, for example each table.
    pub parts: Vec<Part>,
    /// Indexes being built, as far as the server shows them.
    pub builds: Vec<Build>,
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nothing is counted, or something that only a newer release counts.
    #[default]
    #[serde(rename = "unrecognised")]
    None,
    /// Bytes.
    Bytes,
    /// Rows.
    Rows,
    /// Tables.
    Tables,
    /// Milliseconds of lag.
    Milliseconds,
}

/// How far one table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The table, quoted as PostgreSQL would quote it.
    pub table: String,
    /// Rows copied so far.
    pub row_count: i64,
    /// Bytes copied so far.
    pub size_bytes: i64,
    /// Size of the table on the source. Zero while unknown.
    pub total_bytes: i64,
    /// Rows of the table on the source, estimated. Zero while unknown.
    pub total_rows: i64,
    /// Whether the table is ready.
    pub ready: bool,
}

/// An index that is being built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its table, quoted as PostgreSQL would quote it.
    pub table: String,
    /// The phase of the build, in PostgreSQL's words.
    pub phase: String,
    /// How much of this phase is done, in whole percent.
    pub percent: Option<u8>,
}

impl Progress {
    /// As it is sent, of that command.
    #[must_use]
    pub fn to_message(&self, command_id: String) -> v1::CommandProgress {
        v1::CommandProgress {
            command_id,
            subject: self.subject.clone(),
            completed: self.completed,
            total: self.total,
            unit: match self.unit {
                Unit::None => v1::command_progress::Unit::Unspecified,
                Unit::Bytes => v1::command_progress::Unit::Bytes,
                Unit::Rows => v1::command_progress::Unit::Rows,
                Unit::Tables => v1::command_progress::Unit::Tables,
                Unit::Milliseconds => v1::command_progress::Unit::Milliseconds,
            }
            .into(),
            parts: self.parts.iter().cloned().map(v1::ProgressPart::from).collect(),
            builds: self.builds.iter().cloned().map(v1::IndexBuild::from).collect(),
        }
    }
}

impl From<v1::CommandProgress> for Progress {
    fn from(sent: v1::CommandProgress) -> Self {
        Self {
            unit: match sent.unit() {
                v1::command_progress::Unit::Unspecified => Unit::None,
                v1::command_progress::Unit::Bytes => Unit::Bytes,
                v1::command_progress::Unit::Rows => Unit::Rows,
                v1::command_progress::Unit::Tables => Unit::Tables,
                v1::command_progress::Unit::Milliseconds => Unit::Milliseconds,
            },
            subject: sent.subject,
            completed: sent.completed,
            total: sent.total,
            parts: sent.parts.into_iter().map(Part::from).collect(),
            builds: sent.builds.into_iter().map(Build::from).collect(),
        }
    }
}

impl From<Part> for v1::ProgressPart {
    fn from(part: Part) -> Self {
        let Part { table, row_count, size_bytes, total_bytes, total_rows, ready } = part;
        Self { table, row_count, size_bytes, total_bytes, total_rows, ready }
    }
}

impl From<v1::ProgressPart> for Part {
    fn from(sent: v1::ProgressPart) -> Self {
        let v1::ProgressPart { table, row_count, size_bytes, total_bytes, total_rows, ready } = sent;
        Self { table, row_count, size_bytes, total_bytes, total_rows, ready }
    }
}

impl From<Build> for v1::IndexBuild {
    fn from(build: Build) -> Self {
        Self { table: build.table, phase: build.phase, percent: build.percent.map_or(-1, i32::from) }
    }
}

impl From<v1::IndexBuild> for Build {
    fn from(sent: v1::IndexBuild) -> Self {
        let percent = u8::try_from(sent.percent).ok().filter(|percent| *percent <= 100);
        Self { table: sent.table, phase: sent.phase, percent }
    }
}
