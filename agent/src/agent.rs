//! The long-lived things of one agent, shared by its steps and services.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use pgportage_link::Clock;
use pgportage_link::relay::Relay;
use pgportage_link::tls::Identity;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::heartbeat::Heartbeats;
use crate::hook::Hooks;
use crate::journal::Journal;
use crate::metrics::{Gauges, LinkTraffic};
use crate::peer::Peers;
use crate::policy::Policy;
use crate::pooler::Poolers;
use crate::postgres::{Door, DoorSettings};
use crate::settings::Settings;
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
    pub tasks: TaskTracker,
    /// Says that the process ends.
    pub stop: CancellationToken,
}

/// A shared agent.
pub type SharedAgent = Arc<Agent>;

impl Agent {
    /// Puts an agent together. Opens no connection.
    #[must_use]
    pub fn new(settings: Settings, policy: Policy, journal: Journal, identity: Identity) -> Self {
        let clock = Clock;
        let door = Door::new(door_settings(&settings, &policy), clock);
        let relay = Relay::new(&settings.coordinator.address, &settings.coordinator.name, identity.clone());
        Self {
            name: settings.name.clone(),
            clock,
            door,
            server_version: AtomicI32::new(0),
            attached: AtomicBool::new(false),
            peers: Peers::new(identity.clone(), policy.clone(), relay.clone(), clock)
                .with_compression(settings.link.compression),
            relay,
            tunnels: Tunnels::new(),
            snapshots: Snapshots::new(clock),
            cutovers: CutoverSessions::default(),
            poolers: Poolers::default(),
            hooks: Hooks::default(),
            gauges: Gauges::default(),
            traffic: LinkTraffic::default(),
            heartbeats: Heartbeats::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
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
