//! What a comparison of rows means.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Side;
use super::super::act::{RowComparison, TableComparison};

/// What a comparison of rows came to, without its tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowSummary {
    /// Parts of tables whose hashes were compared.
    pub range_count: i64,
    /// Rows that were looked at once more.
    pub recheck_count: i64,
    pub difference_count: i64,
    /// Rows that changed at every look.
    pub unsettled_count: i64,
    /// Whether every table was compared to its end.
    pub complete: bool,
    pub elapsed: Duration,
    /// File with the keys of rows that differ, on the machine of the agent that follows.
    pub report_path: String,
    /// File with statements that mend them, there too.
    pub repair_path: String,
}

/// What stands between a comparison and a pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// Rows that differ, table by table.
    pub(super) differing: Vec<String>,
    /// What nobody can vouch for.
    pub(super) unknown: Vec<String>,
}

/// How many tables agree, and what is said of the others.
pub(super) fn judge(compared: &RowComparison, follower: Side) -> (i32, Shortfall) {
    let mut shortfall = Shortfall::default();
    let (mut equal, mut unfinished) = (0, 0);
    for table in &compared.tables {
        let name = &table.table;
        let differing = differing(table);
        let mut agrees = table.complete && differing.is_empty();
        if !differing.is_empty() {
            shortfall.differing.push(format!("table {name} differs on the {follower}: {}", differing.join(", ")));
        }
        if !table.obstacle.is_empty() {
            agrees = false;
            shortfall.unknown.push(format!("table {name} could not be compared: {}", table.obstacle));
        }
        if table.unsettled_count > 0 {
            agrees = false;
            let rows = super::counted(usize::try_from(table.unsettled_count).unwrap_or(usize::MAX), "row");
            shortfall.unknown.push(format!("table {name}: {rows} changed at every look and could not be compared"));
        }
        unfinished += usize::from(!table.complete);
        equal += i32::from(agrees);
    }
    if unfinished > 0 || !compared.complete {
        let tables = super::counted(compared.tables.len(), "table");
        shortfall.unknown.push(format!("{unfinished} of {tables} were not compared to their end"));
    }
    (equal, shortfall)
}

fn differing(table: &TableComparison) -> Vec<String> {
    [(table.missing_count, "missing"), (table.extra_count, "extra"), (table.changed_count, "changed")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", super::counted(usize::try_from(count).unwrap_or(usize::MAX), "row")))
        .collect()
}

pub(super) fn summary(compared: &RowComparison) -> RowSummary {
    let sum = |of: fn(&TableComparison) -> i64| compared.tables.iter().map(of).sum();
    RowSummary {
        range_count: compared.range_count,
        recheck_count: compared.recheck_count,
        difference_count: sum(|table| table.missing_count + table.extra_count + table.changed_count),
        unsettled_count: sum(|table| table.unsettled_count),
        complete: compared.complete,
        elapsed: compared.elapsed,
        report_path: compared.report_path.clone(),
        repair_path: compared.repair_path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::act::RelationName;
    use super::*;

    fn table(name: &str) -> TableComparison {
        TableComparison {
            table: RelationName { schema: "public".to_owned(), relation: name.to_owned() },
            row_count: 10,
            complete: true,
            ..TableComparison::default()
        }
    }

    #[test]
    fn only_what_was_compared_and_agrees_is_equal() {
        let tables = vec![
            table("good"),
            TableComparison { missing_count: 1, changed_count: 2, ..table("bad") },
            TableComparison { unsettled_count: 3, ..table("hot") },
            TableComparison { obstacle: "column b is on the source only".to_owned(), ..table("odd") },
            TableComparison { complete: false, ..table("late") },
        ];
        let (equal, shortfall) =
            judge(&RowComparison { tables, complete: false, ..RowComparison::default() }, Side::Destination);
        assert_eq!(equal, 1);
        assert_eq!(shortfall.differing, ["table public.bad differs on the destination: 1 row missing, 2 rows changed"]);
        assert_eq!(
            shortfall.unknown,
            [
                "table public.hot: 3 rows changed at every look and could not be compared",
                "table public.odd could not be compared: column b is on the source only",
                "1 of 5 tables were not compared to their end",
            ]
        );
        let all = RowComparison { tables: vec![table("good")], complete: true, ..RowComparison::default() };
        assert_eq!(judge(&all, Side::Destination), (1, Shortfall::default()));
    }
}
