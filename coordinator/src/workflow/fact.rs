//! Facts: what happened to a migration, numbered and kept for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use pgportage_link::{Effect, Failure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::act::{Digest, Input, Inventory, Outcome, RelationName};
use super::depth::Depth;
use super::finding::Consent;
use super::judge::Verification;
use super::spec::{MigrationId, Rate, Spec};
use super::{ActRef, StepName, Verb};

/// Names one command: a UUIDv7 chosen before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(pub Uuid);

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// W3C trace context (`traceparent`, `tracestate`). In an operator's word: what the steps
/// from there on belong to.
pub(crate) type TraceContext = BTreeMap<String, String>;

/// Who caused a fact, and on what occasion. Kept with every fact, because
/// history cannot be added later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// SPIFFE id of the operator, agent or coordinator.
    pub actor: String,
    /// Serial number of the certificate it showed.
    pub certificate_serial: String,
    /// The request that caused it.
    pub request_id: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Place in the migration's history: from 1, without gaps.
    pub sequence: i64,
    /// Who and on what occasion.
    pub origin: Origin,
    /// When it was recorded. For people; nothing is decided by it.
    pub time: SystemTime,
    /// SHA-256 of the plan it belongs to.
    pub plan_digest: Digest,
    pub event: Event,
}

/// What can happen to a migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// An operator created it. The first fact, and only the first.
    Created {
        id: MigrationId,
        /// What to do.
        spec: Spec,
    },
    /// Before it was started, both agents read what its plan names.
    Surveyed { source: Box<Inventory>, destination: Box<Inventory> },
    /// An operator started it.
    Started { trace: TraceContext },
    /// An operator agreed to findings.
    ConsentGiven {
        /// To which.
        consents: Vec<Consent>,
    },
    /// An operator changed how it is carried out.
    Tuned {
        /// How fast the copy may read. None: as fast as it goes.
        max_rate: Option<Rate>,
    },
    /// A command was decided. **Stored before it is sent.**
    CommandIssued(Box<Issued>),
    /// The agent has stored the command.
    CommandAccepted {
        command: CommandId,
        /// The agent's number of this fact.
        agent_sequence: i64,
    },
    /// The agent has done it.
    CommandSucceeded {
        command: CommandId,
        agent_sequence: i64,
        /// What it produced. Nothing, for an undo.
        outcome: Option<Outcome>,
        /// For what writers wait for, from the barrier on: how long they have waited,
        /// on the coordinator's monotonic clock. Absent when the coordinator was
        /// restarted meanwhile.
        outage: Option<Duration>,
    },
    /// The agent has not done it.
    CommandFailed {
        command: CommandId,
        agent_sequence: i64,
        #[serde(with = "failure_form")]
        failure: Failure,
    },
    /// The agent stopped it because it was asked to.
    CommandCancelled {
        command: CommandId,
        agent_sequence: i64,
        /// What it left behind.
        effect: Effect,
    },
    /// Every act of the step is done, and what they produced is good.
    StepSucceeded { step: StepName, verification: Option<Box<Verification>> },
    /// Every act of the step is done, and what they produced is not good.
    StepFailed {
        step: StepName,
        #[serde(with = "failure_form")]
        failure: Failure,
        verification: Option<Box<Verification>>,
    },
    /// Tables differed, and are counted once more before anybody is told.
    VerificationRepeated {
        tables: Vec<RelationName>,
        /// What is known about the others.
        verification: Box<Verification>,
    },
    /// An operator asked for another verification.
    VerificationRequested {
        /// How closely to look.
        #[serde(default, rename = "scrutiny")]
        depth: Depth,
        trace: TraceContext,
    },
    /// An operator asked for the cutover.
    CutoverRequested {
        /// Its number: higher than every one before.
        cutover_epoch: i64,
        max_outage: Duration,
        /// Whether the way back is given up with it.
        #[serde(default)]
        without_way_back: bool,
        /// How long applications may wait for what was written in it to be compared. None:
        /// nothing is compared.
        #[serde(default)]
        compare_limit: Option<Duration>,
        /// Whether both agents state and sign what they see of it.
        #[serde(default)]
        certified: bool,
        trace: TraceContext,
    },
    /// An operator asked for the way back.
    RollbackRequested {
        /// Its number: one row with those of the cutovers.
        cutover_epoch: i64,
        max_outage: Duration,
        /// Whether poolers that do not answer are left out.
        #[serde(default)]
        without_poolers: bool,
        /// As of a cutover.
        #[serde(default)]
        compare_limit: Option<Duration>,
        /// Whether both agents state and sign what they see of it.
        #[serde(default)]
        certified: bool,
        trace: TraceContext,
    },
    /// An operator asked for a rehearsal.
    RehearsalRequested {
        /// Its step, which says what is rehearsed.
        step: StepName,
        /// Number of its first round: one row with those of the cutovers.
        cutover_epoch: i64,
        /// The budget of every round.
        max_outage: Duration,
        round_count: u32,
        /// As of a cutover, in each round.
        #[serde(default)]
        compare_limit: Option<Duration>,
        trace: TraceContext,
    },
    /// Every act of the round is done. It is taken back.
    RoundRehearsed,
    /// Every act of the round is taken back; writers write. The next one follows,
    /// unless it was the last or did not succeed.
    RoundTakenBack,
    /// The coordinator gave the switch, or the round, up before the point of no return.
    CutoverGivenUp {
        #[serde(with = "failure_form")]
        failure: Failure,
    },
    /// Every act of the switch is taken back; the side that was to be left takes
    /// writes.
    CutoverTakenBack,
    /// An operator asked for the end.
    FinishRequested { trace: TraceContext },
    /// An operator mended what stood in the way.
    RetryRequested { step: StepName, trace: TraceContext },
    /// An operator gave the migration up.
    AbortRequested { trace: TraceContext },
    /// Everything is taken back. The last fact.
    Aborted,
}

