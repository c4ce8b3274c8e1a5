//! Compares what the writers were told with what is in the databases.
//!
//! Pure: the databases are read by [`crate::final_state`], so that the checker
//! itself is tested with planted losses and duplicates.

mod ends;
mod members;
mod reads;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use anyhow::{Result, ensure};

use crate::ledger::Ledger;

/// What is in one database.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    /// Sets, their tokens, and the number of times each is there.
    pub members: HashMap<String, HashMap<i64, i64>>,
    /// Sets, their tokens, and the id that the row of each has.
    pub identities: HashMap<String, HashMap<i64, i64>>,
    /// Lists that were only ever appended to. Their entries are in `members` too.
    pub lists: HashMap<String, Vec<i64>>,
    /// Registers with their values. A register whose row is gone is absent.
    pub registers: HashMap<String, i64>,
    /// Sums that never change, as the database has them and as they should be.
    pub sums: Vec<Sum>,
}

impl FinalState {
    /// How often a token is in a set.
    #[must_use]
    pub fn copies(&self, set: &str, token: i64) -> i64 {
        self.members.get(set).and_then(|tokens| tokens.get(&token)).copied().unwrap_or(0)
    }

    fn identity(&self, set: &str, token: i64) -> Option<i64> {
        self.identities.get(set)?.get(&token).copied()
    }
}

/// A sum that every write keeps.
#[derive(Clone, Debug)]
pub struct Sum {
    /// What is summed.
    pub name: String,
    /// What the database holds.
    pub found: i64,
    /// What it must hold.
    pub expected: i64,
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An acknowledged write is not there, or not whole.
    Lost(String),
    /// Something is there more often than it was written.
    Duplicated(String),
    /// Something is there that no writer wrote, or that was refused.
    Invented(String),
    /// A write whose outcome was unknown is there in part.
    Torn(String),
    /// A write stands in a list before one that had ended when it began.
    Reordered(String),
    /// A register has a value that its writer did not leave.
    WrongValue(String),
    /// A row that was deleted is there.
    Resurrected(String),
    /// An id was handed out twice, or is not the one that the writer was told.
    WrongIdentity(String),
    /// A sum has changed.
    WrongSum(String),
    /// A read missed what had been acknowledged before it began.
    StaleRead(String),
    /// Something was committed on the side that was left, and never arrived:
    /// whether or not its writer was told, that side was not fenced.
    Stranded(String),
    /// One side took a write after the other side had.
    BothOpen(String),
    /// An error that no migration may cause.
    Anomaly(String),
}

/// As [`check`], as a result.
///
/// # Errors
///
/// When there is any violation; the error shows the first ones and the count.
pub fn verdict(switches: usize, ledger: &Ledger, state: &FinalState) -> Result<()> {
    judge(&check(switches, ledger, state))
}

/// As [`check_both`], as a result.
pub fn verdict_on_both(switches: usize, ledger: &Ledger, state: &FinalState, left: &FinalState) -> Result<()> {
    judge(&check_both(switches, ledger, state, left))
}

fn judge(violations: &[Violation]) -> Result<()> {
    let shown: Vec<_> = violations.iter().take(20).collect();
    ensure!(violations.is_empty(), "{} violations, the first of them: {shown:#?}", violations.len());
    Ok(())
}

/// Every violation in the database that the writers ended up with, sorted, after so
/// many tries to change sides. Empty is what every test wants.
#[must_use]
pub fn check(switches: usize, ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(ends::turns(switches, ledger));
    violations.extend(members::presence(ledger, state));
    violations.extend(members::origin(ledger, state));
    violations.extend(members::order(ledger, state));
    violations.extend(members::identities(ledger, state));
    violations.extend(reads::registers(ledger, state));
    violations.extend(reads::members(ledger, state));
    violations.extend(reads::sums(ledger, state));
    violations.extend(ledger.anomalies.iter().cloned().map(Violation::Anomaly));
    violations.sort();
    violations
}

/// As [`check`], and everything of the database that was left arrived in the one
/// that the writers ended up with. That settles the writes whose outcome was unknown.
#[must_use]
pub fn check_both(switches: usize, ledger: &Ledger, state: &FinalState, left: &FinalState) -> Vec<Violation> {
    let mut violations = check(switches, ledger, state);
    violations.extend(ends::stranded(state, left));
    violations.sort();
    violations
}
