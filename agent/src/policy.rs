//! What the agent may do on this server at all.
//!
//! A local file that only the machine's owner can write. **Invariant:** nothing that comes over the wire
//! widens it; every command is checked against it before anything else happens.

mod command;
mod destructive;
mod file;
mod hook;
mod pooler;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_data_plane::peer::PeerAddress;
use pgportage_data_plane::role::PremadeRoles;
use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_proto::{ActKind, Reason, Side, Verb};

pub use command::LocalCommand;
pub use destructive::{Destructive, DestructiveAct};
pub use hook::{HookPoint, HookRule};
pub use pooler::{PoolerRule, Repoint, ServerAddress};

/// The policy file, checked. Read once at start.
#[derive(Clone, Debug)]
pub struct Policy {
    path: PathBuf,
    digest: [u8; 32],
    databases: BTreeMap<String, DatabaseRule>,
    acts: Option<AllowedActs>,
    peers: BTreeMap<String, PeerAddress>,
    limits: Limits,
    destructive: Destructive,
    roles: PremadeRoles,
    poolers: Vec<PoolerRule>,
    hooks: Vec<HookRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedActs {
    /// The key that lists them: `acts`, or `steps` in an older file.
    key: &'static str,
    kinds: BTreeSet<ActKind>,
}

/// What the agent may do with one database.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DatabaseRule {
    sides: BTreeSet<Side>,
    /// Absent: every peer of the file.
    peers: Option<BTreeSet<String>>,
    source_address: Option<String>,
}

/// The limits of what the agent may do. Every number has a default; the reasons are at `Limits::default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for one lock, outside the cutover.
    pub lock_timeout: Duration,
    /// Longest time for the barrier to be granted, all tables together.
    pub barrier_timeout: Duration,
    /// What gives way when the barrier and an application wait for each other.
    pub barrier_conflict: BarrierConflict,
    /// Longest outage that a coordinator may ask for.
    pub max_outage: Duration,
    /// A command that was decided longer ago than this is refused.
    pub command_age: Duration,
    /// WAL kept for our slot: from here on, a warning.
    pub retained_wal_warn_bytes: u64,
    /// WAL kept for our slot: from here on the migration gives way and our
    /// slot is dropped.
    pub retained_wal_abort_bytes: u64,
    /// Free bytes on the disk of the WAL: below this, a warning.
    pub free_disk_warn_bytes: u64,
    /// Free bytes on the disk of the WAL: below this the migration gives way.
    pub free_disk_abort_bytes: u64,
    /// Age of the oldest transaction id our slot holds back: a warning.
    pub xmin_age_warn: u64,
    /// The same: from here on the migration gives way.
    pub xmin_age_abort: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            // Applications that queue behind our waiting lock wait as long.
            lock_timeout: Duration::from_secs(1),
            // Granted in 4 to 69 ms under load when cycles are cancelled.
            barrier_timeout: Duration::from_millis(500),
            barrier_conflict: BarrierConflict::Cancel,
            max_outage: Duration::from_secs(10),
            // Twice the silence after which a coordinator counts this agent as lost.
            command_age: Duration::from_secs(30),
            retained_wal_warn_bytes: 10 * GIB,
            retained_wal_abort_bytes: 50 * GIB,
            free_disk_warn_bytes: 10 * GIB,
            free_disk_abort_bytes: 2 * GIB,
            // The age at which autovacuum begins its own freezing, and half of what is left then.
            xmin_age_warn: 200_000_000,
            xmin_age_abort: 1_000_000_000,
        }
    }
}

/// What gives way when the barrier and an application wait for each other: neither can get out of that by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierConflict {
    /// The application's statement is cancelled as soon as the agent sees the cycle. It looks every 5 ms.
    Cancel,
    /// The switchover is taken back; no statement of an application is cancelled.
    Yield,
}

/// What a command wants to do, for the policy to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The kind of act.
    pub kind: ActKind,
    /// Whether it is performed or taken back.
    pub verb: Verb,
    /// The destructive acts that it includes.
    pub acts: Vec<DestructiveAct>,
    /// The outage it may cause.
    pub max_outage: Option<Duration>,
}

