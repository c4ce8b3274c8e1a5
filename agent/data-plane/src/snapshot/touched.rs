//! Which rows were touched between two snapshots. Pure.
//!
//! **Invariant:** a row that is not among the touched ones is the same in both snapshots. Each change names
//! the identity of the old row and of the new row. Where one of them is not known for certain, the whole
//! table counts as unknown.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use super::pgoutput::{self, Message, Row};
use super::tables::Published;

/// Copying a smaller table again takes no longer.
const SMALLEST_TABLE: i64 = 1 << 20;
/// Most touched rows of one table; with more it is copied again. Each costs the source a look into an
/// index, and one statement names them all.
const MOST_KEYS: usize = 20_000;
/// Memory for the keys of all tables together.
const MOST_BYTES: usize = 8 << 20;
/// Memory for a key and for each of its values, beside their text.
const KEY_BYTES: usize = 64;

/// The identity of a row: a text for each column of the table's replica identity.
pub(super) type Key = Vec<String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// No row was touched.
    None,
    /// Only rows with these keys were touched.
    Keys(BTreeSet<Key>),
    /// Too many rows were touched, or it is not certain which.
    Unknown,
}

pub(super) struct Touched {
    tables: HashMap<u32, Table>,
    bytes: usize,
}

struct Table {
    /// The columns that identify a row. Empty where none do, or where none are needed.
    key: Vec<String>,
    /// Where these columns are in a row, once the stream has described the relation.
    positions: Vec<usize>,
    difference: Difference,
    bytes: usize,
}

impl fmt::Debug for Touched {
    /// Shows no keys: they hold values of rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Touched").field("tables", &self.tables.len()).field("bytes", &self.bytes).finish()
    }
}

impl Touched {
    /// No row was touched yet.
    pub(super) fn new(tables: &[Published]) -> Self {
        let table = |published: &Published| Table {
            key: if published.table.size_bytes < SMALLEST_TABLE { Vec::new() } else { published.table.key.clone() },
            positions: Vec::new(),
            difference: Difference::None,
            bytes: 0,
        };
        Self { tables: tables.iter().map(|published| (published.oid, table(published))).collect(), bytes: 0 }
    }

    pub(super) fn difference(&self, oid: u32) -> &Difference {
        self.tables.get(&oid).map_or(&Difference::Unknown, |table| &table.difference)
    }

    /// The keys of the rows of a table that were touched.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`] when they are not known: the destination agent was never told that they
    /// are.
    pub(super) fn keys(&self, published: &Published) -> Result<&BTreeSet<Key>, Failure> {
        match self.difference(published.oid) {
            Difference::Keys(keys) => Ok(keys),
            Difference::None | Difference::Unknown => {
                Err(Failure::new(Reason::RequestInvalid, "it is not known that some rows of this table were touched")
                    .effect(Effect::None)
                    .with("field", "selection"))
            }
        }
    }

    /// Takes one message of the stream between the snapshots into account. The message may be cut.
    pub(super) fn take(&mut self, message: &[u8]) {
        match pgoutput::read(message) {
            Ok(Message::Other) => {}
            Ok(Message::Relation(relation)) => {
                if let Some(table) = self.tables.get_mut(&relation.relation) {
                    table.positions = positions(&table.key, &relation.columns);
                }
            }
            Ok(Message::Insert { relation, new }) => self.touch(relation, &[new], None),
            Ok(Message::Update { relation, old: Some(old), new }) => {
                self.touch(relation, &[old.clone(), new], Some(&old))
            }
            // Without an old row, the identity did not change.
            Ok(Message::Update { relation, old: None, new }) => self.touch(relation, &[new], None),
            Ok(Message::Delete { relation, old }) => self.touch(relation, &[old], None),
            Ok(Message::Truncate { relations }) => relations.into_iter().for_each(|relation| self.give_up(relation)),
            Err(unreadable) => match unreadable.relation {
                Some(relation) => self.give_up(relation),
                None => self.give_everything_up(),
            },
        }
    }

    fn touch(&mut self, relation: u32, rows: &[Row<'_>], old: Option<&Row<'_>>) {
        // A table that is no longer published is not copied either.
        let Some(table) = self.tables.get_mut(&relation) else { return };
        let before = table.bytes;
        for row in rows {
            table.touch(row, old);
        }
        self.bytes = self.bytes - before + table.bytes;
        while self.bytes > MOST_BYTES {
            let Some((&largest, _)) = self.tables.iter().max_by_key(|(_, table)| table.bytes) else { return };
            self.give_up(largest);
        }
    }

    fn give_up(&mut self, relation: u32) {
        if let Some(table) = self.tables.get_mut(&relation) {
            self.bytes -= table.bytes;
            table.give_up();
        }
    }

    fn give_everything_up(&mut self) {
        self.tables.values_mut().for_each(Table::give_up);
        self.bytes = 0;
    }
}

impl Table {
    fn touch(&mut self, row: &Row<'_>, old: Option<&Row<'_>>) {
        if self.difference == Difference::Unknown {
            return;
        }
        let Some(key) = self.key_of(row, old) else { return self.give_up() };
        let bytes: usize = KEY_BYTES + key.iter().map(|text| text.len() + KEY_BYTES).sum::<usize>();
        if self.difference == Difference::None {
            self.difference = Difference::Keys(BTreeSet::new());
        }
        let Difference::Keys(keys) = &mut self.difference else { return };
        if keys.insert(key) {
            self.bytes += bytes;
        }
        if keys.len() > MOST_KEYS {
            self.give_up();
        }
    }

