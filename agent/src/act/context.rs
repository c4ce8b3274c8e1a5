//! The handles, the command and the ways to report that every act gets.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::figures::{Gauges, LinkTraffic};
use pgportage_data_plane::heartbeat::Heartbeats;
use pgportage_data_plane::peer::Peers;
use pgportage_data_plane::role::Roles;
use pgportage_data_plane::slot::Slots;
use pgportage_data_plane::snapshot::Snapshots;
use pgportage_data_plane::tunnel::Tunnels;
use pgportage_link::tls::Identity;
use pgportage_link::{Effect, Failure, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_migration::ledger::Entry;
use pgportage_postgres::Door;
use pgportage_proto::Reason;
use pgportage_report::progress::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hook::Hooks;
use crate::policy::Policy;
use crate::pooler::Poolers;
use crate::settings::Settings;
use crate::switchover::Switchovers;

/// What every act is given: the migration, the command, the door to the
/// database, and the ways to report, to wait and to be stopped.
#[derive(Clone, Debug)]
pub struct Context {
    /// The agent's part in the migration.
    pub participation: Participation,
    /// The command being carried out: the key of ledger rows.
    pub command_id: String,
    /// Epoch of the coordinator that sent it.
    pub leader_epoch: i64,
    /// Digest of the plan it belongs to.
    pub plan_digest: Vec<u8>,
    /// How long the act may go without progress before it fails with
    /// [`Reason::Stalled`].
    pub stall_timeout: Duration,
    /// What all acts of this agent share.
    pub handles: Handles,
    /// Takes the progress to report.
    pub progress: watch::Sender<Progress>,
    /// Set when the act should stop. Acts honour it at safe points.
    pub cancel: CancellationToken,
}

/// What acts work with: one of each for the whole agent, made at its start. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Handles {
    /// What `agent.toml` says.
    pub settings: Arc<Settings>,
    /// What the owner allows on this server.
    pub policy: Arc<Policy>,
    /// This agent's certificate and its key.
    pub identity: Identity,
    /// The durable state of this agent.
    pub journal: Journal,
    /// Opens database sessions.
    pub door: Door,
    /// The replication slots of this agent's server.
    pub slots: Slots,
    /// The replication roles of this agent's server.
    pub roles: Roles,
    /// Calls the other agents.
    pub peers: Peers,
    /// Where the server's own subscriptions enter the link.
    pub tunnels: Tunnels,
    /// The snapshots of the migrations that this agent is the source of.
    pub snapshots: Snapshots,
    /// The heartbeats of the migrations that this agent publishes for.
    pub heartbeats: Heartbeats,
    /// The poolers that applications reach databases through.
    pub poolers: Poolers,
    /// Commands of the machine's owner at named points of a switchover.
    pub hooks: Hooks,
    /// The parts that carry out and settle switchovers.
    pub switchovers: Switchovers,
    /// What is measured between commands.
    pub gauges: Gauges,
    /// Bytes that went over the link.
    pub traffic: LinkTraffic,
    /// Tasks that outlast a command.
    pub tasks: Tasks,
}

/// An act reaches the handles as if they were fields of the context: `cx.journal`.
impl Deref for Context {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl Context {
    /// The command and its coordinator, for a row of the ledger.
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        Entry { command_id: &self.command_id, leader_epoch: self.leader_epoch, plan_digest: &self.plan_digest }
    }

    /// Reports progress. Never waits.
    pub fn report(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// A place where an attempt may be stopped without harm.
    ///
    /// # Errors
    ///
    /// [`Reason::Cancelled`] when it was asked to stop.
    pub fn safe_point(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "stopped because it was asked to")
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown));
        }
        Ok(())
    }

    /// Waits, and ends early with [`Reason::Cancelled`] when asked to stop.
    ///
    /// # Errors
    ///
    /// [`Reason::Cancelled`].
    pub async fn pause(&self, duration: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => self.safe_point(),
            () = self.tasks.clock.sleep(duration) => Ok(()),
        }
    }

    /// A place where a test may kill the process. Does nothing in a release
    /// build.
    pub fn fail_point(&self, name: &'static str) {
        pgportage_link::fail_point::hit(name);
    }
}
