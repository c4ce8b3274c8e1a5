//! Whether sequences in use are behind those that were.
//!
//! Behind a cutover the side that was left rests, and every value that it ever
//! handed out lies at or before where its sequences stand. A sequence in use that
//! is behind such a place hands out values for a second time. Ahead of it is where
//! it belongs: values are not equal by nature, as rows are.

use std::collections::BTreeMap;

use pgportage_link::Failure;
use pgportage_proto::Reason;

use super::super::Side;
use super::super::act::SequencePlace;
use super::{Counts, counted};

/// One clause for each sequence of the side in use that is behind the other one's, or
/// gone. Empty where nobody asked for sequences.
pub(super) fn behind(counts: Counts<'_>) -> Vec<String> {
    let (publisher, follower) = (counts.publisher, counts.publisher.other());
    let in_use: BTreeMap<_, _> = counts.after.sequences.iter().map(|place| (&place.state.sequence, place)).collect();
    let resting = counts.there.sequences.iter();
    resting
        .filter_map(|rests| {
            let (name, value) = (&rests.state.sequence, rests.state.last_value);
            let used = in_use.get(name)?;
            is_behind(used, rests).then(|| {
                format!(
                    "sequence {name} stands at {} on the {publisher}, behind {value} on the {follower}",
                    used.state.last_value
                )
            })
        })
        .collect()
}

/// A sequence that was never called hands its `last_value` out first.
fn is_behind(used: &SequencePlace, rests: &SequencePlace) -> bool {
    let next = |place: &SequencePlace| {
        let towards = if place.descending { -1 } else { 1 };
        towards * (i128::from(place.state.last_value) + if place.state.called { towards } else { 0 })
    };
    rests.state.called && next(used) < next(rests)
}

/// Why the migration waits, where nothing else differs.
pub(super) fn failure(behind: usize, publisher: Side) -> Failure {
    let message = format!("{} on the {publisher} would hand out values again", counted(behind, "sequence"));
    Failure::new(Reason::SequencesBehind, message)
        .hint(format!("Set each on the {publisher} with setval() to a value that is not in use; then verify again."))
}

#[cfg(test)]
mod tests {
    use super::super::super::act::sequence::SequenceState;
    use super::super::super::act::{RelationName, RowCounts};
    use super::*;

    fn place(relation: &str, last_value: i64, called: bool, descending: bool) -> SequencePlace {
        let sequence = RelationName { schema: "public".to_owned(), relation: relation.to_owned() };
        SequencePlace { state: SequenceState { sequence, last_value, called }, descending }
    }

    fn found(used: SequencePlace, rests: SequencePlace) -> Vec<String> {
        let counts = |sequence| RowCounts { sequences: vec![sequence], ..RowCounts::default() };
        let (after, there) = (counts(used), counts(rests));
        behind(Counts { publisher: Side::Destination, before: &RowCounts::default(), there: &there, after: &after })
    }

    #[test]
    fn a_value_is_never_handed_out_twice() {
        // (in use, at rest, descending, behind)
        for (used, rests, descending, expected) in [
            ((10, true), (10, true), false, false),
            ((500, true), (10, true), false, false),
            ((9, true), (10, true), false, true),
            ((10, false), (10, true), false, true),
            ((11, false), (10, true), false, false),
            ((1, false), (1, false), false, false),
            ((i64::MIN, true), (i64::MAX, true), false, true),
            ((-10, true), (-10, true), true, false),
            ((-9, true), (-10, true), true, true),
            ((-10, false), (-10, true), true, true),
            ((-500, true), (-10, true), true, false),
        ] {
            let [used, rests] = [used, rests].map(|(value, called)| place("ids", value, called, descending));
            assert_eq!(!found(used.clone(), rests.clone()).is_empty(), expected, "{used:?} {rests:?}");
        }
    }

    #[test]
    fn what_is_behind_is_told_with_both_values() {
        assert_eq!(
            found(place("order", 9, true, false), place("order", 10, true, false)),
            ["sequence public.\"order\" stands at 9 on the destination, behind 10 on the source"]
        );
        let gone = found(place("other", 9, true, false), place("ids", 10, true, false));
        assert!(gone.is_empty(), "a schema object, and told as one: {gone:?}");
    }
}
