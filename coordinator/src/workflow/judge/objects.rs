//! What differs between two sides beside their rows.

use std::collections::BTreeMap;

use super::super::act::{Digest, RowCounts};
use super::{Counts, sequences};

/// What differs beside rows, as clauses.
#[derive(Debug, Default)]
pub(super) struct ObjectDifferences {
    pub(super) schema: Vec<String>,
    pub(super) sequences: Vec<String>,
}

impl ObjectDifferences {
    pub(super) fn of(counts: Counts<'_>) -> Self {
        Self { schema: schema_differences(counts), sequences: sequences::behind(counts) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.schema.is_empty() && self.sequences.is_empty()
    }
}

/// Every schema object that only one side has, or that is defined otherwise.
fn schema_differences(counts: Counts<'_>) -> Vec<String> {
    let follower = counts.publisher.other();
    let index = |counts: &RowCounts| -> BTreeMap<String, Digest> {
        counts.objects.iter().map(|object| (object.identity.clone(), object.digest.clone())).collect()
    };
    let (ours, theirs) = (index(counts.after), index(counts.there));
    let mut differences: Vec<_> = ours
        .iter()
        .filter_map(|(identity, digest)| match theirs.get(identity) {
            None => Some(format!("{identity} is missing on the {follower}")),
            Some(other) if other != digest => Some(format!("{identity} is defined otherwise on the {follower}")),
            Some(_) => None,
        })
        .collect();
    differences.extend(
        theirs
            .keys()
            .filter(|identity| !ours.contains_key(*identity))
            .map(|identity| format!("{identity} is on the {follower} only")),
    );
    differences
}
