//! What acts produce, in names, numbers and hashes.

use std::fmt;
use std::time::Duration;

pub use pgportage_proto::RelationName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ActKind;
use super::finding::Finding;

/// A hash. Prints and stores itself as hexadecimal digits.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub Vec<u8>);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err(serde::de::Error::custom("a digest has an even number of digits"));
        }
        digits
            .chunks(2)
            .map(|pair| {
                std::str::from_utf8(pair)
                    .ok()
                    .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                    .ok_or_else(|| serde::de::Error::custom("a digest holds hexadecimal digits"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a server is, and what the database on it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// `server_version_num`.
    pub server_version_num: i32,
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// The database's encoding.
    pub encoding: String,
    /// The database's collation.
    pub collation: String,
    /// Its extensions.
    pub extensions: Vec<Extension>,
    /// Roles that the schema names.
    pub role_names: Vec<String>,
    /// Tables that will be published.
    pub table_count: i32,
    /// Relations of every kind.
    pub relation_count: i32,
    /// Size of the database.
    pub size_bytes: i64,
    /// Version of the agent's pg_dump. Zero if absent.
    pub pg_dump_version_num: i32,
    /// Tables that get `REPLICA IDENTITY FULL`, as the operator agreed.
    pub identity_full_tables: Vec<RelationName>,
    /// Those of the roles that own something.
    pub owner_role_names: Vec<String>,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCount {
    /// The table.
    pub table: RelationName,
    /// Rows under one snapshot.
    pub row_count: i64,
    /// Rows inserted since the server started counting.
    pub inserted_count: i64,
    /// Rows deleted since the server started counting.
    pub deleted_count: i64,
}

/// One object of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaObject {
    /// What it is, and its name.
    pub identity: String,
    /// SHA-256 of its definition.
    pub digest: Digest,
}

/// What one side counted.
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

/// Where one sequence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    /// The sequence.
    pub sequence: RelationName,
    /// Its last value.
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
}

/// The barrier stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Barrier {
    /// The row that travels the stream.
    pub marker_id: String,
    /// Position of the source after it.
    pub marker_lsn: String,
    /// Every sequence of the database.
    pub sequences: Vec<SequenceState>,
    /// The catalog under the barrier.
    pub catalog_digest: Digest,
    /// How long the locks took.
    pub lock_wait: Duration,
    /// Sessions whose statement was cancelled.
    pub cancelled_session_count: i32,
}

/// What was compared with the barrier standing, and did not differ: rows that were
/// written since P0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WrittenRows {
    /// Tables that were written to and compared.
    pub table_count: i32,
    /// Rows of them that were written.
    pub row_count: i64,
    /// Tables that were written to and not compared.
    pub left_out: Vec<RelationName>,
    /// How long it took.
    pub elapsed: Duration,
}

/// The source is fenced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fence {
    /// Position of the source after it.
    pub fence_lsn: String,
    /// Every sequence, read when nobody was left.
    pub sequences: Vec<SequenceState>,
    /// Sessions that were ended.
    pub terminated_session_count: i32,
    /// The catalog, read when nobody was left.
    pub catalog_digest: Digest,
}

/// The rows of the slot's snapshot are on the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Copied {
    /// Tables copied. Zero when the subscription copies.
    pub table_count: i32,
    /// Rows written, those of abandoned attempts left out.
    pub row_count: i64,
    /// Bytes of COPY data written, before any compression.
    pub copied_bytes: i64,
    /// Bytes that were copied again, because the snapshot was lost.
    pub repeated_bytes: i64,
    /// Where the copy ends and the stream begins.
    pub consistent_point: String,
    /// Tables that were complete when a snapshot was lost and were not copied
    /// again.
    pub kept_table_count: i32,
    /// Those of them in which rows that had been touched since were exchanged.
    pub mended_table_count: i32,
}

/// The other agent answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Time from question to answer.
    pub round_trip: Duration,
    /// The other agent's release, for people.
    pub software_version: String,
    /// Whether the way there leads through the coordinator. Absent in histories
    /// of before there were relays.
    #[serde(default)]
    pub relayed: bool,
}

