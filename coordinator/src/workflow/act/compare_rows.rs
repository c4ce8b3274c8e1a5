//! *Subscriber*: rows compared with the other side by their hashes, where an operator
//! asks for it.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, v1};
use serde::{Deserialize, Serialize};

use super::super::depth::Depth;
use super::super::digest::Digest;
use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::{missing, reported, to_duration};

pub(crate) static ACT: Act = Act::of::<CompareRows>();

/// Which comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompareRows {
    /// Its number: the same for one that is resumed.
    pub comparison_id: i64,
    /// How long it may take.
    pub time_limit: Option<Duration>,
    /// Whether statements that mend differences are written down.
    pub repair: bool,
}

/// The rows of one table, compared by their hashes.
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

/// What a comparison of rows came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowComparison {
    /// One entry for each table that either side replicates.
    pub tables: Vec<TableComparison>,
    /// Whether every table was compared to its end.
    pub complete: bool,
    /// Parts of tables whose hashes were compared.
    pub range_count: i64,
    /// Rows that were looked at once more.
    pub recheck_count: i64,
    /// How long it took.
    pub elapsed: Duration,
    /// File with the keys of rows that differ, on the destination agent's machine.
    pub report_path: String,
    /// File with statements that mend them, there too.
    pub repair_path: String,
}

impl Kind for CompareRows {
    const KIND: ActKind = ActKind::CompareRows;
    type Outcome = RowComparison;

    fn input(given: &Given<'_>) -> Option<Self> {
        match *given.depth {
            Depth::Rows { comparison_id, time_limit, repair } => Some(Self { comparison_id, time_limit, repair }),
            Depth::Counts => None,
        }
    }

    fn send(&self) -> Message {
        let Self { comparison_id, time_limit, repair } = *self;
        let time_limit = time_limit.and_then(to_duration);
        Message::CompareRows(v1::CompareRows { comparison_id, time_limit, repair })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CompareRows(result) = produced else { return Err(something_else()) };
        let table = |table: v1::TableComparison| {
            Ok(TableComparison {
                table: table.table.ok_or_else(|| missing("table"))?.into(),
                row_count: table.row_count,
                digest: Digest(table.digest),
                missing_count: table.missing_count,
                extra_count: table.extra_count,
                changed_count: table.changed_count,
                unsettled_count: table.unsettled_count,
                obstacle: table.obstacle,
                complete: table.complete,
            })
        };
        Ok(RowComparison {
            tables: result.tables.into_iter().map(table).collect::<Result<_, Failure>>()?,
            complete: result.complete,
            range_count: result.range_count,
            recheck_count: result.recheck_count,
            elapsed: reported(result.elapsed),
            report_path: result.report_path,
            repair_path: result.repair_path,
        })
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        vec![remark(
            "where you ask for it: hashes of all rows, part by part, compared between both sides; it reads only",
        )]
        .into()
    }
}
