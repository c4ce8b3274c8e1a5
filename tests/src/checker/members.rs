//! What was written is there: whole, once, in order, under the id it was given.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{FinalState, Violation};
use crate::ledger::{Effect, Entry, Ledger, Outcome};

/// An acknowledged write is there whole; an unknown one whole or not at all.
pub(super) fn presence(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    ledger.entries.iter().flat_map(|entry| presence_of(entry, state)).collect()
}

fn presence_of(entry: &Entry, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut present = 0_usize;
    let mut absent = 0_usize;
    for effect in &entry.effects {
        let Effect::Member { set, token, copies } = effect else { continue };
        let found = state.copies(set, *token);
        let told = || format!("{token} of {set}: {found} of {copies}, written on the {}", entry.end.as_str());
        if found > *copies {
            violations.push(Violation::Duplicated(told()));
        } else if found == *copies {
            present += 1;
        } else if entry.outcome == Outcome::Acknowledged {
            violations.push(Violation::Lost(told()));
        } else if found > 0 {
            violations.push(Violation::Torn(told()));
        } else {
            absent += 1;
        }
    }
    if entry.outcome == Outcome::Unknown && present > 0 && absent > 0 {
        violations.push(Violation::Torn(format!("{:?}", entry.effects)));
    }
    violations
}

/// Nothing is there that no acknowledged or unknown write put there.
pub(super) fn origin(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut written: HashMap<&str, HashSet<i64>> = HashMap::new();
    for effect in ledger.entries.iter().flat_map(|entry| &entry.effects) {
        if let Effect::Member { set, token, .. } = effect {
            written.entry(set).or_default().insert(*token);
        }
    }
    let mut violations = Vec::new();
    for (set, tokens) in &state.members {
        let known = written.get(set.as_str());
        let foreign = tokens.keys().filter(|token| known.is_none_or(|known| !known.contains(token)));
        violations.extend(foreign.map(|token| Violation::Invented(format!("{token} of {set}"))));
    }
    violations
}

/// In a list, no acknowledged write stands before one that had been answered when
/// it began. The writes of each writer are in order by that too.
pub(super) fn order(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut times: HashMap<(&str, i64), &Entry> = HashMap::new();
    for entry in ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged) {
        for effect in &entry.effects {
            if let Effect::Member { set, token, .. } = effect
                && state.lists.contains_key(set)
            {
                times.insert((set, *token), entry);
            }
        }
    }
    let mut violations = Vec::new();
    for (list, tokens) in &state.lists {
        // The one before that began last.
        let mut latest: Option<(Duration, i64)> = None;
        for token in tokens {
            let Some(entry) = times.get(&(list.as_str(), *token)) else { continue };
            if let Some((begun, earlier)) = latest
                && entry.complete < begun
            {
                violations.push(Violation::Reordered(format!(
                    "{token} of {list} was answered at {:?}, and stands behind {earlier}, which began at {begun:?}",
                    entry.complete
                )));
            }
            latest = latest.max(Some((entry.invoke, *token)));
        }
    }
    violations
}

/// Ids and numbers that the servers handed out are unique over both sides, and
/// the ids are the ones stored.
pub(super) fn identities(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut owners: HashMap<(&str, i64), &Entry> = HashMap::new();
    for entry in ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged) {
        for effect in &entry.effects {
            let (sequence, value) = match effect {
                Effect::Identity { set, id, .. } => (set, *id),
                Effect::Number { sequence, value } => (sequence, *value),
                Effect::Member { .. } | Effect::Assign { .. } => continue,
            };
            if let Some(other) = owners.insert((sequence, value), entry) {
                violations.push(Violation::WrongIdentity(format!(
                    "{sequence} {value}: handed to writer {} on the {} and to writer {} on the {}",
                    other.writer,
                    other.end.as_str(),
                    entry.writer,
                    entry.end.as_str()
                )));
            }
            let Effect::Identity { set, token, id } = effect else { continue };
            match state.identity(set, *token) {
                Some(stored) if stored != *id => violations
                    .push(Violation::WrongIdentity(format!("{token} of {set} was told {id}, and {stored} is stored"))),
                // An absent row is a loss, which is told once.
                Some(_) | None => {}
            }
        }
    }
    violations
}
