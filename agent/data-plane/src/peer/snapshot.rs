//! The destination's half of reading the source's snapshot, and its messages.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_postgres::{Lsn, LsnInvalid, RelationName};
use pgportage_proto::{Reason, v1};

use super::client::{CALL_TIMEOUT, PeerClient};
use super::packing::Packing;
use super::stream::RangeStream;
use crate::snapshot::{Change, Range, Selection, SnapshotTable};

/// The snapshot that the copy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSnapshot {
    /// The snapshot's name, which is also the position where the stream begins.
    pub consistent_point: String,
    /// Every published table.
    pub tables: Vec<SnapshotTable>,
    /// How each table has changed since the snapshot that the destination holds rows of.
    pub changes: Vec<Change>,
}

/// A part of a table, in blocks of its main fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocks {
    /// The first block that belongs to the part.
    pub first: i64,
    /// The first block that no longer belongs to it; without one, the part goes to the table's end.
    pub end: Option<i64>,
}

impl Blocks {
    /// The whole table.
    pub const ALL: Self = Self { first: 0, end: None };
}

/// What is read of the touched rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Their keys, in the text format of COPY.
    Keys,
    /// Their present contents.
    Rows,
}

/// The snapshot that the destination holds rows of. None for an empty text.
///
/// # Errors
///
/// [`Reason::RequestInvalid`] for a text that is no position.
pub fn decode_held_point(text: &str) -> Result<Option<Lsn>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: LsnInvalid| {
        Failure::new(Reason::RequestInvalid, "the snapshot that the destination holds has no name that is known here")
            .effect(Effect::None)
            .with("field", "held_point")
            .because(&error)
    })
}

/// A table of the snapshot, with how it has changed since the one that the destination held.
pub fn encode_snapshot_table(table: &SnapshotTable, change: Change) -> v1::SnapshotTable {
    use v1::snapshot_table::Change as Wire;

    let change = match change {
        Change::None => Wire::None,
        Change::SomeRows => Wire::SomeRows,
        Change::Unknown => Wire::Unspecified,
    };
    v1::SnapshotTable {
        table: Some((&table.name).into()),
        columns: table.columns.clone(),
        binary: table.binary,
        block_count: table.block_count,
        size_bytes: table.size_bytes,
        row_estimate: table.row_estimate,
        identity: table.identity.clone(),
        key_columns: table.key.clone(),
        change: change.into(),
    }
}

/// What the destination agent asks to read.
///
/// # Errors
///
/// [`Reason::RequestInvalid`] for what is missing or makes no sense.
pub fn decode_range(message: v1::CopyRangeRequest) -> Result<Range, Failure> {
    use v1::copy_range_request::Selection as Wire;

    let invalid = |field: &str| {
        Failure::new(Reason::RequestInvalid, format!("{field} of a range is missing or makes no sense"))
            .effect(Effect::None)
            .with("field", field)
    };
    // A selection that is not understood must not read as the whole table.
    let wire = Wire::try_from(message.selection).map_err(|_| invalid("selection"))?;
    let table = message.table.ok_or_else(|| invalid("table"))?;
    let (first, end) = (message.first_block, (message.end_block != 0).then_some(message.end_block));
    if first < 0 || end.is_some_and(|end| end <= first) {
        return Err(invalid("first_block"));
    }
    let since = || decode_held_point(&message.held_point)?.ok_or_else(|| invalid("held_point"));
    let selection = match wire {
        Wire::Unspecified => Selection::Blocks { first, end },
        Wire::TouchedKeys => Selection::TouchedKeys { since: since()? },
        Wire::TouchedRows => Selection::TouchedRows { since: since()? },
    };
    Ok(Range { table: table.into(), columns: message.columns, binary: message.binary, selection })
}

