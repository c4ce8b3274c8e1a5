//! What differs between two lists of schema objects. Pure.

use std::collections::BTreeMap;

use crate::postgres::catalog::SchemaObject;

/// How an object differs. Seen from the side that follows: it is that side which
/// lacks what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A table that came after the publication: its rows do not travel.
    NotReplicated,
    /// Both have it, defined otherwise.
    Different,
    /// The side that follows does not have it.
    Missing,
    /// Only the side that follows has it.
    Extra,
}

/// The schema of the side that publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Its objects, sorted by identity.
    pub objects: Vec<SchemaObject>,
    /// Tables that its publication does not hold, as identities.
    pub unpublished: Vec<String>,
}

/// How objects differ, by their identities.
pub type Differences = BTreeMap<String, Change>;

/// Every object that is not the same on both sides. Empty: both are level.
#[must_use]
pub fn compare(published: &Published, followed: &[SchemaObject]) -> Differences {
    let index = |objects: &[SchemaObject]| -> BTreeMap<String, [u8; 32]> {
        objects.iter().map(|object| (object.identity.clone(), object.digest)).collect()
    };
    let (theirs, ours) = (index(&published.objects), index(followed));
    let lacking = theirs.iter().filter_map(|(identity, digest)| match ours.get(identity) {
        None => Some((identity.clone(), Change::Missing)),
        Some(other) if other != digest => Some((identity.clone(), Change::Different)),
        Some(_) => None,
    });
    let extra = ours.keys().filter(|identity| !theirs.contains_key(*identity));
    let mut differences: Differences = lacking.chain(extra.map(|identity| (identity.clone(), Change::Extra))).collect();
    // Whether or not it was made on the other side as well.
    differences.extend(published.unpublished.iter().map(|identity| (identity.clone(), Change::NotReplicated)));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(list: &[(&str, u8)]) -> Vec<SchemaObject> {
        list.iter()
            .map(|(identity, digest)| SchemaObject { identity: (*identity).to_owned(), digest: [*digest; 32] })
            .collect()
    }

    #[test]
    fn every_object_that_is_not_the_same_is_named_once() {
        let published = Published {
            objects: objects(&[("a", 1), ("b", 1), ("c", 1), ("late", 1), ("twice", 1)]),
            unpublished: vec!["late".to_owned(), "twice".to_owned()],
        };
        let differences = compare(&published, &objects(&[("a", 1), ("b", 2), ("d", 1), ("twice", 1)]));
        assert_eq!(
            differences.into_iter().collect::<Vec<_>>(),
            [
                ("b".to_owned(), Change::Different),
                ("c".to_owned(), Change::Missing),
                ("d".to_owned(), Change::Extra),
                ("late".to_owned(), Change::NotReplicated),
                ("twice".to_owned(), Change::NotReplicated),
            ]
        );
        assert!(compare(&Published::default(), &[]).is_empty());
    }
}
