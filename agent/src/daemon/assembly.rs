//! Puts the parts of an agent together, each with the handles that it needs.

use std::ops::Deref;
use std::sync::Arc;

use pgportage_data_plane::drift::Drift;
use pgportage_data_plane::figures::{Gauges, LinkTraffic, Standing};
use pgportage_data_plane::heartbeat::Heartbeats;
use pgportage_data_plane::peer::Peers;
use pgportage_data_plane::role::Roles;
use pgportage_data_plane::slot::Slots;
use pgportage_data_plane::snapshot::Snapshots;
use pgportage_data_plane::tunnel::Tunnels;
use pgportage_link::Tasks;
use pgportage_link::metrics::Metrics;
use pgportage_link::relay::Relay;
use pgportage_link::serve::Relayed;
use pgportage_link::tls::Identity;
use pgportage_migration::journal::Journal;
use pgportage_postgres::{Door, DoorSettings};
use pgportage_proto::v1::peer_service_server::PeerServiceServer;
use tokio::sync::mpsc;

use crate::act::Handles;
use crate::hook::Hooks;
use crate::link_service::{self, Service};
use crate::metrics;
use crate::policy::Policy;
use crate::pooler::Poolers;
use crate::protection::Protection;
use crate::runner::Runner;
use crate::session::Session;
use crate::settings::Settings;
use crate::switchover::Switchovers;
use crate::watch::Watch;

/// The parts of an agent. Only the process itself and tests see it whole: every part gets the handles that
/// it needs, and no more. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The handles that acts work with.
    pub handles: Handles,
    /// The state of this agent, for operators and metrics.
    pub standing: Standing,
    relay: Relay,
}

impl Deref for Assembly {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl Assembly {
    /// Puts the parts together. Opens no connection.
    pub fn new(settings: Settings, policy: Policy, journal: Journal, identity: Identity) -> Self {
        let tasks = Tasks::default();
        let (settings, policy) = (Arc::new(settings), Arc::new(policy));
        let postgres = &settings.postgres;
        let door = Door::new(door_settings(&settings, &policy), tasks.clock);
        let premade = policy.roles().clone();
        let slots =
            Slots::new(door.clone(), journal.clone(), premade.replication.clone(), &postgres.replication_address);
        let roles = Roles::new(door.clone(), slots.clone(), premade);
        let relay = Relay::new(&settings.coordinator.address, &settings.coordinator.name, identity.clone());
        let addresses = policy.peers().clone();
        let peers = Peers::new(identity.clone(), addresses, relay.clone(), settings.link.compression, tasks.clock);
        let (gauges, traffic) = (Gauges::default(), LinkTraffic::default());
        let tunnels =
            Tunnels::new(settings.tunnel.clone(), journal.clone(), peers.clone(), traffic.clone(), tasks.clone());
        let snapshots = Snapshots::new(door.clone(), journal.clone(), slots.clone(), tasks.clone());
        let heartbeats = Heartbeats::new(door.clone(), journal.clone(), peers.clone(), gauges.clone(), tasks.clone());
        let poolers = Poolers::new(Arc::clone(&policy), settings.state_dir.clone(), tasks.clock);
        let hooks = Hooks::new(Arc::clone(&policy), tasks.clone());
        let switchovers = Switchovers::new(
            door.clone(),
            journal.clone(),
            Arc::clone(&policy),
            roles.clone(),
            peers.clone(),
            poolers.clone(),
            hooks.clone(),
            tasks.clone(),
        );
        let handles = Handles {
            settings,
            policy,
            identity,
            journal,
            door,
            slots,
            roles,
            peers,
            tunnels,
            snapshots,
            heartbeats,
            poolers,
            hooks,
            switchovers,
            gauges,
            traffic,
            tasks,
        };
        Self { handles, standing: Standing::default(), relay }
    }

    /// The part that carries out commands.
    pub fn runner(&self) -> Arc<Runner> {
        Runner::new(self.handles.clone())
    }

    /// The part that keeps the agent attached to the coordinator. It leads relayed agents to `entrance`.
    pub fn session(&self, runner: Arc<Runner>, entrance: mpsc::Sender<Relayed>) -> Session {
        Session::new(self.handles.clone(), self.standing.clone(), self.relay.clone(), runner, entrance)
    }

    /// The part that answers the other agents.
    pub fn link_service(&self) -> PeerServiceServer<Service> {
        link_service::service(self.handles.clone())
    }

    /// The part that publishes the figures.
    pub fn metrics(&self, runner: &Arc<Runner>) -> Metrics {
        metrics::register(&self.handles, &self.standing, runner)
    }

    /// The part that watches the slots.
    pub fn watch(&self) -> Watch {
        let Handles { door, journal, slots, policy, gauges, tasks, .. } = self.handles.clone();
        Watch::new(door, &self.settings.postgres.maintenance_database, journal, slots, policy, gauges, tasks)
    }

    /// The part that protects the server that is read from.
    pub fn protection(&self) -> Protection {
        let Handles { door, journal, snapshots, gauges, tasks, .. } = self.handles.clone();
        Protection::new(door, journal, snapshots, gauges, self.settings.protection.clone(), tasks)
    }

    /// The part that watches for schema drift.
    pub fn drift(&self) -> Drift {
        let Handles { door, journal, peers, gauges, tasks, .. } = self.handles.clone();
        Drift::new(door, journal, peers, gauges, tasks)
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
