//! What an operator is shown.
//!
//! [`crate::wire`] makes these from the contract's messages, [`crate::render`]
//! turns them into text, and `--json` prints them as they are: their field
//! names are the stable interface of the program's output, listed in
//! `docs/operating.md`. Times are RFC 3339 in UTC, spans are whole
//! milliseconds, sizes are bytes.

mod certified;
mod choice;
mod cutover;
mod explained;
mod failure;
mod rehearsal;
mod switch_comparison;

use std::time::Duration;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use certified::{Certified, Proof, Saved};
pub use choice::{Chosen, MaxRate, Method, Way};
pub use cutover::{Cutover, CutoverPhase};
pub use explained::{Explained, Explanation, Report, Side, Situation, Weight};
pub use failure::Failure;
pub use pgportage_report::drift::SchemaDrift;
pub use pgportage_report::finding::Severity;
pub use pgportage_report::forecast::{Forecast, WalLimit};
pub use pgportage_report::progress::{Build, Part, Progress, Unit};
use pgportage_report::quantity::milliseconds;
pub use rehearsal::{Rehearsal, RehearsalPhase, RestSource, Spread};
pub use switch_comparison::SwitchComparison;

/// A migration as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Migration {
    /// Chosen by the operator.
    pub name: String,
    /// The database that moves.
    pub database: String,
    /// The agent beside the server moved from.
    pub source_agent: String,
    /// The agent beside the server moved to.
    pub destination_agent: String,
    /// What moves the rows, and by which way.
    #[serde(flatten)]
    pub way: Way,
    /// Whether the agents reach each other through the coordinator.
    pub relayed: bool,
    /// Bytes of table data that the copy may read in a second. None: as fast as
    /// it goes.
    pub max_rate_bytes: Option<i64>,
    /// The lag under which it is ready, and under which a cutover or rollback begins.
    #[serde(rename = "max_lag_milliseconds", serialize_with = "milliseconds")]
    pub max_lag: Option<Duration>,
    /// Whether the applications could return to the source after the cutover.
    pub way_back: WayBack,
    /// Where it stands.
    pub state: MigrationState,
    /// Whether everything is caught up and compared and only
    /// `pgportage cutover` is missing.
    pub ready_for_cutover: bool,
    /// Whether the applications are on the destination and only
    /// `pgportage finish` is missing.
    pub ready_for_finish: bool,
    /// The steps in the order they run.
    pub steps: Vec<Step>,
    /// What it waits for, as one clause. Empty while it runs or is over.
    pub waiting_for: String,
    /// What to type next, most useful first.
    pub next_commands: Vec<String>,
    /// Why no cutover and no rollback begins at the moment. Goes by itself when its
    /// cause does.
    pub held_by: Option<Failure>,
    /// How the schemas of both sides compare while rows flow between them.
    pub schema_drift: Option<SchemaDrift>,
    /// What was found on the source.
    pub source_findings: Vec<Finding>,
    /// What was found on the destination.
    pub destination_findings: Vec<Finding>,
    /// The latest figures.
    pub figures: Option<Figures>,
    /// The latest cutover.
    pub cutover: Option<Cutover>,
    /// The latest rehearsal of one.
    pub rehearsal: Option<Rehearsal>,
    /// The latest verification.
    pub verification: Option<Verification>,
    /// After finish: the statements that lift the source's fence.
    pub unfence_statements: Vec<String>,
    /// When it was created.
    #[serde(serialize_with = "rfc3339")]
    pub create_time: Option<OffsetDateTime>,
    /// When it last changed.
    #[serde(serialize_with = "rfc3339")]
    pub update_time: Option<OffsetDateTime>,
    /// Changes with every change.
    pub etag: String,
}

/// Whether applications could return to the source with everything they write on
/// the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WayBack {
    /// They cannot: the operator created it without a way back, the way back was given
    /// up, or the migration is over.
    None,
    /// It will be made before the cutover.
    Planned,
    /// It is made and proved.
    Proved,
    /// What is written on the destination flows to the source.
    Running,
    /// Sent by another release.
    Unrecognised,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationState {
    /// Created and not started.
    Pending,
    /// Runs, and the operator need do nothing.
    Running,
    /// An operator has to decide or to fix something.
    Waiting,
    /// Is being taken back.
    Aborting,
    /// Taken back. Over.
    Aborted,
    /// Done. Over.
    Succeeded,
    /// Sent by a newer coordinator.
    Unrecognised,
}

