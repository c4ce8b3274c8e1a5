//! Compares what the writers were told with what is in the database.
//!
//! Pure: the database is read by [`crate::final_state`], so that the checker
//! itself is tested with planted losses and duplicates.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, ensure};

use crate::ledger::{Effect, End, Entry, Ledger, Outcome};

/// What is in the database that the writers ended up with.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    /// Set and token, with the number of times it is there.
    pub members: HashMap<(String, i64), i64>,
    /// Set and token, with the id that its row has.
    pub identities: HashMap<(String, i64), i64>,
    /// Registers with their values. A register whose row is gone is absent.
    pub registers: HashMap<String, i64>,
    /// Sums that never change, as the database has them and as they should be.
    pub sums: Vec<Sum>,
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
    /// Something is there that nobody wrote, or that was refused.
    Invented(String),
    /// A write whose outcome was unknown is there in part.
    Torn(String),
    /// A register has a value that its writer did not leave.
    WrongValue(String),
    /// An id was handed out twice, or is not the one that the writer was told.
    WrongIdentity(String),
    /// A sum has changed.
    WrongSum(String),
    /// The source took a write after the destination did.
    BothOpen(String),
    /// An error that no migration may cause.
    Anomaly(String),
}

/// As [`check`], as a result.
///
/// # Errors
///
/// When there is any violation; the error shows the first ones and the count.
pub fn verdict(ledger: &Ledger, state: &FinalState) -> Result<()> {
    let violations = check(ledger, state);
    let shown: Vec<_> = violations.iter().take(20).collect();
    ensure!(violations.is_empty(), "{} violations, the first of them: {shown:#?}", violations.len());
    Ok(())
}

/// As [`verdict`], after so many tries to change sides: the writers never saw more
/// changes than that.
///
/// # Errors
///
/// As [`verdict`].
pub fn verdict_after(switches: usize, ledger: &Ledger, state: &FinalState) -> Result<()> {
    if switches <= 1 {
        return verdict(ledger, state);
    }
    let mut violations = check_content(ledger, state);
    let seen = ledger.switches();
    if seen > switches {
        violations.push(Violation::BothOpen(format!("{seen} changes of side, and {switches} were asked for")));
    }
    let shown: Vec<_> = violations.iter().take(20).collect();
    ensure!(violations.is_empty(), "{} violations, the first of them: {shown:#?}", violations.len());
    Ok(())
}

/// Every violation, sorted. Empty is what every test wants.
#[must_use]
pub fn check(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut violations = check_content(ledger, state);
    violations.extend(check_order(ledger));
    violations.sort();
    violations
}

/// Every violation but those of who wrote when.
fn check_content(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in &ledger.entries {
        violations.extend(check_members(entry, state));
    }
    violations.extend(check_origin(ledger, state));
    violations.extend(check_registers(ledger, state));
    violations.extend(check_identities(ledger, state));
    for sum in &state.sums {
        if sum.found != sum.expected {
            violations.push(Violation::WrongSum(format!("{}: {} instead of {}", sum.name, sum.found, sum.expected)));
        }
    }
    violations.extend(ledger.anomalies.iter().cloned().map(Violation::Anomaly));
    violations.sort();
    violations
}