    /// The identity of a row, if every part of it was received.
    fn key_of(&self, row: &Row<'_>, old: Option<&Row<'_>>) -> Option<Key> {
        if self.positions.is_empty() {
            return None;
        }
        let text = |&position: &usize| match row.text(position) {
            None if row.is_unchanged(position) => old?.text(position),
            text => text,
        };
        self.positions.iter().map(|position| text(position).map(str::to_owned)).collect()
    }

    fn give_up(&mut self) {
        self.difference = Difference::Unknown;
        self.bytes = 0;
    }
}

/// Where a row has the key's columns. Empty when the table had another identity at the time of the change.
fn positions(key: &[String], columns: &[pgoutput::Column]) -> Vec<usize> {
    let identifying = columns.iter().filter(|column| column.identifies).count();
    let position = |name: &String| columns.iter().position(|column| column.identifies && column.name == *name);
    let positions: Option<Vec<usize>> = key.iter().map(position).collect();
    positions.filter(|positions| positions.len() == identifying).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pgoutput::tests::{Sent, change, relation, truncate};
    use super::super::tables::SnapshotTable;
    use super::*;
    use pgportage_postgres::RelationName;

    fn published(oid: u32, size_bytes: i64, key: &[&str]) -> Published {
        Published {
            oid,
            file: 1,
            key_types: Vec::new(),
            table: SnapshotTable {
                name: RelationName::new("public", format!("t{oid}")),
                columns: vec!["id".to_owned(), "v".to_owned()],
                binary: true,
                block_count: size_bytes / 8192,
                size_bytes,
                row_estimate: 0,
                identity: "1".to_owned(),
                key: key.iter().map(|&name| name.to_owned()).collect(),
            },
        }
    }

    fn keys(touched: &Touched, oid: u32) -> Vec<String> {
        match touched.difference(oid) {
            Difference::Keys(keys) => keys.iter().map(|key| key.join("|")).collect(),
            other => panic!("{other:?}"),
        }
    }

    const LARGE: i64 = 1 << 30;

    #[test]
    fn every_change_names_what_it_leaves_and_what_it_makes() {
        let mut touched = Touched::new(&[published(1, LARGE, &["id"]), published(2, LARGE, &["id"])]);
        touched.take(&relation(1, &[("id", true), ("v", false)]));
        touched.take(&change(b'I', 1, &[(b'N', &[Sent::Text("1"), Sent::Text("a")])]));
        touched.take(&change(b'U', 1, &[(b'N', &[Sent::Text("2"), Sent::Unchanged])]));
        let (old, new) = ([Sent::Text("3"), Sent::Null], [Sent::Text("4"), Sent::Text("b")]);
        touched.take(&change(b'U', 1, &[(b'K', &old), (b'N', &new)]));
        touched.take(&change(b'D', 1, &[(b'K', &[Sent::Text("5"), Sent::Null])]));
        assert_eq!(keys(&touched, 1), ["1", "2", "3", "4", "5"]);
        assert_eq!(*touched.difference(2), Difference::None);
        assert_eq!(*touched.difference(3), Difference::Unknown, "nobody knows that table");
    }

    #[test]
    fn a_key_that_was_not_sent_is_that_of_the_old_row_and_of_no_other() {
        let tables = [published(1, LARGE, &["b", "a"])];
        let described = relation(1, &[("a", true), ("v", false), ("b", true)]);
        let mut touched = Touched::new(&tables);
        touched.take(&described);
        let old = [Sent::Text("1"), Sent::Null, Sent::Text("long")];
        let new = [Sent::Text("2"), Sent::Text("x"), Sent::Unchanged];
        touched.take(&change(b'U', 1, &[(b'K', &old), (b'N', &new)]));
        assert_eq!(keys(&touched, 1), ["long|1", "long|2"]);
        // The new row was cut off at its end, and its identity with it.
        let whole = change(b'U', 1, &[(b'K', &old), (b'N', &[Sent::Text("2"), Sent::Text("x"), Sent::Text("new")])]);
        touched.take(&whole[..whole.len() - 1]);
        assert_eq!(*touched.difference(1), Difference::Unknown);

        let mut touched = Touched::new(&tables);
        touched.take(&described);
        touched.take(&change(b'U', 1, &[(b'N', &new)]));
        assert_eq!(*touched.difference(1), Difference::Unknown, "no old row to ask");
    }

    #[test]
    fn what_is_not_certain_is_not_known() {
        let large = || [published(1, LARGE, &["id"]), published(2, LARGE, &["id"])];
        let insert = change(b'I', 1, &[(b'N', &[Sent::Text("1"), Sent::Text("a")])]);
        let unknown = |tables: &[Published], messages: &[Vec<u8>]| {
            let mut touched = Touched::new(tables);
            messages.iter().for_each(|message| touched.take(message));
            [1, 2].map(|oid| *touched.difference(oid) == Difference::Unknown)
        };
        let described = relation(1, &[("id", true), ("v", false)]);
        assert_eq!(unknown(&large(), std::slice::from_ref(&insert)), [true, false], "never described");
        let full = relation(1, &[("id", true), ("v", true)]);
        assert_eq!(unknown(&large(), &[full, insert.clone()]), [true, false], "another identity");
        let other = relation(1, &[("id", false), ("v", true)]);
        assert_eq!(unknown(&large(), &[other, insert.clone()]), [true, false], "another identity");
        assert!(unknown(&[published(1, LARGE, &[])], &[described.clone(), insert.clone()])[0], "no key");
        assert!(unknown(&[published(1, 8192, &["id"])], &[described.clone(), insert.clone()])[0], "small");
        let null = change(b'I', 1, &[(b'N', &[Sent::Null, Sent::Text("a")])]);
        assert_eq!(unknown(&large(), &[described.clone(), null]), [true, false]);
        assert_eq!(unknown(&large(), &[described.clone(), truncate(&[2, 77])]), [false, true]);
        assert_eq!(unknown(&large(), &[described.clone(), b"I\0\0\0\x01?".to_vec()]), [true, false]);
        assert_eq!(unknown(&large(), &[described, b"?".to_vec()]), [true, true], "whose it is, nobody knows");
    }

    #[test]
    fn memory_is_bounded() {
        let mut touched = Touched::new(&[published(1, LARGE, &["id"]), published(2, LARGE, &["id"])]);
        let wide = "x".repeat(1_000);
        for oid in [1, 2] {
            touched.take(&relation(oid, &[("id", true), ("v", false)]));
        }
        touched.take(&change(b'I', 2, &[(b'N', &[Sent::Text("few"), Sent::Null])]));
        for number in 0..10_000 {
            let key = format!("{number}{wide}");
            touched.take(&change(b'I', 1, &[(b'N', &[Sent::Text(&key), Sent::Null])]));
            assert!(touched.bytes <= MOST_BYTES);
        }
        assert_eq!(*touched.difference(1), Difference::Unknown);
        assert_eq!(keys(&touched, 2), ["few"]);
        for number in 0..=MOST_KEYS {
            touched.take(&change(b'I', 2, &[(b'N', &[Sent::Text(&number.to_string()), Sent::Null])]));
        }
        assert_eq!((touched.difference(2), touched.bytes), (&Difference::Unknown, 0));
    }

    proptest! {
        /// Whatever was done to a table: with its touched rows replaced, the old snapshot's rows are those
        /// of the new one.
        #[test]
        fn rows_that_are_not_touched_are_the_same(
            acts in prop::collection::vec((0_u8..3, 0_u32..12, 0_u32..12), 0..40),
        ) {
            use std::collections::BTreeMap;

            let older: BTreeMap<u32, usize> = (0..6).map(|id| (id, 1_000)).collect();
            let mut newer = older.clone();
            let mut touched = Touched::new(&[published(1, LARGE, &["id"])]);
            touched.take(&relation(1, &[("id", true), ("v", false)]));
            for (number, (act, id, other)) in acts.into_iter().enumerate() {
                let (text, becomes, value) = (id.to_string(), other.to_string(), number.to_string());
                let new = [Sent::Text(&becomes), Sent::Text(&value)];
                match act {
                    0 if !newer.contains_key(&other) => {
                        newer.insert(other, number);
                        touched.take(&change(b'I', 1, &[(b'N', &new)]));
                    }
                    1 if newer.contains_key(&id) && (id == other || !newer.contains_key(&other)) => {
                        newer.remove(&id);
                        newer.insert(other, number);
                        let old = [Sent::Text(&text), Sent::Null];
                        let rows: &[(u8, &[Sent<'_>])] =
                            if id == other { &[(b'N', &new)] } else { &[(b'K', &old), (b'N', &new)] };
                        touched.take(&change(b'U', 1, rows));
                    }
                    2 if newer.remove(&id).is_some() => {
                        touched.take(&change(b'D', 1, &[(b'K', &[Sent::Text(&text), Sent::Null])]));
                    }
                    _ => {}
                }
            }
            let keys: BTreeSet<u32> = match touched.difference(1) {
                Difference::Keys(keys) => keys.iter().map(|key| key[0].parse().unwrap()).collect(),
                Difference::None => BTreeSet::new(),
                Difference::Unknown => return Err(TestCaseError::fail("unknown")),
            };
            let mut mended = older;
            mended.retain(|id, _| !keys.contains(id));
            mended.extend(newer.iter().filter(|(id, _)| keys.contains(id)));
            prop_assert_eq!(mended, newer);
        }
    }
}
