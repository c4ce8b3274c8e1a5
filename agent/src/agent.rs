//! The long-lived things of one agent, shared by its steps and services.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use pgportage_link::relay::Relay;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Tasks};
use tokio_util::sync::CancellationToken;

use crate::figures::{Gauges, LinkTraffic};
use crate::heartbeat::Heartbeats;
use crate::hook::Hooks;
use crate::journal::Journal;
use crate::peer::Peers;
use crate::policy::Policy;
use crate::pooler::Poolers;
use crate::postgres::{Door, DoorSettings};
use crate::role::Roles;
use crate::settings::Settings;
use crate::slot::Slots;
use crate::snapshot::Snapshots;
use crate::step::cutover::CutoverSessions;
use crate::tunnel::Tunnels;

/// What outlasts a single command.
///
/// Made by `main`, shared by the runner, the session, the link's service, the
/// heartbeat and the watch.
#[derive(Debug)]
pub struct Agent {
    /// The name in this agent's certificate.
    pub name: String,
    /// The clocks.
    pub clock: Clock,
    /// What `agent.toml` says.
    pub settings: Settings,
    /// What may be done here.
    pub policy: Policy,
    /// Who this agent is, and the key that proves it.
    pub identity: Identity,
    /// What survives a crash.
    pub journal: Journal,
    /// Opens database sessions.
    pub door: Door,
    server_version: AtomicI32,
    attached: AtomicBool,
    /// The replication slots.
    pub slots: Slots,
    /// The replication roles.
    pub roles: Roles,
    /// Dials the other agents.
    pub peers: Peers,
    /// Where other agents are met that cannot be dialled, or cannot dial us.
    pub relay: Relay,
    /// Where the server's own subscriptions enter the link.
    pub tunnels: Tunnels,
    /// The snapshots of the migrations that this agent is the source of.
    pub snapshots: Snapshots,
    /// Sessions of cutovers under way.
    pub cutovers: CutoverSessions,
    /// The poolers that applications reach databases through.
    pub poolers: Poolers,
    /// Hooks that are being told how a cutover ended.
    pub hooks: Hooks,
    /// What is measured between commands.
    pub gauges: Gauges,
    /// What went over the link.
    pub traffic: LinkTraffic,
    /// The heartbeats of the migrations that this agent is the source of.
    pub heartbeats: Heartbeats,
    /// Owner of every task that outlasts a command. **Invariant:** each of them
    /// ends by itself soon after `stop`.
    pub tasks: Tasks,
    /// Says that the process ends.
    pub stop: CancellationToken,
}

/// A shared agent.
pub type SharedAgent = Arc<Agent>;

impl Agent {
    /// Puts an agent together. Opens no connection.
    #[must_use]
    pub fn new(settings: Settings, policy: Policy, journal: Journal, identity: Identity) -> Self {
        let tasks = Tasks::default();
        let (clock, stop) = (tasks.clock, tasks.stop.clone());
        let door = Door::new(door_settings(&settings, &policy), clock);
        let premade = policy.roles().clone();
        let slots = Slots::new(
            door.clone(),
            journal.clone(),
            premade.replication.clone(),
            &settings.postgres.replication_address,
        );
        let roles = Roles::new(door.clone(), slots.clone(), premade);
        let relay = Relay::new(&settings.coordinator.address, &settings.coordinator.name, identity.clone());
        let compression = settings.link.compression;
        let peers = Peers::new(identity.clone(), policy.peers().clone(), relay.clone(), compression, clock);
        let (gauges, traffic) = (Gauges::default(), LinkTraffic::default());
        Self {
            name: settings.name.clone(),
            clock,
            tunnels: Tunnels::new(
                settings.tunnel.clone(),
                journal.clone(),
                peers.clone(),
                traffic.clone(),
                tasks.clone(),
            ),
            snapshots: Snapshots::new(door.clone(), journal.clone(), slots.clone(), tasks.clone()),
            heartbeats: Heartbeats::new(door.clone(), journal.clone(), peers.clone(), gauges.clone(), tasks.clone()),
            door,
            slots,
            roles,
            server_version: AtomicI32::new(0),
            attached: AtomicBool::new(false),
            peers,
            relay,
            cutovers: CutoverSessions::default(),
            poolers: Poolers::default(),
            hooks: Hooks::default(),
            gauges,
            traffic,
            tasks,
            stop,
            settings,
            policy,
            identity,
            journal,
        }
    }

    /// The server's `server_version_num`. Zero while unknown.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        self.server_version.load(Ordering::Relaxed)
    }

    /// Takes note of the server's version, which an upgrade may change.
    pub fn set_server_version(&self, version_num: i32) {
        self.server_version.store(version_num, Ordering::Relaxed);
    }

    /// Whether a session with the coordinator lives. For people and metrics:
    /// nothing is decided by it.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// The session begins or ends.
    pub(crate) fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }
}

fn door_settings(settings: &Settings, policy: &Policy) -> DoorSettings {
    let postgres = &settings.postgres;
    DoorSettings {
        host: postgres.host.clone(),
        port: postgres.port,
        user: postgres.user.clone(),
        password_file: postgres.password_file.clone(),
        passfile: postgres.passfile.clone(),
        lock_timeout: policy.limits().lock_timeout,
        max_sessions: postgres.max_sessions.into(),
    }
}
