//! P3, where the operator asked for it: every row that was written since P0 is compared, before the side
//! that is entered may open.
//!
//! The barrier stands and the marker has arrived, so no row moves on either side: two hashes that differ
//! are a difference, and one look is enough. Rows written before P0 are not looked at: `verify` does that.

use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::comparison::{
    ComparedTable, Digest, Hashing, Part, PartDigest, Questions, Reader, RowKey, Which,
};
use pgportage_data_plane::snapshot::WrittenTable;
use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_postgres::RelationName;
use pgportage_proto::{Reason, v1};
use tokio::try_join;

use crate::message::{int32, span};

/// A table up to this size is compared whole where the keys of its written rows are not known.
const SMALL: i64 = 1 << 20;
/// Keys in one part. A key of several columns becomes as many conditions.
const KEYS: usize = 500;
const COMPOSITE_KEYS: usize = 50;
/// Parts in one question.
const PARTS: usize = 50;

/// Both ends, ready to compare.
#[derive(Debug)]
pub(crate) struct WrittenRowsCheck {
    here: Reader,
    there: Questions,
    tables: Vec<Arc<ComparedTable>>,
    hashing: Hashing,
}

/// What was compared behind the barrier. Nothing of it differed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenRows {
    /// Tables that were written to and compared.
    pub table_count: u32,
    /// Their written rows, deleted ones included; of a small table whose written rows are not known, all
    /// rows.
    pub row_count: u64,
    /// Tables that were written to and **not compared**: the written rows are too many or not known, and
    /// the table is too large to be read whole.
    pub left_out: Vec<RelationName>,
    /// How long it took.
    pub elapsed: Duration,
}

impl From<WrittenRows> for v1::SwitchComparison {
    fn from(written: WrittenRows) -> Self {
        Self {
            table_count: int32(written.table_count),
            row_count: i64::try_from(written.row_count).unwrap_or(i64::MAX),
            left_out: written.left_out.into_iter().map(Into::into).collect(),
            elapsed: Some(span(written.elapsed)),
        }
    }
}

impl WrittenRowsCheck {
    /// Both ends, with the tables and the hashing that they have in common.
    pub(crate) fn new(here: Reader, there: Questions, tables: Vec<Arc<ComparedTable>>, hashing: Hashing) -> Self {
        Self { here, there, tables, hashing }
    }

    /// Compares what was written since P0 of this switchover. No application writes.
    ///
    /// # Errors
    ///
    /// [`Reason::RowsDiffer`]; [`Reason::VerificationIncomplete`] when the time is over; otherwise what
    /// either side reports. Applications wait all the while, so nothing is tried twice.
    pub(crate) async fn compare(&mut self, clock: Clock, epoch: i64, limit: Duration) -> Result<WrittenRows, Failure> {
        let begun = clock.now();
        let compared = clock.timeout(limit, Box::pin(self.look(epoch))).await;
        let compared = compared.unwrap_or_else(|_elapsed| Err(time_over(limit)));
        let compared = compared.map_err(|failure| failure.remedy(Remedy::Operator).effect(Effect::None))?;
        Ok(WrittenRows { elapsed: clock.now().duration_since(begun), ..compared })
    }

    async fn look(&mut self, epoch: i64) -> Result<WrittenRows, Failure> {
        let written = self.there.written(epoch).await?;
        let (named, whole, mut found) = deal(written, &self.tables, self.hashing);
        let mut differing = Vec::new();
        // Parts by key and whole tables go in separate questions: the server reads them differently.
        for parts in named.chunks(PARTS).chain(whole.chunks(PARTS)) {
            let (here, there) = try_join!(self.here.digests(parts), self.there.digests(parts))?;
            for (place, part) in parts.iter().enumerate() {
                let [mine, theirs] = [&here, &there].map(|side| digest_of(side, place));
                found.row_count += match &part.which {
                    Which::Keys(keys) => keys.len() as u64,
                    Which::Range { .. } | Which::Buckets { .. } => mine.row_count.unsigned_abs(),
                };
                if mine != theirs && !differing.contains(&part.table.name) {
                    differing.push(part.table.name.clone());
                }
            }
        }
        if differing.is_empty() { Ok(found) } else { Err(differ(&differing)) }
    }
}

