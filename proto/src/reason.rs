//! The stable identifiers of failures and findings.
//!
//! One list for both, because an operator who reads `WAL_LEVEL_TOO_LOW` does
//! not care whether preflight or a step said it. Each has a page in `docs/errors/`
//! that is part of the programs: without it nothing compiles.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Why something did not succeed, or what preflight found.
        ///
        /// The text form is stable: programs match on it, and
        /// [`Reason::page`] explains it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text, for example `WAL_LEVEL_TOO_LOW`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// What happened, how to see it and what to do, in Markdown: what
            /// `pgportage help <TEXT>` prints.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("../../docs/errors/", $text, ".md")),)+
                }
            }
        }
    };
}

reasons! {
    // ---- The program and its configuration.
    /// The configuration has problems; all of them are listed.
    ConfigurationInvalid = "CONFIGURATION_INVALID",
    /// A file that has to survive a crash cannot be written.
    StoreUnwritable = "STORE_UNWRITABLE",
    /// A store or journal was written by a newer release.
    StoreTooNew = "STORE_TOO_NEW",
    /// Another process holds the store or journal.
    StoreInUse = "STORE_IN_USE",
    /// A defect of ours.
    Internal = "INTERNAL",

    // ---- Who may do what.
    /// The caller's certificate has another role than the method needs.
    WrongRole = "WRONG_ROLE",
    /// The caller's certificate names another program than the caller says it is.
    WrongName = "WRONG_NAME",
    /// The agent's local policy does not allow it.
    PolicyDenied = "POLICY_DENIED",
    /// Revision ranges of the two ends do not meet.
    ProtocolTooOld = "PROTOCOL_TOO_OLD",
    /// The message belongs to an earlier session.
    StaleSession = "STALE_SESSION",
    /// The command comes from an earlier coordinator.
    StaleEpoch = "STALE_EPOCH",
    /// The command was decided too long ago.
    StaleCommand = "STALE_COMMAND",
    /// A known command id came with other content.
    CommandConflict = "COMMAND_CONFLICT",
    /// The agent does not know this action.
    UnknownAction = "UNKNOWN_ACTION",
    /// A request field is missing or malformed.
    RequestInvalid = "REQUEST_INVALID",

    // ---- Migrations, as operators address them.
    /// There is no migration of this name.
    MigrationMissing = "MIGRATION_MISSING",
    /// There is a migration of this name already.
    MigrationExists = "MIGRATION_EXISTS",
    /// The verb does not fit the migration's state.
    WrongState = "WRONG_STATE",
    /// The migration has changed since the caller looked.
    EtagMismatch = "ETAG_MISMATCH",
    /// The coordinator has never heard of this agent.
    AgentUnknown = "AGENT_UNKNOWN",
    /// The agent has no session at the moment.
    AgentNotAttached = "AGENT_NOT_ATTACHED",
    /// Findings stand in the way.
    FindingsRefuse = "FINDINGS_REFUSE",
    /// The operator has to agree to findings first.
    ConsentRequired = "CONSENT_REQUIRED",
    /// Nothing moved for longer than the stall limit.
    Stalled = "STALLED",
    /// A session of ours waits for a lock that another session holds.
    SessionBlocked = "SESSION_BLOCKED",
    /// The coordinator or the caller asked for a stop.
    Cancelled = "CANCELLED",

    // ---- The servers.
    /// The server does not answer.
    ServerUnreachable = "SERVER_UNREACHABLE",
    /// The server refuses the agent's login.
    LoginRefused = "LOGIN_REFUSED",
    /// The database does not exist.
    DatabaseMissing = "DATABASE_MISSING",
    /// The destination database holds objects already.
    DatabaseNotEmpty = "DATABASE_NOT_EMPTY",
    /// PostgreSQL reported an error that no step expects.
    ServerError = "SERVER_ERROR",
    /// A privilege is missing.
    PrivilegeMissing = "PRIVILEGE_MISSING",
    /// A setting or catalog could not be read. Never a pass.
    CouldNotCheck = "COULD_NOT_CHECK",

    // ---- The link.
    /// The other agent cannot be reached.
    PeerUnreachable = "PEER_UNREACHABLE",
    /// The other agent refuses.
    PeerRefused = "PEER_REFUSED",

    // ---- Schema.
    /// pg_dump or pg_restore is not on the machine.
    PgDumpMissing = "PG_DUMP_MISSING",
    /// pg_dump is older than a server.
    PgDumpTooOld = "PG_DUMP_TOO_OLD",
    /// pg_dump failed.
    PgDumpFailed = "PG_DUMP_FAILED",
    /// pg_restore failed; its transaction was rolled back.
    PgRestoreFailed = "PG_RESTORE_FAILED",

    // ---- Replication.
    /// The server let the replication role in without a password.
    PasswordNotAsked = "PASSWORD_NOT_ASKED",
    /// The replication role cannot log in through the link.
    ReplicationLoginFailed = "REPLICATION_LOGIN_FAILED",
    /// The slot is gone or invalidated; the copy has to start again.
    SlotLost = "SLOT_LOST",
    /// What would let the migration return after its cutover is gone.
    WayBackLost = "WAY_BACK_LOST",
    /// The subscriber's server was failed over: the stream may have a hole.
    ResyncRequired = "RESYNC_REQUIRED",
    /// The source does not keep the snapshot any more that the copy reads.
    SnapshotLost = "SNAPSHOT_LOST",
    /// A table has no usable replica identity: publishing it would make the
    /// application's UPDATE and DELETE fail.
    ReplicaIdentityMissing = "REPLICA_IDENTITY_MISSING",
    /// An object of ours has another definition than ours.
    ObjectConflict = "OBJECT_CONFLICT",
    /// The subscription stopped applying.
    ApplyFailed = "APPLY_FAILED",
    /// The source keeps more WAL for our slot than the policy allows.
    WalLimitExceeded = "WAL_LIMIT_EXCEEDED",
    /// Rows differ, or how many there are.
    RowsDiffer = "ROWS_DIFFER",
    /// A sequence in use is behind values that were handed out before the cutover.
    SequencesBehind = "SEQUENCES_BEHIND",
    /// Not everything could be compared. Never a pass.
    VerificationIncomplete = "VERIFICATION_INCOMPLETE",
    /// Schema objects differ.
    SchemaDiffers = "SCHEMA_DIFFERS",

    // ---- Cutover.
    /// The lag is above the limit.
    LagTooHigh = "LAG_TOO_HIGH",
    /// Tables are not ready.
    TablesNotReady = "TABLES_NOT_READY",
    /// A transaction on the source has been open for too long.
    LongTransaction = "LONG_TRANSACTION",
    /// Prepared transactions are pending on the source.
    PreparedTransactions = "PREPARED_TRANSACTIONS",
    /// An application works as superuser: no fence can keep it out.
    SuperuserSession = "SUPERUSER_SESSION",
    /// The table locks were not granted in time.
    BarrierTimeout = "BARRIER_TIMEOUT",
    /// The table locks and an application wait for each other, and the policy lets the
    /// application go on.
    BarrierConflict = "BARRIER_CONFLICT",
    /// The pooler's console does not answer.
    PoolerUnreachable = "POOLER_UNREACHABLE",
    /// The pooler is not what the agent's policy says, or cannot be led elsewhere.
    PoolerUnfit = "POOLER_UNFIT",
    /// The pooler's clients do not come to rest.
    PoolerBusy = "POOLER_BUSY",
    /// A command of the agent's policy failed before the decision.
    HookFailed = "HOOK_FAILED",
    /// The barrier's session ended before the fence was proved.
    BarrierLost = "BARRIER_LOST",
    /// The marker did not arrive in time.
    DrainTimeout = "DRAIN_TIMEOUT",
    /// The outage would exceed its budget.
    OutageBudgetExceeded = "OUTAGE_BUDGET_EXCEEDED",
    /// An application session is left on the source, or an application could log in.
    FenceIncomplete = "FENCE_INCOMPLETE",
    /// The destination is not closed.
    DestinationNotClosed = "DESTINATION_NOT_CLOSED",
    /// The time for opening is over, or the cutover was given up.
    OpenRefused = "OPEN_REFUSED",
    /// The destination has opened: nothing can be taken back.
    DestinationOpened = "DESTINATION_OPENED",
    /// The agent of the side that is left does not know yet whether the other side has
    /// opened.
    CutoverInDoubt = "CUTOVER_IN_DOUBT",
    /// The certificate of a cutover or rollback is incomplete, forged, or tells two
    /// stories.
    CertificateNotProved = "CERTIFICATE_NOT_PROVED",

    // ---- Findings of preflight: the server as it is set up.
    /// The server's version is not supported, or older than the source's.
    VersionUnsupported = "VERSION_UNSUPPORTED",
    /// The server's release has a known defect that matters here.
    ServerDefect = "SERVER_DEFECT",
    /// `wal_level` is not `logical`.
    WalLevelTooLow = "WAL_LEVEL_TOO_LOW",
    /// Too few replication slots are free.
    SlotsExhausted = "SLOTS_EXHAUSTED",
    /// Too few WAL senders are free.
    SendersExhausted = "SENDERS_EXHAUSTED",
    /// Too few replication workers are free on the destination.
    WorkersExhausted = "WORKERS_EXHAUSTED",
    /// Too few replication origins are free on the destination.
    OriginsExhausted = "ORIGINS_EXHAUSTED",
    /// The lock table is too small for the number of tables.
    LocksTooFew = "LOCKS_TOO_FEW",
    /// The server is a standby.
    ServerInRecovery = "SERVER_IN_RECOVERY",
    /// Subscriptions write into the source database.
    SourceSubscribes = "SOURCE_SUBSCRIBES",
    /// `synchronous_standby_names` would take our WAL sender for a standby.
    SynchronousStandbyAny = "SYNCHRONOUS_STANDBY_ANY",
    /// `max_slot_wal_keep_size` may invalidate our slot.
    SlotSizeLimited = "SLOT_SIZE_LIMITED",
    /// `idle_replication_slot_timeout` may invalidate our slot.
    SlotIdleTimeout = "SLOT_IDLE_TIMEOUT",
    /// `output_plugin_libraries` does not allow `pgoutput`.
    OutputPluginForbidden = "OUTPUT_PLUGIN_FORBIDDEN",
    /// A time limit of the server or of a role may end our sessions.
    TimeLimitSet = "TIME_LIMIT_SET",
    /// The disk has too little room for the database.
    DiskSpaceLow = "DISK_SPACE_LOW",
    /// Both sides are the same server, or one is a copy of the other.
    SameServer = "SAME_SERVER",
    /// The databases' encodings do not fit.
    EncodingDiffers = "ENCODING_DIFFERS",
    /// The databases sort texts differently.
    CollationDiffers = "COLLATION_DIFFERS",
    /// A role that the schema names does not exist on the destination.
    RoleMissing = "ROLE_MISSING",
    /// An extension cannot be installed on the destination.
    ExtensionMissing = "EXTENSION_MISSING",
    /// The destination installs another version of an extension.
    ExtensionVersionDiffers = "EXTENSION_VERSION_DIFFERS",
    /// Objects of an earlier migration are still there.
    ObjectLeftBehind = "OBJECT_LEFT_BEHIND",

    // ---- Findings of preflight: the objects of the database.
    /// A table has no usable replica identity and cannot be given all its
    /// columns as one.
    ReplicaIdentityImpossible = "REPLICA_IDENTITY_IMPOSSIBLE",
    /// A primary key is deferrable, so it is no replica identity.
    PrimaryKeyDeferrable = "PRIMARY_KEY_DEFERRABLE",
    /// Row-level security would hide rows.
    RowLevelSecurity = "ROW_LEVEL_SECURITY",
    /// A trigger fires for replicated changes as well.
    TriggerFiresOnApply = "TRIGGER_FIRES_ON_APPLY",
    /// Sequences do not replicate; they are set at the cutover.
    SequencesAtCutover = "SEQUENCES_AT_CUTOVER",
    /// Large objects are not moved.
    LargeObjectsNotMoved = "LARGE_OBJECTS_NOT_MOVED",
    /// Rows of an unlogged table are not moved.
    UnloggedNotMoved = "UNLOGGED_NOT_MOVED",
    /// Rows of a foreign table stay where they are.
    ForeignTableNotMoved = "FOREIGN_TABLE_NOT_MOVED",
    /// A materialised view is empty until it is refreshed.
    MaterializedViewEmpty = "MATERIALIZED_VIEW_EMPTY",
    /// Rows in tables of an extension are not moved.
    ExtensionTableNotMoved = "EXTENSION_TABLE_NOT_MOVED",
    /// A publication is not moved.
    PublicationNotMoved = "PUBLICATION_NOT_MOVED",
    /// A replication slot is not moved.
    SlotNotMoved = "SLOT_NOT_MOVED",
    /// A setting of the database or of a role in it is not moved.
    SettingNotMoved = "SETTING_NOT_MOVED",
    /// Relations lose their tablespace.
    TablespaceNotMoved = "TABLESPACE_NOT_MOVED",
    /// An invalid index is not moved.
    IndexInvalid = "INDEX_INVALID",
}