/// What one agent states about a switch, as it was signed. Kept and handed out;
/// nothing here reads it, and nobody has to believe that nothing here changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// The statement.
    pub statement: String,
    /// Number of the signature scheme.
    pub scheme: u32,
    /// The signature.
    pub signature: Digest,
    /// The signer's certificate, then those up to the authority.
    pub chain: Vec<Digest>,
}

/// What an act produced. One variant for each [`ActKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at `CommandResult.result` in the contract")]
pub enum Outcome {
    CheckServer {
        inventory: Inventory,
        findings: Vec<Finding>,
    },
    CreateReplicationRole {
        role_name: String,
    },
    ReachPeer(Reached),
    SetReplicaIdentity {
        table_count: i32,
    },
    CreatePublication {
        publication_name: String,
        table_count: i32,
    },
    CloseDatabase {
        terminated_session_count: i32,
    },
    RestoreSchema {
        dump_digest: Digest,
        object_count: i64,
    },
    CreateSlot {
        slot_name: String,
        consistent_point: String,
    },
    CopyTables(Copied),
    CreateSubscription {
        subscription_name: String,
        table_count: i32,
    },
    AwaitCopy {
        table_count: i32,
    },
    AwaitLag {
        lag: Duration,
    },
    CreateWayBack {
        subscription_name: String,
        table_count: i32,
    },
    CountRows(RowCounts),
    CompareRows(RowComparison),
    PrepareCutover {
        table_set_digest: Digest,
        catalog_digest: Digest,
        table_count: i32,
    },
    RaiseBarrier(Barrier),
    DrainToMarker {
        drain_time: Duration,
        sequence_count: i32,
        flush_lsn: String,
        #[serde(default)]
        compared: Option<WrittenRows>,
    },
    FenceSource(Fence),
    OpenDestination {
        open_lsn: String,
    },
    ReleaseBarrier {
        barrier_time: Duration,
    },
    KeepStream {
        begin_lsn: String,
    },
    FollowStream {
        first_arrival: Duration,
    },
    CertifySwitch(SignedStatement),
    FinishMigration {
        unfence_statements: Vec<String>,
    },
}

impl Outcome {
    /// The kind of act that produces this.
    #[must_use]
    pub fn kind(&self) -> ActKind {
        match self {
            Self::CheckServer { .. } => ActKind::CheckServer,
            Self::CreateReplicationRole { .. } => ActKind::CreateReplicationRole,
            Self::ReachPeer(_) => ActKind::ReachPeer,
            Self::SetReplicaIdentity { .. } => ActKind::SetReplicaIdentity,
            Self::CreatePublication { .. } => ActKind::CreatePublication,
            Self::CloseDatabase { .. } => ActKind::CloseDatabase,
            Self::RestoreSchema { .. } => ActKind::RestoreSchema,
            Self::CreateSlot { .. } => ActKind::CreateSlot,
            Self::CopyTables(_) => ActKind::CopyTables,
            Self::CreateSubscription { .. } => ActKind::CreateSubscription,
            Self::AwaitCopy { .. } => ActKind::AwaitCopy,
            Self::AwaitLag { .. } => ActKind::AwaitLag,
            Self::CreateWayBack { .. } => ActKind::CreateWayBack,
            Self::CountRows(_) => ActKind::CountRows,
            Self::CompareRows(_) => ActKind::CompareRows,
            Self::PrepareCutover { .. } => ActKind::PrepareCutover,
            Self::RaiseBarrier(_) => ActKind::RaiseBarrier,
            Self::DrainToMarker { .. } => ActKind::DrainToMarker,
            Self::FenceSource(_) => ActKind::FenceSource,
            Self::OpenDestination { .. } => ActKind::OpenDestination,
            Self::ReleaseBarrier { .. } => ActKind::ReleaseBarrier,
            Self::KeepStream { .. } => ActKind::KeepStream,
            Self::FollowStream { .. } => ActKind::FollowStream,
            Self::CertifySwitch(_) => ActKind::CertifySwitch,
            Self::FinishMigration { .. } => ActKind::FinishMigration,
        }
    }
}
