//! Decides what happens to each table when its snapshot is lost. Pure.
//!
//! **Invariant:** a table that is kept ends up as the next snapshot shows it. A table that was not complete
//! is copied again, because its parts were cut for the lost snapshot.

use std::collections::BTreeMap;

use pgportage_data_plane::peer::SourceSnapshot;
use pgportage_data_plane::snapshot::Change;
use pgportage_postgres::RelationName;

use super::ledger::Ledger;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Kept,
    /// It stays, and its touched rows are replaced.
    Mended,
    /// It is copied again, or for the first time.
    Anew,
}

/// The fate of each table of a snapshot, by the ledger of an earlier one. `snapshot` says what was changed
/// since that one.
pub(super) fn fates(ledger: &Ledger, snapshot: &SourceSnapshot) -> Vec<Fate> {
    let mut parts: BTreeMap<&RelationName, i64> = BTreeMap::new();
    for done in &ledger.done {
        *parts.entry(&done.table).or_default() += 1;
    }
    let tables = snapshot.tables.iter().zip(&snapshot.changes);
    tables
        .map(|(table, change)| {
            let is_complete = ledger.tables.get(&table.name).is_some_and(|planned| {
                let is_the_same = !table.identity.is_empty() && planned.identity == table.identity;
                is_the_same && parts.get(&table.name) == Some(&planned.part_count)
            });
            match change {
                _ if !is_complete => Fate::Anew,
                Change::None => Fate::Kept,
                Change::SomeRows if !table.key.is_empty() => Fate::Mended,
                Change::SomeRows | Change::Unknown => Fate::Anew,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Planned, WHOLE};
    use super::super::plan::Done;
    use super::*;
    use pgportage_data_plane::snapshot::SnapshotTable;

    fn name(table: &str) -> RelationName {
        RelationName::new("public", table)
    }

    fn snapshot(tables: &[(&str, &str, Change)]) -> SourceSnapshot {
        let table = |&(table, identity, _): &(&str, &str, Change)| SnapshotTable {
            name: name(table),
            columns: vec!["id".to_owned()],
            binary: true,
            block_count: 1,
            size_bytes: 8192,
            row_estimate: 1,
            identity: identity.to_owned(),
            key: if table == "keyless" { Vec::new() } else { vec!["id".to_owned()] },
        };
        SourceSnapshot {
            consistent_point: "0/2".to_owned(),
            tables: tables.iter().map(table).collect(),
            changes: tables.iter().map(|&(_, _, change)| change).collect(),
        }
    }

    fn ledger(tables: &[(&str, &str, i64, &[i64])]) -> Ledger {
        let mut ledger = Ledger { consistent_point: "0/1".to_owned(), ..Ledger::default() };
        for &(table, identity, part_count, parts) in tables {
            let planned = Planned { identity: identity.to_owned(), part_count, kept: false, mended: false };
            ledger.tables.insert(name(table), planned);
            ledger.done.extend(parts.iter().map(|&first_block| Done { table: name(table), first_block }));
        }
        ledger
    }

    fn fate(of: (&str, &str, Change), part_count: i64, parts: &[i64]) -> Fate {
        fates(&ledger(&[(of.0, "same", part_count, parts)]), &snapshot(&[of]))[0]
    }

    #[test]
    fn only_what_is_whole_and_known_is_kept() {
        assert_eq!(fate(("t", "same", Change::None), 2, &[0, 9]), Fate::Kept);
        assert_eq!(fate(("t", "same", Change::SomeRows), 2, &[0, 9]), Fate::Mended);
        assert_eq!(fate(("t", "same", Change::Unknown), 2, &[0, 9]), Fate::Anew);
        assert_eq!(fate(("keyless", "same", Change::None), 1, &[0]), Fate::Kept);
        assert_eq!(fate(("keyless", "same", Change::SomeRows), 1, &[0]), Fate::Anew);
        assert_eq!(fate(("t", "same", Change::None), 2, &[0]), Fate::Anew, "half of it");
        assert_eq!(fate(("t", "same", Change::None), 2, &[]), Fate::Anew, "nothing of it");
        assert_eq!(fate(("t", "another", Change::None), 2, &[0, 9]), Fate::Anew, "rewritten, or another table");
        assert_eq!(fate(("t", "same", Change::None), 1, &[WHOLE]), Fate::Kept, "a second time");
    }

    #[test]
    fn what_nobody_planned_is_copied() {
        let unknown = snapshot(&[("new", "same", Change::None)]);
        assert_eq!(fates(&Ledger::default(), &unknown), [Fate::Anew]);
        assert_eq!(fates(&ledger(&[("new", "", 1, &[0])]), &snapshot(&[("new", "", Change::None)])), [Fate::Anew]);
    }
}
