//! Accepting the relays that other agents ask for.

use std::sync::Arc;

use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::serve::Relayed;
use pgportage_link::tls::Identity;
use pgportage_link::{Failure, Tasks};
use pgportage_migration::journal::Journal;
use pgportage_proto::v1;
use tokio::sync::{Semaphore, mpsc};

/// Most relays being accepted at a time. One that the coordinator offers beyond that is not accepted, which costs
/// nothing: the other agent dials again.
const ACCEPTING: usize = 16;

/// Accepts relays through the coordinator from the other agents of our migrations, and leads their
/// connections to the link's server.
///
/// The policy is not checked again: it was checked when the migration began. An agent that the policy names
/// could connect to the link's listener as well.
#[derive(Debug)]
pub(super) struct Answer {
    identity: Identity,
    journal: Journal,
    relay: Relay,
    tasks: Tasks,
    entrance: mpsc::Sender<Relayed>,
    permits: Arc<Semaphore>,
}

impl Answer {
    pub(super) fn new(
        identity: Identity,
        journal: Journal,
        relay: Relay,
        tasks: Tasks,
        entrance: mpsc::Sender<Relayed>,
    ) -> Self {
        Self { identity, journal, relay, tasks, entrance, permits: Arc::new(Semaphore::new(ACCEPTING)) }
    }

    /// Returns at once; a task accepts the relay, or fails to.
    pub(super) fn offered(&self, offer: v1::RelayOffer) -> Result<(), Failure> {
        let v1::RelayOffer { relay_id, peer_agent_id: peer } = offer;
        let known = self.journal.participations()?.iter().any(|participation| participation.peer == peer);
        let expected = self.identity.id_of(Role::Agent, &peer);
        let (true, Ok(expected)) = (known, expected) else {
            tracing::warn!(peer, "refused a relay: no migration with the agent that asks for it");
            return Ok(());
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(peer, "refused a relay: too many are being accepted");
            return Ok(());
        };
        let (relay, entrance) = (self.relay.clone(), self.entrance.clone());
        let stop = self.tasks.stop.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let accepting = async {
                match relay.accept(&relay_id).await {
                    // The link's server is gone only when the agent stops.
                    Ok(stream) => drop(entrance.send(Relayed { transport: Box::new(stream), expected }).await),
                    Err(failure) => {
                        tracing::warn!(peer, detail = failure.detail, "could not accept a relay: {failure}")
                    }
                }
            };
            stop.run_until_cancelled(accepting).await;
        });
        Ok(())
    }
}