/// Sorts the written tables: those compared by keys, those compared whole, and the result so far.
fn deal(
    written: Vec<WrittenTable>,
    tables: &[Arc<ComparedTable>],
    hashing: Hashing,
) -> (Vec<Part>, Vec<Part>, WrittenRows) {
    let (mut named, mut whole, mut found) = (Vec::new(), Vec::new(), WrittenRows::default());
    for WrittenTable { name, key, keys } in written {
        let known = tables.iter().find(|known| known.name == name);
        let has = |table: &ComparedTable| key.iter().all(|name| table.columns.iter().any(|it| it.name == *name));
        match (known, keys) {
            (Some(known), Some(keys)) if has(known) => {
                let table = Arc::new(ComparedTable { key: key.clone(), ..(**known).clone() });
                let size = if key.len() == 1 { KEYS } else { COMPOSITE_KEYS };
                let keys: Vec<_> = keys.into_iter().map(RowKey).collect();
                named.extend(keys.chunks(size).map(|keys| Part {
                    table: Arc::clone(&table),
                    hashing,
                    which: Which::Keys(keys.to_vec()),
                }));
                found.table_count += 1;
            }
            (Some(known), _) if known.size_bytes <= SMALL => {
                whole.push(Part { table: Arc::clone(known), hashing, which: Which::ALL });
                found.table_count += 1;
            }
            (Some(_) | None, _) => found.left_out.push(name),
        }
    }
    (named, whole, found)
}

fn digest_of(side: &[PartDigest], place: usize) -> Digest {
    side.iter().find(|digest| digest.part == place).map(|digest| digest.digest).unwrap_or_default()
}

fn differ(tables: &[RelationName]) -> Failure {
    let count = if tables.len() == 1 { "1 table".to_owned() } else { format!("{} tables", tables.len()) };
    let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
    Failure::new(Reason::RowsDiffer, format!("rows of {count} that were written during the switchover differ"))
        .detail(format!("They were compared with the barrier standing and the marker arrived: {}.", names.join(", ")))
        .hint("Run `pgportage verify` to see which rows, correct them, and try the switchover again.")
}

fn time_over(limit: Duration) -> Failure {
    let limit = limit.as_millis();
    Failure::new(
        Reason::VerificationIncomplete,
        format!("what was written during the switchover could not be compared within {limit} ms"),
    )
    .hint("Allow more with --compare, or switch over at a quieter moment.")
}

#[cfg(test)]
mod tests {
    use pgportage_data_plane::comparison::{Column, Form};

    use super::*;

    fn table(name: &str, size_bytes: i64) -> Arc<ComparedTable> {
        Arc::new(ComparedTable {
            name: RelationName::new("public", name),
            columns: ["id", "v"].map(|name| Column { name: name.to_owned(), form: Form::Text }).to_vec(),
            key: vec!["other".to_owned()],
            size_bytes,
        })
    }

    fn written(name: &str, key: &[&str], keys: Option<usize>) -> WrittenTable {
        WrittenTable {
            name: RelationName::new("public", name),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            keys: keys.map(|count| (0..count).map(|number| vec![number.to_string(); key.len()]).collect()),
        }
    }

    #[test]
    fn rows_are_named_or_read_whole_or_said_to_be_left_out() {
        let large = SMALL + 1;
        let tables = [table("keyed", large), table("pairs", large), table("small", SMALL), table("log", large)];
        let all = vec![
            written("keyed", &["id"], Some(KEYS + 1)),
            written("pairs", &["id", "v"], Some(COMPOSITE_KEYS)),
            written("small", &[], None),
            written("log", &[], None),
            written("unknown", &["id"], Some(1)),
        ];
        let (named, whole, found) = deal(all, &tables, Hashing::Native);
        let told: Vec<_> = named
            .iter()
            .map(|part| match &part.which {
                Which::Keys(keys) => (part.table.name.relation.as_str(), part.table.key.len(), keys.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [("keyed", 1, KEYS), ("keyed", 1, 1), ("pairs", 2, COMPOSITE_KEYS)]);
        assert_eq!(whole.iter().map(|part| part.table.name.relation.as_str()).collect::<Vec<_>>(), ["small"]);
        assert_eq!(found.table_count, 3);
        let left: Vec<_> = found.left_out.iter().map(|name| name.relation.as_str()).collect();
        assert_eq!(left, ["log", "unknown"]);
    }

    #[test]
    fn a_key_that_only_one_side_has_names_nothing() {
        let tables = [table("small", 8192)];
        let (named, whole, found) = deal(vec![written("small", &["gone"], Some(1))], &tables, Hashing::Native);
        assert_eq!((named.len(), whole.len(), found.left_out.len()), (0, 1, 0));
    }
}
