//! `[[hook]]`: commands that the machine's owner wants the agent to run around a cutover.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::command::{LocalCommand, local_command};
use super::file::Problems;

/// Enough for a call to a monitoring system, short enough for an outage.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A named point of a cutover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// Source, the last thing before the outage begins. Its failure gives the cutover up.
    BeforeBarrier,
    /// Source, when no application is left and none can log in: inside the outage. Its failure takes the
    /// cutover back.
    AfterFence,
    /// Destination, directly before the decision: inside the outage. Its failure
    /// takes the cutover back.
    BeforeOpen,
    /// Either side, when the destination has opened. Its failure is logged.
    AfterOpen,
    /// Source, when a cutover was given up and applications go on. Its failure is logged.
    AfterAbort,
}

impl HookPoint {
    /// Every point, in the order of a cutover.
    pub const ALL: [Self; 5] =
        [Self::BeforeBarrier, Self::AfterFence, Self::BeforeOpen, Self::AfterOpen, Self::AfterAbort];

    /// The word in the policy, in the log and in `PGPORTAGE_HOOK`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeBarrier => "before-barrier",
            Self::AfterFence => "after-fence",
            Self::BeforeOpen => "before-open",
            Self::AfterOpen => "after-open",
            Self::AfterAbort => "after-abort",
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One hook of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRule {
    /// The point at which it runs.
    pub at: HookPoint,
    /// The program and its arguments.
    pub command: LocalCommand,
    /// For which databases. Absent: for all of them.
    pub databases: Option<BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HookSection {
    at: String,
    command: Vec<String>,
    timeout: Option<String>,
    databases: Option<BTreeSet<String>>,
}

pub(super) fn hooks(problems: &mut Problems, table: &mut toml::Table) -> Vec<HookRule> {
    let sections: Vec<HookSection> = problems.section(table, "hook");
    let mut rules = Vec::new();
    for (index, HookSection { at, command, timeout, databases }) in sections.into_iter().enumerate() {
        let key = |name: &str| format!("hook[{index}].{name}");
        let timeout = problems.duration(&key("timeout"), timeout, TIMEOUT);
        let command = local_command(problems, &key("command"), command, timeout);
        let Some(at) = HookPoint::ALL.into_iter().find(|point| point.as_str() == at) else {
            let known = HookPoint::ALL.map(HookPoint::as_str).join(", ");
            problems.add(&key("at"), format_args!("{at:?} is no point of a cutover; expected {known}"));
            continue;
        };
        rules.extend(command.map(|command| HookRule { at, command, databases }));
    }
    rules
}
