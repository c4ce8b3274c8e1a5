//! What survives the coordinator: every fact of every migration, the agents it
//! has heard from, and its own epoch.
//!
//! **The facts are the truth.** Where a migration stands is folded from them
//! ([`crate::workflow::state::fold`]) and never stored beside them.

pub(crate) mod sqlite;

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use tokio_util::sync::CancellationToken;

use crate::workflow::fact::Fact;
use crate::workflow::spec::MigrationId;

pub(crate) use sqlite::SqliteStore;

/// Why the store did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store.
    #[error("the store {path} is held by another process")]
    InUse {
        /// Where it is.
        path: String,
    },
    /// A newer release wrote it.
    #[error("the store has format {found}, and this release knows up to {known}")]
    TooNew {
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Somebody else wrote to the migration, or it exists already. Nothing was
    /// stored.
    #[error("migration {0} was changed by somebody else")]
    Conflict(MigrationId),
    /// Something in the store cannot be read.
    #[error("the store holds something unreadable: {0}")]
    Unreadable(String),
    /// There is no room for more. Nothing was stored; it may be tried again.
    #[error("the store is full")]
    Full,
    /// Writing failed in a way after which nobody knows what is on the disk.
    /// **The process must end**; a retry could report as stored what is lost.
    #[error("the store failed, and nothing more is written to it")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = match &error {
            StoreError::InUse { .. } => Self::new(Reason::StoreInUse, error.to_string())
                .hint("Stop the other coordinator, or give this one a directory of its own."),
            StoreError::TooNew { .. } => Self::new(Reason::StoreTooNew, error.to_string())
                .hint("Start the release that wrote the store, or a newer one."),
            StoreError::Conflict(_) => Self::new(Reason::EtagMismatch, error.to_string()),
            StoreError::Unreadable(_) => Self::new(Reason::StoreUnwritable, error.to_string()),
            StoreError::Full | StoreError::Broken(_) => Self::new(Reason::StoreUnwritable, error.to_string())
                .hint("Make room on the disk of the coordinator's state directory, and look at its log."),
        };
        let failure = match &error {
            StoreError::Broken(source) => failure.because(source.as_ref()),
            StoreError::InUse { .. }
            | StoreError::TooNew { .. }
            | StoreError::Conflict(_)
            | StoreError::Unreadable(_)
            | StoreError::Full => failure,
        };
        failure.effect(Effect::None)
    }
}

/// What the store keeps about an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The name in its certificate.
    pub name: String,
    /// Number of its latest session. Only grows.
    pub session_epoch: i64,
    pub software_version: String,
    /// The revision of its latest session.
    pub revision: i32,
    /// `server_version_num` of its server. Zero while unknown.
    pub server_version_num: i32,
    /// SHA-256 of its policy.
    pub policy_digest: Vec<u8>,
    pub attach_time: SystemTime,
    /// When it was last heard from, as far as that was written down.
    pub contact_time: SystemTime,
    /// Whether it said goodbye.
    pub left: bool,
}

/// One migration's facts, in order.
pub(crate) type History = (MigrationId, Vec<Fact>);

/// Keeps facts. Every method returns only when what it was given is on the disk.
///
/// Dropping a returned future does not take back what was asked for.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// This coordinator's epoch: higher than that of every one before it.
    fn leader_epoch(&self) -> i64;

    /// Raises this coordinator's epoch above one that an agent has seen: the
    /// store that gave it was lost.
    fn lead_above(&self, seen: i64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends when the store is [`StoreError::Broken`]: the process must end too.
    fn broken(&self) -> &CancellationToken;

    /// Adds facts to a migration's history, all or none. The first must follow
    /// the last one stored; number 1 creates the migration.
    fn append(&self, id: MigrationId, facts: Vec<Fact>) -> BoxFuture<'_, Result<(), StoreError>>;

    fn histories(&self) -> BoxFuture<'_, Result<Vec<History>, StoreError>>;

    /// Begins a session of an agent and returns its epoch, higher than those of
    /// all its sessions before. `agent.session_epoch` is ignored.
    fn begin_session(&self, agent: AgentRecord) -> BoxFuture<'_, Result<i64, StoreError>>;

    /// Notes when an agent was last heard from, and whether it left on purpose.
    /// Ignored when a newer session has begun.
    fn end_session(
        &self,
        name: String,
        session_epoch: i64,
        contact_time: SystemTime,
        left: bool,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    fn agents(&self) -> BoxFuture<'_, Result<Vec<AgentRecord>, StoreError>>;
}
