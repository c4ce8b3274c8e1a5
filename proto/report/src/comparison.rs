//! What a comparison of rows by their hashes is asked for, and what it came to.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{RelationName, Unspecified, read_span, span, v1};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// The rows of one table, compared by their hashes. The serde form is the
/// coordinator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableComparison {
    /// The table.
    pub table: RelationName,
    /// Rows of the destination whose hashes were compared.
    pub row_count: i64,
    /// Sum of their hashes.
    pub digest: Digest,
    /// Rows that only the source has.
    pub missing_count: i64,
    /// Rows that only the destination has.
    pub extra_count: i64,
    /// Rows with one key and different contents.
    pub changed_count: i64,
    /// Rows that changed at every look.
    pub unsettled_count: i64,
    /// Why it could not be compared. Empty if it could.
    pub obstacle: String,
    /// Whether it was compared to its end.
    pub complete: bool,
}

/// What a comparison of rows came to. The serde form is the coordinator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowComparison {
    /// One entry for each table that either side replicates, sorted by name.
    pub tables: Vec<TableComparison>,
    /// Whether every table was compared to its end.
    pub complete: bool,
    /// Parts of tables whose hashes were compared.
    pub range_count: i64,
    /// Rows that were compared once more, because a hash differed.
    pub recheck_count: i64,
    /// How long it took, over all attempts.
    pub elapsed: Duration,
    /// File with the keys of rows that differ, on the machine of the agent that
    /// compared. Empty if none does.
    pub report_path: String,
    /// File with statements that mend them, there too. Empty if there are none.
    pub repair_path: String,
}

impl From<RowComparison> for v1::CompareRowsResult {
    fn from(rows: RowComparison) -> Self {
        Self {
            tables: rows.tables.into_iter().map(v1::TableComparison::from).collect(),
            complete: rows.complete,
            range_count: rows.range_count,
            recheck_count: rows.recheck_count,
            elapsed: Some(span(rows.elapsed)),
            report_path: rows.report_path,
            repair_path: rows.repair_path,
        }
    }
}

impl TryFrom<v1::CompareRowsResult> for RowComparison {
    type Error = Failure;

    fn try_from(sent: v1::CompareRowsResult) -> Result<Self, Failure> {
        Ok(Self {
            tables: sent.tables.into_iter().map(TableComparison::try_from).collect::<Result<_, _>>()?,
            complete: sent.complete,
            range_count: sent.range_count,
            recheck_count: sent.recheck_count,
            elapsed: read_span(sent.elapsed).unwrap_or_default(),
            report_path: sent.report_path,
            repair_path: sent.repair_path,
        })
    }
}

impl From<TableComparison> for v1::TableComparison {
    fn from(table: TableComparison) -> Self {
        Self {
            table: Some(table.table.into()),
            row_count: table.row_count,
            digest: table.digest.0,
            missing_count: table.missing_count,
            extra_count: table.extra_count,
            changed_count: table.changed_count,
            unsettled_count: table.unsettled_count,
            obstacle: table.obstacle,
            complete: table.complete,
        }
    }
}

impl TryFrom<v1::TableComparison> for TableComparison {
    type Error = Unspecified;

    fn try_from(sent: v1::TableComparison) -> Result<Self, Unspecified> {
        Ok(Self {
            table: sent.table.ok_or(Unspecified { field: "table" })?.into(),
            row_count: sent.row_count,
            digest: Digest(sent.digest),
            missing_count: sent.missing_count,
            extra_count: sent.extra_count,
            changed_count: sent.changed_count,
            unsettled_count: sent.unsettled_count,
            obstacle: sent.obstacle,
            complete: sent.complete,
        })
    }
}
