//! What went wrong, and who has to do something about it.

use std::collections::BTreeMap;

use pgportage_link::{Effect, Remedy};
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
