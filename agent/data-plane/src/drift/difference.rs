//! What differs between two lists of schema objects. Pure.

use std::collections::BTreeMap;

use pgportage_postgres::catalog::SchemaObject;
use pgportage_report::drift::{Change, DriftedObject};

/// The schema of the publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Its objects, sorted by identity.
    pub objects: Vec<SchemaObject>,
    /// Tables that its publication does not hold, as identities.
    pub unpublished: Vec<String>,
}

/// How objects differ, by their identities.
pub type Differences = BTreeMap<String, Change>;

/// What differs, tables first: a table that differs may stop the stream.
#[must_use]
pub fn by_urgency(differences: &Differences) -> Vec<DriftedObject> {
    let object = |(identity, change): (&String, &Change)| DriftedObject { identity: identity.clone(), change: *change };
    let mut objects: Vec<_> = differences.iter().map(object).collect();
    // A stable sort: otherwise in the order of their identities.
    objects.sort_by_key(|object| (!object.identity.starts_with("table "), object.change));
    objects
}

/// Every object that is not the same on both sides. Empty when both schemas are equal.
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
    // Whether or not the operator made the table on the other side as well.
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

    #[test]
    fn tables_are_told_first() {
        let differences = Differences::from([
            ("index public.a".to_owned(), Change::Different),
            ("table public.b".to_owned(), Change::Extra),
            ("table public.c".to_owned(), Change::NotReplicated),
            ("view public.d".to_owned(), Change::Different),
        ]);
        let told: Vec<_> = by_urgency(&differences).into_iter().map(|object| object.identity).collect();
        assert_eq!(told, ["table public.c", "table public.b", "index public.a", "view public.d"]);
    }
}
