//! What must hold between the two sides.

use super::{FinalState, Violation};
use crate::ledger::Ledger;

/// The writers saw no more changes of side than were asked for: nothing that began
/// on the side that was left, after the other side's first answer, was acknowledged.
pub(super) fn turns(switches: usize, ledger: &Ledger) -> Vec<Violation> {
    let answers = ledger.first_answers();
    let changes = answers.iter().zip(answers.iter().skip(1)).skip(switches);
    changes
        .map(|(before, entry)| {
            Violation::BothOpen(format!(
                "writer {} began on the {} at {:?}, the {} had answered at {:?}; {switches} changes of side were asked for",
                entry.writer,
                entry.end.as_str(),
                entry.invoke,
                before.end.as_str(),
                before.complete
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