impl MigrationState {
    /// Whether nothing more happens unless an operator acts.
    #[must_use]
    pub fn settled(self) -> bool {
        match self {
            Self::Pending | Self::Waiting | Self::Aborted | Self::Succeeded => true,
            Self::Running | Self::Aborting | Self::Unrecognised => false,
        }
    }
}

/// One step of a migration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Stable name.
    pub name: String,
    /// Where it stands.
    pub state: StepState,
    /// Attempts made so far.
    pub attempt_count: i32,
    /// The latest progress, while running.
    pub progress: Option<Progress>,
    /// Why it did not succeed.
    pub failure: Option<Failure>,
    /// When the first attempt began.
    #[serde(serialize_with = "rfc3339")]
    pub start_time: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub end_time: Option<OffsetDateTime>,
    /// Whether it stops before it begins until an operator releases it.
    pub held: bool,
    /// Whether nothing after it can be taken back.
    pub point_of_no_return: bool,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Its turn has not come.
    Pending,
    /// Under way.
    Running,
    /// Waits for the operator to release it.
    Held,
    /// Over without success.
    Failed,
    /// Done.
    Succeeded,
    /// Taken back.
    Undone,
    /// Sent by a newer coordinator.
    Unrecognised,
}

/// The latest lossy figures of a migration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// From a heartbeat row's commit to the news of its arrival.
    #[serde(rename = "lag_milliseconds", serialize_with = "milliseconds")]
    pub lag: Option<Duration>,
    /// Bytes that the destination has not confirmed.
    pub lag_bytes: Option<i64>,
    /// WAL kept on the source's disk for our slot.
    pub retained_wal_bytes: Option<i64>,
    /// How long that may go on growing.
    pub wal_forecast: Option<Forecast>,
    /// What is about to go wrong. Empty while all is well.
    pub warning: String,
    /// How many readers of the copy may read while the source is spared. None
    /// while all may.
    pub reader_limit: Option<i32>,
    /// Why not all may read. Empty while all may.
    pub held_back_by: String,
    /// When the figures were taken.
    #[serde(serialize_with = "rfc3339")]
    pub record_time: Option<OffsetDateTime>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// The side that follows, and was compared with the other one.
    pub follower: Side,
    /// Tables compared.
    pub table_count: i32,
    /// Tables whose counts were equal.
    pub equal_count: i32,
    /// Tables that changed while they were counted, within what changed.
    pub moving_count: i32,
    /// Rows on the side that follows.
    pub row_count: i64,
    /// Every difference, one clause each.
    pub differences: Vec<String>,
    /// What native replication leaves behind, and what becomes of it.
    pub not_replicated: Vec<Finding>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub record_time: Option<OffsetDateTime>,
    /// What came of comparing rows by their hashes. Absent when they were counted
    /// only.
    pub rows: Option<RowComparison>,
}

/// What a comparison of rows by their hashes came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowComparison {
    /// Parts of tables whose hashes were compared.
    pub range_count: i64,
    /// Rows that were looked at once more, because a hash differed.
    pub recheck_count: i64,
    /// Rows that differ.
    pub difference_count: i64,
    /// Rows that changed at every look.
    pub unsettled_count: i64,
    /// Whether every table was compared to its end.
    pub complete: bool,
    /// How long it took.
    #[serde(rename = "elapsed_milliseconds", serialize_with = "milliseconds")]
    pub elapsed: Option<Duration>,
    /// File with the keys of rows that differ, on the destination agent's machine.
    pub report_path: String,
    /// File with statements that mend them, there too.
    pub repair_path: String,
}