impl Policy {
    /// Reads and checks the whole file.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`], with every problem in the detail; also when a user other than the
    /// file's owner can write it.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        file::load(path)
    }

    /// Decides about one command.
    ///
    /// # Errors
    ///
    /// [`Reason::PolicyDenied`]; the hint says which line of the file would
    /// allow it.
    pub fn allows(&self, participation: &Participation, intent: &Intent) -> Result<(), Failure> {
        let Participation { database, side, peer, .. } = participation;
        let Some(rule) = self.databases.get(database).or_else(|| self.databases.get(ANY)) else {
            return Err(self.denied(
                format!("the policy does not name database {database:?}"),
                format!("Add a table [databases.{}] with `sides = [\"{side}\"]`", file::key(database)),
            ));
        };
        if !rule.sides.contains(side) {
            return Err(self.denied(
                format!("the policy does not allow database {database:?} to be a {side}"),
                format!("Add \"{side}\" to `sides` under [databases.{}]", file::key(database)),
            ));
        }
        if !self.peers.contains_key(peer) {
            return Err(self.denied(
                format!("the policy does not know peer {peer:?}"),
                format!("Add `{0} = \"host:port\"`, or `{0} = \"relay\"`, under [peers]", file::key(peer)),
            ));
        }
        if rule.peers.as_ref().is_some_and(|peers| !peers.contains(peer)) {
            return Err(self.denied(
                format!("the policy does not allow peer {peer:?} for database {database:?}"),
                format!("Add \"{peer}\" to `peers` under [databases.{}]", file::key(database)),
            ));
        }
        if let Some(AllowedActs { key, kinds }) = &self.acts
            && !kinds.contains(&intent.kind)
        {
            return Err(self.denied(
                format!("the policy does not allow act {}", intent.kind),
                format!("Add \"{}\" to `{key}`", intent.kind),
            ));
        }
        if let Some(act) = intent.acts.iter().find(|act| !self.destructive.allows(**act)) {
            return Err(self.denied(
                format!("the policy does not allow {act}, which {} of {} needs", intent.verb, intent.kind),
                format!("Set `{act} = true` under [destructive]"),
            ));
        }
        if let Some(asked) = intent.max_outage
            && asked > self.limits.max_outage
        {
            let limit = humantime::format_duration(self.limits.max_outage);
            return Err(self.denied(
                format!("the policy allows an outage of {limit}, not of {}", humantime::format_duration(asked)),
                "Ask for a shorter outage, or raise `max_outage` under [limits]".to_owned(),
            ));
        }
        Ok(())
    }

    /// The addresses of the other agents.
    pub fn peers(&self) -> &BTreeMap<String, PeerAddress> {
        &self.peers
    }

    /// The address of another agent, if it is known.
    pub fn peer_address(&self, peer: &str) -> Option<&PeerAddress> {
        self.peers.get(peer)
    }

    /// Destination: the address at which this server reaches the source server of a database directly, for
    /// subscriptions that do not go through the link.
    pub fn source_address(&self, database: &str) -> Option<&str> {
        self.databases.get(database).or_else(|| self.databases.get(ANY))?.source_address.as_deref()
    }

    /// The limits of what the agent may do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Roles that the server's owner made beforehand.
    pub fn roles(&self) -> &PremadeRoles {
        &self.roles
    }

    /// The poolers that applications reach a database through.
    pub fn poolers(&self, database: &str) -> impl Iterator<Item = &PoolerRule> {
        self.poolers.iter().filter(move |rule| rule.database == database)
    }

    /// The hooks for a point of a cutover of this database, in the order of the file.
    pub fn hooks(&self, at: HookPoint, database: &str) -> impl Iterator<Item = &HookRule> {
        let concerns = move |rule: &&HookRule| {
            rule.at == at && rule.databases.as_ref().is_none_or(|databases| databases.contains(database))
        };
        self.hooks.iter().filter(concerns)
    }

    /// The destructive acts that the file allows.
    pub fn destructive(&self) -> &Destructive {
        &self.destructive
    }

    /// SHA-256 of the file: by this the coordinator notices a change of it.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    fn denied(&self, message: String, what_would_allow: String) -> Failure {
        Failure::new(Reason::PolicyDenied, message)
            .detail("Nothing was done.")
            .hint(format!(
                "{what_would_allow} in {} on the agent's machine, then restart the agent.",
                self.path.display()
            ))
            .effect(Effect::None)
    }
}

/// Stands for every database that has no table of its own.
const ANY: &str = "*";

#[cfg(test)]
mod tests;