impl Reason {
    /// How many are named for a text that is none.
    const NEAREST: usize = 3;

    /// The reasons whose texts are most like this one; none when nothing is.
    pub fn nearest(text: &str) -> Vec<Self> {
        let mut ranked: Vec<_> = Self::ALL.iter().map(|&reason| (unlikeness(text, reason.as_str()), reason)).collect();
        ranked.sort_by_key(|(unlike, _)| *unlike);
        let near = |(unlike, reason): (usize, Self)| (unlike <= reason.as_str().len() / 3).then_some(reason);
        ranked.into_iter().map_while(near).take(Self::NEAREST).collect()
    }
}

/// How many letters have to be put in, taken out or replaced to make one of the other.
/// A beginning that stops between words is near.
fn unlikeness(text: &str, known: &str) -> usize {
    if text.len() > 2 && known.split('_').any(|word| word == text) {
        return 1;
    }
    let mut above: Vec<usize> = (0..=known.len()).collect();
    for (row, letter) in text.bytes().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in known.bytes().enumerate() {
            let replaced = above[column] + usize::from(letter != other);
            line.push(replaced.min(above[column + 1] + 1).min(line[column] + 1));
        }
        above = line;
    }
    above.last().copied().unwrap_or_default()
}

/// A text that names no reason of this release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownReason(pub String);

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown reason {:?}", self.0)
    }
}

impl std::error::Error for UnknownReason {}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
