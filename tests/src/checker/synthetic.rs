//! Long histories that are sound, made without a database, for planting one
//! anomaly among very many writes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{FinalState, Sum};
use crate::ledger::{Effect, End, Entry, Ledger, Outcome, Read};

const WRITERS: u32 = 8;

/// A history with both databases at its end: the one that was reached, and the one
/// that was left in the middle.
pub(super) struct History {
    pub(super) ledger: Ledger,
    pub(super) state: FinalState,
    pub(super) left: FinalState,
}

/// So many writes of eight writers, the second half on the destination.
pub(super) fn history(length: u32, seed: u64) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let sums = vec![Sum { name: "bank".to_owned(), found: 10, expected: 10 }];
    let mut state = FinalState { sums, ..FinalState::default() };
    let (mut ledger, mut left) = (Ledger::default(), FinalState::default());
    for number in 0..length {
        if number == length / 2 {
            left = state.clone();
        }
        let end = if number < length / 2 { End::Source } else { End::Destination };
        let writer = number % WRITERS;
        // Over before the next one of its writer begins, beside those of others.
        let (invoke, complete) = (at(number, 0), at(number, 5));
        let outcome = if random.random_ratio(1, 50) { Outcome::Unknown } else { Outcome::Acknowledged };
        let happened = outcome == Outcome::Acknowledged || random.random();
        let effects = effects(&mut random, number, writer);
        let reads = reads(&mut random, &ledger, &state, writer, invoke);
        if happened {
            apply(&mut state, &effects);
        }
        let reads = if outcome == Outcome::Acknowledged { reads } else { Vec::new() };
        ledger.entries.push(Entry { writer, end, outcome, invoke, complete, effects, reads });
    }
    History { ledger, state, left }
}

/// So many milliseconds after a write began. They begin one millisecond after
/// each other.
fn at(number: u32, milliseconds: u32) -> Duration {
    Duration::from_millis(1 + u64::from(number) + u64::from(milliseconds))
}

fn effects(random: &mut StdRng, number: u32, writer: u32) -> Vec<Effect> {
    let token = i64::from(number);
    let member = |set: String, copies| Effect::Member { set, token, copies };
    match random.random_range(0..6) {
        0 => {
            vec![member("events".to_owned(), 1), Effect::Identity { set: "events".to_owned(), token, id: 1000 + token }]
        }
        1 => vec![member(format!("list {}", random.random_range(0..4)), 1)],
        2 => vec![member("orders".to_owned(), 1), member("items".to_owned(), random.random_range(1..5))],
        3 => vec![Effect::Number { sequence: "tickets".to_owned(), value: 7 * token }],
        4 => vec![Effect::Assign { register: format!("register {writer}"), value: Some(token) }],
        _ => {
            vec![Effect::Assign { register: format!("slot {writer}"), value: random.random::<bool>().then_some(token) }]
        }
    }
}

fn reads(random: &mut StdRng, ledger: &Ledger, state: &FinalState, writer: u32, invoke: Duration) -> Vec<Read> {
    if ledger.entries.is_empty() || random.random_ratio(4, 5) {
        return Vec::new();
    }
    let register = format!("register {writer}");
    let value = state.registers.get(&register).copied();
    let mut reads =
        vec![Read::Register { register, value }, Read::Sum { name: "bank".to_owned(), found: 10, expected: 10 }];
    let earlier = &ledger.entries[random.random_range(0..ledger.entries.len())];
    for effect in &earlier.effects {
        if let Effect::Member { set, token, .. } = effect {
            let found = state.copies(set, *token) > 0;
            // What is still under way may be seen or not.
            let found = found && (earlier.complete <= invoke || random.random());
            reads.push(Read::Member { set: set.clone(), token: *token, found });
        }
    }
    reads
}

fn apply(state: &mut FinalState, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Member { set, token, copies } => {
                state.members.entry(set.clone()).or_default().insert(*token, *copies);
                if set.starts_with("list") {
                    state.lists.entry(set.clone()).or_default().push(*token);
                }
            }
            Effect::Identity { set, token, id } => {
                state.identities.entry(set.clone()).or_default().insert(*token, *id);
            }
            Effect::Number { .. } => {}
            Effect::Assign { register, value: Some(value) } => {
                state.registers.insert(register.clone(), *value);
            }
            Effect::Assign { register, value: None } => {
                state.registers.remove(register);
            }
        }
    }
}
