//! Decides which parts of which tables are copied, in which order. Pure.

use std::collections::BTreeSet;

use pgportage_data_plane::peer::Blocks;
use pgportage_data_plane::snapshot::SnapshotTable;
use pgportage_postgres::RelationName;

use super::ledger::WHOLE;

/// The whole database is cut into about so many parts. A crash throws away one part for each job, which
/// then stays below a few hundredths.
const PARTS: i64 = 256;
/// A smaller part costs more in sessions and round trips than it saves.
const SMALLEST_PART: i64 = 16 << 20;
/// A larger part makes progress coarse, and losing it expensive.
const LARGEST_PART: i64 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) table: usize,
    pub(super) blocks: Blocks,
    /// Its share of the table's size, for the progress.
    pub(super) size_bytes: i64,
}

/// A part that was copied before, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Done {
    pub(super) table: RelationName,
    pub(super) first_block: i64,
}

/// Every part of every table, the largest tables first. What takes longest begins first, and its indexes
/// can be built while the small ones are copied.
pub(super) fn pieces(tables: &[SnapshotTable]) -> Vec<Piece> {
    let total: i64 = tables.iter().map(|table| table.size_bytes.max(0)).sum();
    let part = (total / PARTS).clamp(SMALLEST_PART, LARGEST_PART);
    let mut order: Vec<usize> = (0..tables.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(tables[index].size_bytes), index));
    order.into_iter().flat_map(|index| cut(index, &tables[index], part)).collect()
}

/// Cuts one table. The last part has no end: it also reads blocks that were added since the count, which
/// hold no row that the snapshot sees.
fn cut(index: usize, table: &SnapshotTable, part: i64) -> Vec<Piece> {
    let parts = if table.block_count > 0 { (table.size_bytes / part).clamp(1, table.block_count) } else { 1 };
    let border = |n: i64| table.block_count * n / parts;
    (0..parts)
        .map(|n| Piece {
            table: index,
            blocks: Blocks { first: border(n), end: (n + 1 < parts).then(|| border(n + 1)) },
            size_bytes: table.size_bytes.max(0) / parts,
        })
        .collect()
}

/// The parts that are not copied yet.
pub(super) fn remaining(pieces: Vec<Piece>, tables: &[SnapshotTable], done: &BTreeSet<Done>) -> Vec<Piece> {
    pieces
        .into_iter()
        .filter(|piece| {
            let table = &tables[piece.table].name;
            let is_done = |first_block| done.contains(&Done { table: table.clone(), first_block });
            !is_done(WHOLE) && !is_done(piece.blocks.first)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(name: &str, block_count: i64, size_bytes: i64) -> SnapshotTable {
        SnapshotTable {
            name: RelationName::new("public", name),
            columns: vec!["id".to_owned()],
            binary: true,
            block_count,
            size_bytes,
            row_estimate: 0,
            identity: String::new(),
            key: Vec::new(),
        }
    }

    #[test]
    fn small_tables_are_one_part_and_come_last() {
        let tables = [table("a", 0, 0), table("b", 1, 8192), table("c", 10_000, 10_000 * 8192)];
        let pieces = pieces(&tables);
        assert_eq!(pieces.iter().filter(|piece| piece.table == 2).count(), 4);
        assert_eq!(pieces.iter().map(|piece| piece.table).skip(4).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(pieces[5].blocks, Blocks::ALL);
    }

    #[test]
    fn a_part_is_a_small_share_of_a_large_database() {
        let tables = [table("large", 2_000_000, 2_000_000 * 8192)];
        let pieces = pieces(&tables);
        assert!((200..=320).contains(&pieces.len()), "{}", pieces.len());
    }

    #[test]
    fn what_the_ledger_knows_is_not_copied_again() {
        let tables = [table("c", 10_000, 10_000 * 8192)];
        let all = pieces(&tables);
        let done = BTreeSet::from([Done { table: tables[0].name.clone(), first_block: all[1].blocks.first }]);
        let left = remaining(all.clone(), &tables, &done);
        assert_eq!(left.len(), all.len() - 1);
        assert!(!left.contains(&all[1]));
        // A table kept from an earlier snapshot, which cut it into other parts.
        let done = BTreeSet::from([Done { table: tables[0].name.clone(), first_block: WHOLE }]);
        assert_eq!(remaining(all, &tables, &done), []);
    }

    proptest! {
        /// Parts follow each other without gap or overlap, from block 0 to the end.
        #[test]
        fn parts_cover_every_block_once(blocks in 0_i64..3_000_000, toast in 0_i64..1 << 40, part in 1_i64..1 << 31) {
            let table = table("t", blocks, blocks * 8192 + toast);
            let pieces = cut(0, &table, part);
            prop_assert_eq!(pieces[0].blocks.first, 0);
            for pair in pieces.windows(2) {
                prop_assert_eq!(pair[0].blocks.end, Some(pair[1].blocks.first));
                prop_assert!(pair[0].blocks.first < pair[1].blocks.first);
            }
            prop_assert_eq!(pieces.last().unwrap().blocks.end, None);
        }
    }
}
