//! Who is in a deadlock cycle with the barrier. Pure.
//!
//! A session that holds a lock on one table and waits for another that the
//! barrier has locked already, while the barrier waits for the first: neither
//! moves until PostgreSQL's deadlock check ends one of them a second later. The
//! barrier cannot afford that second.

use std::collections::{BTreeSet, HashMap};

/// A waiting session and the sessions it waits for.
pub(super) type WaitsFor = HashMap<i32, Vec<i32>>;

/// The sessions that the barrier waits for, directly or not, and that wait for
/// the barrier, directly or not.
pub(super) fn in_cycle_with(barrier: i32, waits_for: &WaitsFor) -> BTreeSet<i32> {
    reachable(barrier, waits_for)
        .into_iter()
        .filter(|&session| session != barrier && reachable(session, waits_for).contains(&barrier))
        .collect()
}

/// Everyone that `from` waits for, directly or not.
fn reachable(from: i32, waits_for: &WaitsFor) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(session) = open.pop() {
        for &blocker in waits_for.get(&session).into_iter().flatten() {
            if found.insert(blocker) {
                open.push(blocker);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(i32, &[i32])]) -> WaitsFor {
        edges.iter().map(|(waiter, blockers)| (*waiter, blockers.to_vec())).collect()
    }

    #[test]
    fn a_plain_wait_is_no_cycle() {
        assert!(in_cycle_with(1, &graph(&[(1, &[2, 3])])).is_empty());
        assert!(in_cycle_with(1, &graph(&[(2, &[1])])).is_empty());
    }

    #[test]
    fn a_direct_cycle_names_the_other() {
        assert_eq!(in_cycle_with(1, &graph(&[(1, &[2]), (2, &[1])])), BTreeSet::from([2]));
    }

    #[test]
    fn a_long_cycle_names_everyone_in_it_and_nobody_else() {
        let waits_for = graph(&[(1, &[2, 9]), (2, &[3]), (3, &[1]), (7, &[1]), (9, &[8])]);
        assert_eq!(in_cycle_with(1, &waits_for), BTreeSet::from([2, 3]));
    }

    #[test]
    fn a_cycle_without_the_barrier_is_not_ours() {
        assert!(in_cycle_with(1, &graph(&[(1, &[2]), (2, &[3]), (3, &[2])])).is_empty());
    }
}
