//! *Both sides of a verification*: row counts, and every object of the schema.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, RelationName, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::finding::Finding;
use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use super::sequence::SequenceState;
use crate::message::missing;

pub(crate) static ACT: Act = Act::of::<CountRows>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountRows {
    /// Tables to count. All of them, if there are none.
    pub tables: Vec<RelationName>,
    #[serde(default)]
    pub objects_only: bool,
    #[serde(default)]
    pub sequences: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCount {
    pub table: RelationName,
    /// Rows under one snapshot.
    pub row_count: i64,
    /// Rows inserted since the server started counting.
    pub inserted_count: i64,
    /// Rows deleted since the server started counting.
    pub deleted_count: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaObject {
    /// What it is, and its name.
    pub identity: String,
    /// SHA-256 of its definition.
    pub digest: Digest,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// One entry for each table.
    pub tables: Vec<TableCount>,
    /// Every schema object that both sides must have.
    pub objects: Vec<SchemaObject>,
    /// What native replication leaves behind.
    pub not_replicated: Vec<Finding>,
    /// Where the sequences stand, where that was asked for.
    pub sequences: Vec<SequencePlace>,
}

/// Where one sequence stands, and which way it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencePlace {
    /// Where it stands.
    #[serde(flatten)]
    pub state: SequenceState,
    /// Whether its values become smaller.
    pub descending: bool,
}

impl Kind for CountRows {
    const KIND: ActKind = ActKind::CountRows;
    type Outcome = RowCounts;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self {
            tables: given.again.to_vec(),
            objects_only: given.depth.is_of_rows(),
            // Before the cutover those of the destination are not in use.
            sequences: given.behind_the_cutover,
        })
    }

    fn send(&self) -> Message {
        Message::CountRows(v1::CountRows {
            tables: self.tables.iter().map(v1::RelationName::from).collect(),
            objects_only: self.objects_only,
            sequences: self.sequences,
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CountRows(result) = produced else { return Err(something_else()) };
        let table = |count: v1::TableCount| {
            Ok(TableCount {
                table: count.table.ok_or_else(|| missing("table"))?.into(),
                row_count: count.row_count,
                inserted_count: count.inserted_count,
                deleted_count: count.deleted_count,
            })
        };
        let object = |it: v1::SchemaObject| SchemaObject { identity: it.identity, digest: Digest(it.digest) };
        Ok(RowCounts {
            tables: result.tables.into_iter().map(table).collect::<Result<_, Failure>>()?,
            objects: result.objects.into_iter().map(object).collect(),
            not_replicated: result.not_replicated.into_iter().map(Finding::from).collect(),
            sequences: result.sequences.into_iter().map(SequencePlace::try_from).collect::<Result<_, _>>()?,
        })
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        vec![remark("SELECT count(*) FROM every published table; read the definition of every object")].into()
    }
}

impl TryFrom<v1::SequencePlace> for SequencePlace {
    type Error = Failure;

    fn try_from(value: v1::SequencePlace) -> Result<Self, Failure> {
        let v1::SequencePlace { sequence, last_value, called, descending } = value;
        let sequence = sequence.ok_or_else(|| missing("sequence"))?.into();
        Ok(Self { state: SequenceState { sequence, last_value, called }, descending })
    }
}