/// An acknowledged write is there whole; an unknown one whole or not at all.
fn check_members(entry: &Entry, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut present = 0_usize;
    let mut absent = 0_usize;
    for effect in &entry.effects {
        let Effect::Member { set, token, copies } = effect else { continue };
        let found = state.members.get(&(set.clone(), *token)).copied().unwrap_or(0);
        let told = format!("{token} of {set}: {found} of {copies}, written on the {}", entry.end.as_str());
        if found > *copies {
            violations.push(Violation::Duplicated(told));
        } else if found == *copies {
            present += 1;
        } else if entry.outcome == Outcome::Acknowledged {
            violations.push(Violation::Lost(told));
        } else if found > 0 {
            violations.push(Violation::Torn(told));
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
fn check_origin(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let written: BTreeSet<(&str, i64)> = ledger
        .entries
        .iter()
        .flat_map(|entry| &entry.effects)
        .filter_map(|effect| match effect {
            Effect::Member { set, token, .. } => Some((set.as_str(), *token)),
            Effect::Identity { .. } | Effect::Assign { .. } => None,
        })
        .collect();
    state
        .members
        .keys()
        .filter(|(set, token)| !written.contains(&(set.as_str(), *token)))
        .map(|(set, token)| Violation::Invented(format!("{token} of {set}")))
        .collect()
}

/// A register holds what its writer last left, or what an unknown write after
/// that may have left.
fn check_registers(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut possible: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
    for entry in &ledger.entries {
        for effect in &entry.effects {
            let Effect::Assign { register, value } = effect else { continue };
            let values = possible.entry(register).or_insert_with(|| vec![None]);
            if entry.outcome == Outcome::Acknowledged {
                values.clear();
            }
            values.push(*value);
        }
    }
    possible
        .into_iter()
        .filter_map(|(register, values)| {
            let found = state.registers.get(register).copied();
            (!values.contains(&found))
                .then(|| Violation::WrongValue(format!("{register} is {found:?}, left as one of {values:?}")))
        })
        .collect()
}

/// Ids that the server handed out are unique and are the ones stored.
fn check_identities(ledger: &Ledger, state: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut owners: HashMap<(&str, i64), i64> = HashMap::new();
    for entry in ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged) {
        for effect in &entry.effects {
            let Effect::Identity { set, token, id } = effect else { continue };
            if let Some(other) = owners.insert((set, *id), *token) {
                violations.push(Violation::WrongIdentity(format!("{set} {id}: handed to {other} and to {token}")));
            }
            match state.identities.get(&(set.clone(), *token)) {
                Some(stored) if stored != id => violations
                    .push(Violation::WrongIdentity(format!("{token} of {set} was told {id}, and {stored} is stored"))),
                // An absent row is a loss, which is told once.
                Some(_) | None => {}
            }
        }
    }
    violations
}

/// No write that began on the source after the destination's first answer was
/// acknowledged.
fn check_order(ledger: &Ledger) -> Vec<Violation> {
    let Some(outage) = ledger.outage() else { return Vec::new() };
    ledger
        .entries
        .iter()
        .filter(|entry| {
            entry.end == End::Source
                && entry.outcome == Outcome::Acknowledged
                && entry.invoke > outage.first_on_destination
        })
        .map(|entry| {
            Violation::BothOpen(format!(
                "writer {} began a write on the source at {:?}, the destination took one at {:?}",
                entry.writer, entry.invoke, outage.first_on_destination
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(end: End, outcome: Outcome, second: u64, effects: Vec<Effect>) -> Entry {
        let invoke = Duration::from_secs(second);
        Entry { writer: 1, end, outcome, invoke, complete: invoke + Duration::from_millis(1), effects }
    }

    fn member(token: i64) -> Effect {
        Effect::Member { set: "events".to_owned(), token, copies: 1 }
    }

    fn assign(value: Option<i64>) -> Effect {
        Effect::Assign { register: "r".to_owned(), value }
    }

    /// Two writes on the source, one of unknown outcome that is not there, one
    /// on the destination.
    fn sound() -> (Ledger, FinalState) {
        let identity = Effect::Identity { set: "events".to_owned(), token: 1, id: 70 };
        let ledger = Ledger {
            entries: vec![
                entry(End::Source, Outcome::Acknowledged, 1, vec![member(1), identity, assign(Some(1))]),
                entry(End::Source, Outcome::Unknown, 2, vec![member(2), member(3), assign(Some(2))]),
                entry(End::Destination, Outcome::Acknowledged, 3, vec![member(4)]),
            ],
            ..Ledger::default()
        };
        let state = FinalState {
            members: [1, 4].map(|token| (("events".to_owned(), token), 1)).into(),
            identities: [(("events".to_owned(), 1), 70)].into(),
            registers: [("r".to_owned(), 1)].into(),
            sums: vec![Sum { name: "bank".to_owned(), found: 10, expected: 10 }],
        };
        (ledger, state)
    }

    #[test]
    fn a_sound_run_has_no_violation() {
        let (ledger, state) = sound();
        assert_eq!(check(&ledger, &state), []);
        assert_eq!(ledger.outage().unwrap().length(), Duration::from_secs(2));
    }

    #[test]
    fn a_planted_loss_is_flagged() {
        let (ledger, mut state) = sound();
        state.members.remove(&("events".to_owned(), 1));
        assert!(matches!(check(&ledger, &state)[..], [Violation::Lost(_)]));
    }

    #[test]
    fn a_planted_duplicate_is_flagged() {
        let (ledger, mut state) = sound();
        state.members.insert(("events".to_owned(), 4), 2);
        assert!(matches!(check(&ledger, &state)[..], [Violation::Duplicated(_)]));
    }

    #[test]
    fn a_row_that_nobody_wrote_is_flagged() {
        let (ledger, mut state) = sound();
        state.members.insert(("events".to_owned(), 99), 1);
        assert!(matches!(check(&ledger, &state)[..], [Violation::Invented(_)]));
    }

    #[test]
    fn half_a_transaction_is_flagged() {
        let (ledger, mut state) = sound();
        state.members.insert(("events".to_owned(), 2), 1);
        assert!(matches!(check(&ledger, &state)[..], [Violation::Torn(_)]));
        state.members.insert(("events".to_owned(), 3), 1);
        assert_eq!(check(&ledger, &state), []);
    }

    #[test]
    fn an_old_value_is_flagged() {
        let (mut ledger, mut state) = sound();
        ledger.entries.push(entry(End::Destination, Outcome::Acknowledged, 4, vec![assign(None)]));
        assert!(matches!(check(&ledger, &state)[..], [Violation::WrongValue(_)]));
        state.registers.clear();
        assert_eq!(check(&ledger, &state), []);
    }

    #[test]
    fn an_id_handed_out_twice_is_flagged() {
        let (mut ledger, mut state) = sound();
        let again = Effect::Identity { set: "events".to_owned(), token: 4, id: 70 };
        ledger.entries[2].effects.push(again);
        assert!(matches!(check(&ledger, &state)[..], [Violation::WrongIdentity(_)]));
        state.identities.insert(("events".to_owned(), 1), 71);
        assert_eq!(check(&ledger, &state).len(), 2);
    }

    #[test]
    fn a_changed_sum_is_flagged() {
        let (ledger, mut state) = sound();
        state.sums[0].found = 9;
        assert!(matches!(check(&ledger, &state)[..], [Violation::WrongSum(_)]));
    }

    #[test]
    fn more_changes_of_side_than_were_asked_for_are_flagged() {
        let (mut ledger, mut state) = sound();
        for (second, end) in [(4_i64, End::Source), (5, End::Destination)] {
            let token = second;
            ledger.entries.push(entry(end, Outcome::Acknowledged, second.unsigned_abs(), vec![member(token + 10)]));
            state.members.insert(("events".to_owned(), token + 10), 1);
        }
        assert_eq!(ledger.switches(), 3);
        verdict_after(3, &ledger, &state).unwrap();
        assert!(verdict_after(2, &ledger, &state).unwrap_err().to_string().contains("BothOpen"));
    }

    #[test]
    fn a_source_that_writes_after_the_destination_is_flagged() {
        let (mut ledger, mut state) = sound();
        ledger.entries.push(entry(End::Source, Outcome::Acknowledged, 9, vec![member(5)]));
        state.members.insert(("events".to_owned(), 5), 1);
        assert!(matches!(check(&ledger, &state)[..], [Violation::BothOpen(_)]));
    }
}