/// One result of preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it means for the migration.
    pub severity: Severity,
    /// Stable identifier.
    pub code: String,
    /// The object concerned. May be empty.
    pub object: String,
    /// One clause.
    pub message: String,
    /// What was read.
    pub evidence: String,
    /// The statement or setting that mends it. May be empty.
    pub remedy: String,
    /// Whether the remedy needs a restart of the server.
    pub needs_restart: bool,
    /// Whether the operator has agreed to it, on this evidence.
    pub agreed: bool,
    /// The page that explains it.
    pub page: String,
    /// What a consent is bound to. Not printed.
    #[serde(skip)]
    pub evidence_digest: Vec<u8>,
}

/// What preflight found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// Whether a migration could start as things are, consents aside.
    pub passed: bool,
    /// On the source, worst first.
    pub source_findings: Vec<Finding>,
    /// On the destination, worst first.
    pub destination_findings: Vec<Finding>,
}

/// What a migration will do, before it does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The migration.
    pub name: String,
    /// The steps in the order they run. A step with work on both sides has an
    /// entry for each.
    pub steps: Vec<PlannedStep>,
    /// SHA-256 of the plan, in hexadecimal digits.
    pub digest: String,
    /// What comes of it, one line for each side, the source first.
    pub summary: Vec<String>,
    /// When the servers were read that it is about. None: not yet.
    #[serde(serialize_with = "rfc3339")]
    pub record_time: Option<OffsetDateTime>,
    /// Why they were not read for it.
    pub obstacle: Option<Failure>,
    /// How it differs from the plan of before the start.
    pub changes: Vec<String>,
}

/// A step as it will run on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// Stable name.
    pub name: String,
    /// The agent that runs it.
    pub agent: String,
    /// The statements and programs it will run.
    pub statements: Vec<String>,
    /// Whether it waits for the operator to release it before it begins.
    pub held: bool,
    /// Whether it can be taken back.
    pub undoable: bool,
}

/// An agent that the coordinator has heard from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// The name in its certificate.
    pub name: String,
    /// Whether it can be given work.
    pub state: AgentState,
    /// The version of its PostgreSQL server, for example `15.8`. Empty while
    /// unknown.
    pub server_version: String,
    /// Its release.
    pub software_version: String,
    /// The protocol revision of its latest session.
    pub revision: i32,
    /// Number of its latest session.
    pub session_epoch: i64,
    /// When the latest session began.
    #[serde(serialize_with = "rfc3339")]
    pub attach_time: Option<OffsetDateTime>,
    /// When it was last heard from.
    #[serde(serialize_with = "rfc3339")]
    pub contact_time: Option<OffsetDateTime>,
}

/// Whether an agent can be given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// A session is open.
    Attached,
    /// It said goodbye.
    Detached,
    /// Its session broke, and it has not come back.
    Lost,
    /// Sent by a newer coordinator.
    Unrecognised,
}

impl Migration {
    /// The step that answers "what is happening": the one that runs, or that
    /// failed, or that is held.
    #[must_use]
    pub fn current_step(&self) -> Option<&Step> {
        let in_state = |state| self.steps.iter().find(move |step| step.state == state);
        in_state(StepState::Running).or_else(|| in_state(StepState::Failed)).or_else(|| in_state(StepState::Held))
    }

    /// The lag, and its limit where it is above that.
    #[must_use]
    pub fn behind(&self) -> Option<(Duration, Duration)> {
        let lag = self.figures.as_ref()?.lag?;
        self.max_lag.filter(|limit| lag > *limit).map(|limit| (lag, limit))
    }

    /// The step of this name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Findings that the operator has to agree to and has not.
    pub fn open_consents(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| finding.severity == Severity::Consent && !finding.agreed)
    }

    /// The findings of both sides, the source's first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.source_findings.iter().chain(&self.destination_findings)
    }
}

/// The name of the step that moves the applications.
pub const CUTOVER_STEP: &str = "cutover";
/// The name of the step that removes everything of ours.
pub const FINISH_STEP: &str = "finish";

/// The command that prints the page of a reason or a finding.
#[must_use]
pub fn page(reason: &str) -> String {
    format!("pgportage help {reason}")
}

fn rfc3339<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| time.format(&Rfc3339).ok()) {
        Some(text) => serializer.serialize_some(&text),
        None => serializer.serialize_none(),
    }
}
