//! Parts of tables, and what is known of their rows.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, Sub};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::table::ComparedTable;

/// How rows are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// By the server's own functions: fast, and the same on servers that give the
    /// same answers to the probe.
    Native,
    /// By SHA-256 of a row's text in UTF-8, which is the same everywhere.
    Portable,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The table, as both sides know it.
    pub table: Arc<ComparedTable>,
    /// How rows are hashed.
    pub hashing: Hashing,
    /// Which of its rows.
    pub which: Which,
}

/// Which rows of a table a part holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Rows from one key (without one: from the beginning) up to another (without one: to the end).
    Range {
        /// The first key that belongs to the part.
        first: Option<RowKey>,
        /// The first key that no longer belongs to it.
        end: Option<RowKey>,
    },
    /// The rows with these keys.
    Keys(Vec<RowKey>),
    /// The rows whose hash falls into the named buckets; where none is named, into any.
    Buckets {
        /// How many buckets there are: a power of two.
        count: i64,
        /// The numbers of the buckets that are wanted.
        only: Vec<i64>,
    },
}

impl Which {
    /// Every row.
    pub const ALL: Self = Self::Range { first: None, end: None };
}

/// A row's key, as texts; of a table without one, the two halves of its hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey(pub Vec<String>);

/// The sum of the hashes of rows, and how many rows it sums.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// How many rows.
    pub row_count: i64,
    /// The sums of both halves of their hashes.
    pub sums: [i128; 2],
}

impl Digest {
    /// The sums as bytes, for a message that passes them on.
    pub fn bytes(&self) -> Vec<u8> {
        self.sums.iter().flat_map(|sum| sum.to_be_bytes()).collect()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {:032x} {:032x}", self.row_count, self.sums[0], self.sums[1])
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        self.row_count = self.row_count.saturating_add(other.row_count);
        for (sum, other) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.wrapping_add(other);
        }
    }
}

impl Sub for Digest {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            row_count: self.row_count.saturating_sub(other.row_count),
            sums: [0, 1].map(|half| self.sums[half].wrapping_sub(other.sums[half])),
        }
    }
}

/// What a server answers about a part, or about one bucket of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartDigest {
    /// The part's place in the question.
    pub part: usize,
    /// The bucket's number. Zero where the part has no buckets.
    pub bucket: i64,
    /// Its rows.
    pub digest: Digest,
    /// Bytes of text that were hashed.
    pub size_bytes: i64,
    /// In the order of this server, the part's end comes before its beginning.
    pub disordered: bool,
}

/// One row; of a table without a key, all rows that are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowHash {
    /// Its key.
    pub key: RowKey,
    /// Its hash; of a table without a key, how many rows are equal.
    pub hash: [i64; 2],
    /// Changes with every change of the row.
    pub version: String,
}

/// One row with its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowContent {
    /// Its key.
    pub key: RowKey,
    /// Its columns as texts, in the order of the table's columns.
    pub values: Vec<Option<String>>,
}

/// The keys of the rows in which two sorted lists differ, sorted.
pub fn differing(here: &[RowHash], there: &[RowHash]) -> Vec<RowKey> {
    let by_key = |rows: &[RowHash]| -> BTreeMap<RowKey, [i64; 2]> {
        rows.iter().map(|row| (row.key.clone(), row.hash)).collect()
    };
    let (here, there) = (by_key(here), by_key(there));
    let mut keys: Vec<RowKey> =
        here.iter().filter(|(key, hash)| there.get(*key) != Some(*hash)).map(|(key, _)| key.clone()).collect();
    keys.extend(there.keys().filter(|key| !here.contains_key(*key)).cloned());
    keys.sort();
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(key: i64, hash: i64) -> RowHash {
        RowHash { key: RowKey(vec![key.to_string()]), hash: [hash, 0], version: String::new() }
    }

    proptest! {
        /// Whatever two lists hold, exactly the keys are named whose rows differ.
        #[test]
        fn the_difference_is_exact(
            here in prop::collection::btree_map(0_i64..40, 0_i64..3, 0..40),
            there in prop::collection::btree_map(0_i64..40, 0_i64..3, 0..40),
        ) {
            let list = |map: &BTreeMap<i64, i64>| map.iter().map(|(key, hash)| row(*key, *hash)).collect::<Vec<_>>();
            let found = differing(&list(&here), &list(&there));
            for key in 0..40 {
                let named = found.contains(&RowKey(vec![key.to_string()]));
                prop_assert_eq!(named, here.get(&key) != there.get(&key));
            }
        }

        /// A digest is the same however the rows are dealt into parts.
        #[test]
        fn digests_add_up(hashes in prop::collection::vec(any::<[i64; 2]>(), 0..50), cut in 0_usize..50) {
            let digest = |rows: &[[i64; 2]]| {
                let mut sum = Digest::default();
                for row in rows {
                    sum += Digest { row_count: 1, sums: row.map(i128::from) };
                }
                sum
            };
            let (left, right) = hashes.split_at(cut.min(hashes.len()));
            let mut both = digest(right);
            both += digest(left);
            prop_assert_eq!(both, digest(&hashes));
            prop_assert_eq!(both - digest(left), digest(right));
        }
    }
}
