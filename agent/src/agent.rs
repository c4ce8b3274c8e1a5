//! The long-lived things of one agent, shared by its steps and services.

use std::sync::Arc;

use pgportage_link::Clock;

/// What outlasts a single command.
///
/// Owned by `main`, shared by the runner, the link's service and the watch.
#[derive(Debug)]
pub struct Agent {
    /// The name in this agent's certificate.
    pub name: String,
    /// The clocks.
    pub clock: Clock,
    // runtime: settings: Settings, policy: Policy, journal: Journal
    // link: peers: Peers (dials the other agent), tunnels
    // cutover: sessions held between commands: CutoverSessions
}

/// A shared agent.
pub type SharedAgent = Arc<Agent>;
