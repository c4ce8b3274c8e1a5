//! What went wrong, and who has to do something about it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Why something did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Stable identifier.
    pub reason: String,
    /// One lowercase clause.
    pub message: String,
    /// Further facts. May be empty.
    pub detail: String,
    /// What the operator can do. May be empty.
    pub hint: String,
    /// The SQLSTATE, when PostgreSQL reported the error. May be empty.
    pub sqlstate: String,
    /// The variable parts of the texts.
    pub metadata: BTreeMap<String, String>,
    /// The chain of underlying errors, outermost first.
    pub causes: Vec<String>,
    /// Who has to act: `wait` (the coordinator tries again), `operator` or `abort`.
    pub remedy: Remedy,
    /// What was left behind: `none` or `unknown`.
    pub effect: Effect,
    /// The page that explains it.
    pub page: String,
}

/// Who has to act before another attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// The coordinator, which tries again after a pause.
    Wait,
    /// The operator, as the hint says.
    Operator,
    /// The operator, who has to abort: no retry can help.
    Abort,
}

/// What a failed attempt left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing.
    None,
    /// Perhaps something.
    Unknown,
}
