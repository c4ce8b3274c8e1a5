//! Decides whose statements must be cancelled so that the barrier can be granted. Pure.
//!
//! A cycle: a session holds a lock on one table and waits for another table that the barrier has locked
//! already, while the barrier needs the first. Neither moves until PostgreSQL's deadlock check ends one of
//! them a second later. The barrier cannot afford that second. Nor can it afford to meet these cycles one
//! after the other, table by table: a session that waits for the barrier now and holds a lock that the
//! barrier will need later is in a cycle already.

use std::collections::{BTreeSet, HashMap};

/// Each waiting session, with the sessions that it waits for.
pub(super) type WaitsFor = HashMap<i32, Vec<i32>>;

/// The sessions that wait for the barrier directly and for which the barrier waits or will wait, directly
/// or not. Cancelling their statements breaks every cycle, and no session that could go on by itself is
/// among them.
///
/// `waits_for` has the barrier's own entry: every session that holds a lock which the barrier still needs.
pub(super) fn victims(barrier: i32, waits_for: &WaitsFor) -> BTreeSet<i32> {
    reachable(barrier, waits_for)
        .into_iter()
        .filter(|session| {
            *session != barrier && waits_for.get(session).is_some_and(|blockers| blockers.contains(&barrier))
        })
        .collect()
}

/// Every session that `from` waits for, directly or not.
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
        assert!(victims(1, &graph(&[(1, &[2, 3])])).is_empty());
        assert!(victims(1, &graph(&[(2, &[1])])).is_empty());
    }

    #[test]
    fn a_direct_cycle_names_the_other() {
        assert_eq!(victims(1, &graph(&[(1, &[2]), (2, &[1])])), BTreeSet::from([2]));
    }

    #[test]
    fn of_a_long_cycle_only_the_one_that_waits_for_the_barrier_is_cancelled() {
        let waits_for = graph(&[(1, &[2, 9]), (2, &[3]), (3, &[1]), (7, &[1]), (9, &[8])]);
        assert_eq!(victims(1, &waits_for), BTreeSet::from([3]));
    }

    #[test]
    fn a_cycle_without_the_barrier_is_not_ours() {
        assert!(victims(1, &graph(&[(1, &[2]), (2, &[3]), (3, &[2])])).is_empty());
    }
}
