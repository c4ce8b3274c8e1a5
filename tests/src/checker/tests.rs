use std::time::Duration;

use proptest::prelude::*;

use super::synthetic::{History, history};
use super::*;
use crate::ledger::{Effect, End, Entry, Outcome, Read};

fn entry(end: End, outcome: Outcome, second: u64, effects: Vec<Effect>) -> Entry {
    let invoke = Duration::from_secs(second);
    let complete = invoke + Duration::from_millis(1);
    Entry { writer: 1, end, outcome, invoke, complete, effects, reads: Vec::new() }
}

fn member(token: i64) -> Effect {
    Effect::Member { set: "events".to_owned(), token, copies: 1 }
}

fn assign(value: Option<i64>) -> Effect {
    Effect::Assign { register: "r".to_owned(), value }
}

fn events(tokens: &[i64]) -> HashMap<String, HashMap<i64, i64>> {
    [("events".to_owned(), tokens.iter().map(|token| (*token, 1)).collect())].into()
}

/// Two writes on the source, one of unknown outcome that is not there, one on the
/// destination.
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
        members: events(&[1, 4]),
        identities: [("events".to_owned(), [(1, 70)].into())].into(),
        lists: HashMap::new(),
        registers: [("r".to_owned(), 1)].into(),
        sums: vec![Sum { name: "bank".to_owned(), found: 10, expected: 10 }],
    };
    (ledger, state)
}

/// A later transaction on the destination that only looked.
fn looked(second: u64, read: Read) -> Entry {
    Entry { reads: vec![read], ..entry(End::Destination, Outcome::Acknowledged, second, Vec::new()) }
}

#[test]
fn a_sound_run_has_no_violation() {
    let (ledger, state) = sound();
    assert_eq!(check_both(1, &ledger, &state, &FinalState { members: events(&[1]), ..state.clone() }), []);
    assert_eq!(ledger.outage().unwrap().length(), Duration::from_secs(2));
}

#[test]
fn a_planted_loss_is_flagged() {
    let (ledger, mut state) = sound();
    state.members = events(&[4]);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Lost(_)]));
}

#[test]
fn a_planted_duplicate_is_flagged() {
    let (ledger, mut state) = sound();
    state.members.get_mut("events").unwrap().insert(4, 2);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Duplicated(_)]));
}

#[test]
fn a_row_that_nobody_wrote_is_flagged() {
    let (ledger, mut state) = sound();
    state.members = events(&[1, 4, 99]);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Invented(_)]));
}

#[test]
fn half_a_transaction_is_flagged() {
    let (ledger, mut state) = sound();
    state.members = events(&[1, 2, 4]);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Torn(_)]));
    state.members = events(&[1, 2, 3, 4]);
    assert_eq!(check(1, &ledger, &state), []);
}

#[test]
fn an_old_value_is_flagged() {
    let (mut ledger, mut state) = sound();
    ledger.entries.push(entry(End::Destination, Outcome::Acknowledged, 4, vec![assign(Some(5))]));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::WrongValue(_)]));
    state.registers.insert("r".to_owned(), 5);
    assert_eq!(check(1, &ledger, &state), []);
}

#[test]
fn a_row_that_came_back_is_flagged() {
    let (mut ledger, mut state) = sound();
    ledger.entries.push(entry(End::Destination, Outcome::Acknowledged, 4, vec![assign(None)]));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Resurrected(_)]));
    state.registers.clear();
    assert_eq!(check(1, &ledger, &state), []);
}

#[test]
fn an_id_handed_out_twice_is_flagged() {
    let (mut ledger, mut state) = sound();
    let again = Effect::Identity { set: "events".to_owned(), token: 4, id: 70 };
    ledger.entries[2].effects.push(again);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::WrongIdentity(_)]));
    state.identities.get_mut("events").unwrap().insert(1, 71);
    assert_eq!(check(1, &ledger, &state).len(), 2);
}

#[test]
fn a_number_handed_out_on_both_sides_is_flagged() {
    let (mut ledger, state) = sound();
    let number = || Effect::Number { sequence: "tickets".to_owned(), value: 7 };
    ledger.entries[0].effects.push(number());
    // No writer was told that one.
    ledger.entries[1].effects.push(number());
    assert_eq!(check(1, &ledger, &state), []);
    ledger.entries[2].effects.push(number());
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::WrongIdentity(_)]));
}

#[test]
fn a_changed_sum_is_flagged_at_the_end_and_in_any_snapshot() {
    let (mut ledger, mut state) = sound();
    ledger.entries.push(looked(4, Read::Sum { name: "bank".to_owned(), found: 11, expected: 10 }));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::WrongSum(_)]));
    state.sums[0].found = 9;
    assert_eq!(check(1, &ledger, &state).len(), 2);
}

#[test]
fn a_list_out_of_order_is_flagged() {
    let (mut ledger, mut state) = sound();
    state.lists = [("events".to_owned(), vec![1, 4])].into();
    assert_eq!(check(1, &ledger, &state), []);
    state.lists = [("events".to_owned(), vec![4, 1])].into();
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Reordered(_)]));
    // At the same time, either may be first.
    ledger.entries[0].complete = Duration::from_secs(4);
    assert!(!check(1, &ledger, &state).iter().any(|violation| matches!(violation, Violation::Reordered(_))));
}

#[test]
fn a_stale_register_is_flagged() {
    let (mut ledger, state) = sound();
    for value in [Some(1), Some(2)] {
        ledger.entries.push(looked(4, Read::Register { register: "r".to_owned(), value }));
    }
    assert_eq!(check(1, &ledger, &state), [], "the unknown write may have happened or not");
    ledger.entries.push(looked(4, Read::Register { register: "r".to_owned(), value: None }));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::StaleRead(_)]));
}

