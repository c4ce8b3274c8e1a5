//! What must hold between the two sides.

use super::{FinalState, Violation};
use crate::ledger::{Epoch, Ledger};

/// Nothing that began on the side that was left, after the other side's first
/// answer, was acknowledged.
pub(super) fn turns(ledger: &Ledger) -> Vec<Violation> {
    ledger.epochs().iter().flat_map(overlap).collect()
}

fn overlap(epoch: &Epoch<'_>) -> Vec<Violation> {
    let Some(arrival) = epoch.arrival() else { return Vec::new() };
    let late = epoch.entries.iter().filter(|entry| entry.end == epoch.home && entry.invoke > arrival);
    late.map(|entry| {
        Violation::BothOpen(format!(
            "writer {} began on the {} at {:?}, the {} had answered at {arrival:?}",
            entry.writer,
            entry.end.as_str(),
            entry.invoke,
            entry.end.other().as_str()
        ))
    })
    .collect()
}

/// Whatever is on the side that was left is on the other one as well. Rows of
/// sets are never deleted, so what is missing was committed behind the drain.
pub(super) fn stranded(state: &FinalState, left: &FinalState) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (set, tokens) in &left.members {
        for (token, copies) in tokens {
            let arrived = state.copies(set, *token);
            if arrived < *copies {
                violations.push(Violation::Stranded(format!("{token} of {set}: {arrived} of {copies} arrived")));
            }
        }
    }
    violations
}