fn decode_snapshot_table(message: v1::SnapshotTable) -> Option<(SnapshotTable, Change)> {
    use v1::snapshot_table::Change as Wire;

    let change = match message.change() {
        Wire::None => Change::None,
        Wire::SomeRows => Change::SomeRows,
        Wire::Unspecified => Change::Unknown,
    };
    let table = message.table?;
    let table = SnapshotTable {
        name: RelationName::new(table.schema_name, table.relation_name),
        columns: message.columns,
        binary: message.binary,
        block_count: message.block_count,
        size_bytes: message.size_bytes,
        row_estimate: message.row_estimate,
        identity: message.identity,
        key: message.key_columns,
    };
    Some((table, change))
}

impl PeerClient {
    /// On the destination: asks for the snapshot that the copy reads. The source may have to make it, and
    /// then waits for open transactions, at most for `limit`. `held_point` is the snapshot that the
    /// destination has rows of; empty if it has none.
    pub async fn open_snapshot(&self, held_point: &str, limit: Duration) -> Result<SourceSnapshot, Failure> {
        let request =
            v1::OpenSnapshotRequest { migration_id: self.migration.to_string(), held_point: held_point.to_owned() };
        let response = self.within(limit, self.client.clone().open_snapshot(request)).await?;
        // A table that cannot be decoded fails the call: left out, it would never be copied.
        let tables: Option<Vec<_>> = response.tables.into_iter().map(decode_snapshot_table).collect();
        let (tables, changes) = tables.map(|tables| tables.into_iter().unzip()).ok_or_else(|| {
            Failure::new(Reason::Internal, format!("agent {} lists a table without a name", self.peer))
                .effect(Effect::None)
        })?;
        Ok(SourceSnapshot { consistent_point: response.consistent_point, tables, changes })
    }

    /// On the destination: begins to read rows of a snapshot.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when it is another one by now; otherwise what the
    /// source reports.
    pub async fn copy_range(
        &self,
        consistent_point: &str,
        table: &SnapshotTable,
        blocks: Blocks,
        packing: Packing,
    ) -> Result<RangeStream, Failure> {
        let request = v1::CopyRangeRequest {
            first_block: blocks.first,
            end_block: blocks.end.unwrap_or(0),
            ..self.range(consistent_point, table, packing)
        };
        let messages = self.within(CALL_TIMEOUT, self.client.clone().copy_range(request)).await?;
        Ok(RangeStream::new(messages, &self.peer))
    }

    /// On the destination: begins to read what was touched since the snapshot that it holds rows of, out of
    /// the snapshot that it has opened.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when it is another one by now, or the source no longer knows what was
    /// touched; otherwise what the source reports.
    pub async fn copy_touched(
        &self,
        snapshot: &SourceSnapshot,
        held_point: &str,
        table: &SnapshotTable,
        touched: Touched,
        packing: Packing,
    ) -> Result<RangeStream, Failure> {
        use v1::copy_range_request::Selection;

        let selection = match touched {
            Touched::Keys => Selection::TouchedKeys,
            Touched::Rows => Selection::TouchedRows,
        };
        let request = v1::CopyRangeRequest {
            selection: selection.into(),
            held_point: held_point.to_owned(),
            ..self.range(&snapshot.consistent_point, table, packing)
        };
        let messages = self.within(CALL_TIMEOUT, self.client.clone().copy_range(request)).await?;
        Ok(RangeStream::new(messages, &self.peer))
    }

    fn range(&self, consistent_point: &str, table: &SnapshotTable, packing: Packing) -> v1::CopyRangeRequest {
        v1::CopyRangeRequest {
            migration_id: self.migration.to_string(),
            consistent_point: consistent_point.to_owned(),
            table: Some((&table.name).into()),
            columns: table.columns.clone(),
            binary: table.binary,
            compression: packing.to_wire().into(),
            ..v1::CopyRangeRequest::default()
        }
    }

    /// On the destination: tells the source agent that every row of a snapshot has arrived.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when it is another one by now; otherwise what the source reports.
    pub async fn release_snapshot(&self, consistent_point: &str) -> Result<(), Failure> {
        let request = v1::ReleaseSnapshotRequest {
            migration_id: self.migration.to_string(),
            consistent_point: consistent_point.to_owned(),
        };
        self.within(CALL_TIMEOUT, self.client.clone().release_snapshot(request)).await.map(|_| ())
    }
}