#[test]
fn a_read_that_misses_an_acknowledged_write_is_flagged() {
    let read = |token, found| Read::Member { set: "events".to_owned(), token, found };
    let (mut ledger, state) = sound();
    ledger.entries.extend([looked(4, read(1, true)), looked(4, read(2, false))]);
    // One that began before the write had ended.
    ledger.entries.push(Entry { invoke: Duration::from_secs(1), ..looked(4, read(1, false)) });
    assert_eq!(check(1, &ledger, &state), []);
    ledger.entries.push(looked(4, read(1, false)));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::StaleRead(_)]));
    ledger.entries.pop();
    ledger.entries.push(looked(4, read(2, true)));
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Lost(_)]), "seen once, and gone");
}

#[test]
fn a_write_that_stayed_behind_is_flagged_though_nobody_was_told() {
    let (ledger, state) = sound();
    let left = FinalState { members: events(&[1, 2, 3]), ..FinalState::default() };
    assert_eq!(check(1, &ledger, &state), []);
    assert!(matches!(check_both(1, &ledger, &state, &left)[..], [Violation::Stranded(_), Violation::Stranded(_)]));
}

#[test]
fn a_side_that_writes_after_the_other_is_flagged() {
    let (mut ledger, mut state) = sound();
    ledger.entries.push(entry(End::Destination, Outcome::Acknowledged, 6, vec![member(6)]));
    ledger.entries.push(entry(End::Source, Outcome::Acknowledged, 9, vec![member(5)]));
    state.members = events(&[1, 4, 5, 6]);
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::BothOpen(_)]));
    // Unless a rollback was asked for in between; then not a third time.
    assert_eq!(check(2, &ledger, &state), []);
    let lengths: Vec<_> = ledger.outages().iter().map(|outage| (outage.left, outage.length())).collect();
    assert_eq!(lengths, [(End::Source, Duration::from_secs(2)), (End::Destination, Duration::from_secs(3))]);
    ledger.entries.push(entry(End::Destination, Outcome::Acknowledged, 10, vec![]));
    assert!(matches!(check(2, &ledger, &state)[..], [Violation::BothOpen(_)]));
    assert_eq!(check(3, &ledger, &state), []);
    // Where no writer has written yet, no outage can be measured.
    assert_eq!((ledger.switches(), ledger.outages().len()), (3, 2));
}

/// What one row may suffer.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Lost,
    Duplicated,
    Altered,
}

/// Plants one anomaly at the first suitable write from a place on, and says
/// whether the checker flags nothing else.
fn flagged(history: &History, harm: Harm, place: usize) -> bool {
    let mut state = history.state.clone();
    let acknowledged = history.ledger.entries[place..].iter().filter(|entry| entry.outcome == Outcome::Acknowledged);
    let (set, token) = acknowledged
        .flat_map(|entry| &entry.effects)
        .find_map(|effect| match effect {
            Effect::Identity { set, token, .. } => Some((set, *token)),
            _ => None,
        })
        .unwrap();
    let before = match harm {
        Harm::Lost => state.members.get_mut(set).unwrap().remove(&token),
        Harm::Duplicated => state.members.get_mut(set).unwrap().insert(token, 2),
        Harm::Altered => state.identities.get_mut(set).unwrap().insert(token, -1),
    };
    assert!(before.is_some());
    // What was left in the middle may have had the row.
    let found = check_both(1, &history.ledger, &state, &history.left);
    let rest = found.iter().filter(|violation| !matches!(violation, Violation::Stranded(_))).collect::<Vec<_>>();
    match harm {
        Harm::Lost => matches!(rest[..], [Violation::Lost(_)]),
        Harm::Duplicated => matches!(rest[..], [Violation::Duplicated(_)]),
        Harm::Altered => matches!(rest[..], [Violation::WrongIdentity(_)]),
    }
}

fn one_row_among(length: u32) {
    let history = history(length, 20_261_122);
    assert_eq!(check_both(1, &history.ledger, &history.state, &history.left), []);
    for (harm, place) in [(Harm::Lost, 7), (Harm::Duplicated, length / 2), (Harm::Altered, length - 100)] {
        assert!(flagged(&history, harm, place as usize), "{harm:?} from {place} on");
    }
}

#[test]
fn one_row_among_a_hundred_thousand_is_flagged() {
    one_row_among(100_000);
}

#[test]
#[ignore = "make test-all"]
fn one_row_among_a_million_is_flagged() {
    one_row_among(1_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_one_row_is_flagged_and_nothing_else(
        seed: u64,
        place in 0_usize..300,
        harm in prop_oneof![Just(Harm::Lost), Just(Harm::Duplicated), Just(Harm::Altered)],
    ) {
        let history = history(400, seed);
        prop_assert_eq!(check_both(1, &history.ledger, &history.state, &history.left), []);
        prop_assert!(flagged(&history, harm, place));
    }

    /// Two neighbours in a list that were not written at the same time.
    #[test]
    fn any_reordering_is_flagged(seed: u64, place in 0.0..1.0) {
        let mut history = history(400, seed);
        let (_, list) = history.state.lists.iter_mut().max_by_key(|(_, list)| list.len()).unwrap();
        let place = (place * (list.len() - 1) as f64) as usize;
        // Tokens are times.
        prop_assume!(list[place + 1] - list[place] > 5);
        list.swap(place, place + 1);
        let written = |token: &i64| {
            history.ledger.entries[usize::try_from(*token).unwrap()].outcome == Outcome::Acknowledged
        };
        prop_assume!(written(&list[place]) && written(&list[place + 1]));
        let found = check_both(1, &history.ledger, &history.state, &history.left);
        prop_assert!(matches!(found[..], [Violation::Reordered(_), ..]), "{found:?}");
    }
}
