//! What was read, during the run and at its end, is what had been written.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{FinalState, Violation};
use crate::ledger::{Effect, Ledger, Outcome, Read};

/// A register holds, whenever its writer looks and at the end, what that writer
/// last left, or what an unknown write after that may have left.
pub(super) fn registers(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut possible: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &ledger.entries {
        for read in &entry.reads {
            let Read::Register { register, value } = read else { continue };
            let values = possible.entry(register).or_insert_with(|| vec![None]);
            if !values.contains(value) {
                violations.push(Violation::StaleRead(format!(
                    "{register} read on the {} at {:?} was {value:?}, left as one of {values:?}",
                    entry.end.as_str(),
                    entry.invoke
                )));
            }
        }
        for effect in &entry.effects {
            let Effect::Assign { register, value } = effect else { continue };
            let values = possible.entry(register).or_insert_with(|| vec![None]);
            if entry.outcome == Outcome::Acknowledged {
                values.clear();
            }
            values.push(*value);
        }
    }
    for (register, values) in possible {
        let found = state.registers.get(register).copied();
        if values.contains(&found) {
            continue;
        }
        let told = format!("{register} is {found:?}, left as one of {values:?}");
        let deleted = values.iter().all(Option::is_none);
        violations.push(if deleted { Violation::Resurrected(told) } else { Violation::WrongValue(told) });
    }
    violations
}

/// A read finds every write that had been acknowledged when it began, on
/// whichever side; and what was found once stays.
pub(super) fn members(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut acknowledged: HashMap<(&str, i64), Duration> = HashMap::new();
    for entry in ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged) {
        for effect in &entry.effects {
            if let Effect::Member { set, token, .. } = effect {
                acknowledged.insert((set, *token), entry.complete);
            }
        }
    }
    let mut violations = Vec::new();
    for entry in &ledger.entries {
        for read in &entry.reads {
            let Read::Member { set, token, found } = read else { continue };
            let told = acknowledged.get(&(set.as_str(), *token));
            if *found && told.is_none() && state.copies(set, *token) == 0 {
                violations.push(Violation::Lost(format!("{token} of {set} was read at {:?}", entry.complete)));
            } else if !found && told.is_some_and(|complete| *complete <= entry.invoke) {
                violations.push(Violation::StaleRead(format!(
                    "{token} of {set} was acknowledged at {told:?} and not found on the {} at {:?}",
                    entry.end.as_str(),
                    entry.invoke
                )));
            }
        }
    }
    violations
}

/// Sums are what they must be, in every snapshot that a writer read and at the end.
pub(super) fn sums(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let during = ledger.entries.iter().flat_map(|entry| {
        entry.reads.iter().filter_map(move |read| match read {
            Read::Sum { name, found, expected } => {
                let place = format!(" on the {} at {:?}", entry.end.as_str(), entry.invoke);
                Some((name, *found, *expected, place))
            }
            Read::Register { .. } | Read::Member { .. } => None,
        })
    });
    let at_the_end = state.sums.iter().map(|sum| (&sum.name, sum.found, sum.expected, String::new()));
    during
        .chain(at_the_end)
        .filter(|(_, found, expected, _)| found != expected)
        .map(|(name, found, expected, place)| {
            Violation::WrongSum(format!("{name}{place}: {found} instead of {expected}"))
        })
        .collect()
}
