//! The stable identifiers of failures and findings.
//!
//! One list for both, because an operator who reads `WAL_LEVEL_TOO_LOW` does
//! not care whether preflight or a step said it. Each has a page in
//! `docs/errors/`; a test checks that.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Why something did not succeed, or what preflight found.
        ///
        /// The text form is stable: programs match on it, and
        /// `docs/errors/<TEXT>.md` explains it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text, for example `WAL_LEVEL_TOO_LOW`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
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
    /// The caller's certificate names somebody else.
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
    /// The command was stopped because it was asked to.
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
    /// A table has no usable replica identity: publishing it would make the
    /// application's UPDATE and DELETE fail.
    ReplicaIdentityMissing = "REPLICA_IDENTITY_MISSING",
    /// An object of ours has another definition than ours.
    ObjectConflict = "OBJECT_CONFLICT",
    /// The subscription stopped applying.
    ApplyFailed = "APPLY_FAILED",
    /// The source keeps more WAL for our slot than the policy allows.
    WalLimitExceeded = "WAL_LIMIT_EXCEEDED",
    /// Row counts differ.
    RowsDiffer = "ROWS_DIFFER",
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
    /// The barrier's session ended before the fence was proved.
    BarrierLost = "BARRIER_LOST",
    /// The marker did not arrive in time.
    DrainTimeout = "DRAIN_TIMEOUT",
    /// The outage would exceed its budget.
    OutageBudgetExceeded = "OUTAGE_BUDGET_EXCEEDED",
    /// Somebody is left on the source, or could log in.
    FenceIncomplete = "FENCE_INCOMPLETE",
    /// The destination is not closed.
    DestinationNotClosed = "DESTINATION_NOT_CLOSED",
    /// The time for opening is over, or the cutover was given up.
    OpenRefused = "OPEN_REFUSED",
    /// The destination has opened: nothing can be taken back.
    DestinationOpened = "DESTINATION_OPENED",
    /// Nobody knows yet whether the destination has opened.
    CutoverInDoubt = "CUTOVER_IN_DOUBT",
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