/// A command as it was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    pub command: CommandId,
    pub act: ActRef,
    /// There or back.
    pub verb: Verb,
    /// From 1, growing with every attempt at the same act.
    pub attempt: u32,
    pub input: Input,
    /// How long the agent may work without progress.
    pub stall_timeout: Duration,
    /// The trace context that travels with it.
    pub trace: TraceContext,
}

impl Event {
    /// Whether the plan is another one behind it. **Nothing else renews a plan**: every
    /// command of a step carries the same digest, also those that are sent again.
    pub fn renews_the_plan(&self) -> bool {
        match self {
            Self::Created { .. } | Self::Surveyed { .. } => true,
            Self::StepSucceeded { step, .. } => *step == StepName::Inspect,
            Self::CutoverRequested { without_way_back, .. } => *without_way_back,
            Self::Started { .. }
            | Self::ConsentGiven { .. }
            | Self::Tuned { .. }
            | Self::CommandIssued(_)
            | Self::CommandAccepted { .. }
            | Self::CommandSucceeded { .. }
            | Self::CommandFailed { .. }
            | Self::CommandCancelled { .. }
            | Self::StepFailed { .. }
            | Self::VerificationRepeated { .. }
            | Self::VerificationRequested { .. }
            | Self::RollbackRequested { .. }
            | Self::RehearsalRequested { .. }
            | Self::RoundRehearsed
            | Self::RoundTakenBack
            | Self::CutoverGivenUp { .. }
            | Self::CutoverTakenBack
            | Self::FinishRequested { .. }
            | Self::RetryRequested { .. }
            | Self::AbortRequested { .. }
            | Self::Aborted => false,
        }
    }

    /// The stable name of the kind, as stored.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Surveyed { .. } => "surveyed",
            Self::Started { .. } => "started",
            Self::ConsentGiven { .. } => "consent_given",
            Self::Tuned { .. } => "tuned",
            Self::CommandIssued(_) => "command_issued",
            Self::CommandAccepted { .. } => "command_accepted",
            Self::CommandSucceeded { .. } => "command_succeeded",
            Self::CommandFailed { .. } => "command_failed",
            Self::CommandCancelled { .. } => "command_cancelled",
            Self::StepSucceeded { .. } => "step_succeeded",
            Self::StepFailed { .. } => "step_failed",
            Self::VerificationRepeated { .. } => "verification_repeated",
            Self::VerificationRequested { .. } => "verification_requested",
            Self::CutoverRequested { .. } => "cutover_requested",
            Self::RollbackRequested { .. } => "rollback_requested",
            Self::RehearsalRequested { .. } => "rehearsal_requested",
            Self::RoundRehearsed => "round_rehearsed",
            Self::RoundTakenBack => "round_taken_back",
            Self::CutoverGivenUp { .. } => "cutover_given_up",
            Self::CutoverTakenBack => "cutover_taken_back",
            Self::FinishRequested { .. } => "finish_requested",
            Self::RetryRequested { .. } => "retry_requested",
            Self::AbortRequested { .. } => "abort_requested",
            Self::Aborted => "aborted",
        }
    }
}

pub(crate) mod failure_form {
    use std::collections::BTreeMap;

    use pgportage_link::{Effect, Failure, Remedy};
    use pgportage_proto::Reason;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form {
        reason: String,
        message: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hint: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sqlstate: Option<String>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        causes: Vec<String>,
        remedy: Remedy,
        effect: Effect,
    }

    pub(crate) fn serialize<S: Serializer>(failure: &Failure, serializer: S) -> Result<S::Ok, S::Error> {
        Form {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message.clone(),
            detail: failure.detail.clone(),
            hint: failure.hint.clone(),
            sqlstate: failure.sqlstate.clone(),
            metadata: failure.metadata.clone(),
            causes: failure.causes.clone(),
            remedy: failure.remedy,
            effect: failure.effect,
        }
        .serialize(serializer)
    }

    /// Reads a failure. A reason of another release becomes
    /// [`Reason::Internal`] and keeps its text in the metadata.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Failure, D::Error> {
        let mut form = Form::deserialize(deserializer)?;
        let reason = form.reason.parse().unwrap_or_else(|_| {
            form.metadata.insert("reason".to_owned(), form.reason.clone());
            Reason::Internal
        });
        Ok(Failure {
            reason,
            message: form.message,
            detail: form.detail,
            hint: form.hint,
            sqlstate: form.sqlstate,
            metadata: form.metadata,
            causes: form.causes,
            remedy: form.remedy,
            effect: form.effect,
        })
    }
}
