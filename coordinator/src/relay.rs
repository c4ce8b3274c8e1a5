//! Joins the streams of two agents that cannot dial each other.
//!
//! One agent asks, the other is offered the relay over its session and accepts,
//! and from then on bytes pass in both directions until both have ended, one has
//! failed, or the agents share no migration any more. They are the agents' own
//! TLS session: nothing here looks at them.
//!
//! **Invariant:** an offer is accepted at most once, and by nobody but the agent
//! it was made to. What waits in a relay is bounded; a slow reader holds the
//! writer back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use pgportage_link::{Clock, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use uuid::Uuid;

use crate::message::refusal;

/// How long an agent may take to accept: it dials us for it.
const ACCEPT_LIMIT: Duration = Duration::from_secs(8);

/// Most relays that one agent may be an end of. A migration uses one for the
/// calls of each agent, one for the tunnel and one for each copying connection.
const RELAYS_OF_AN_AGENT: usize = 32;

/// Chunks that may wait on their way from one agent to the other.
pub(crate) const CHUNKS_WAITING: usize = 4;

/// Bytes of one direction.
pub(crate) type Inbound = BoxStream<'static, Result<Bytes, Status>>;
/// Bytes of the other direction. Dropped at their end.
pub(crate) type Outbound = mpsc::Sender<Result<Bytes, Status>>;

/// One agent's end of a relay, as the coordinator holds it.
pub(crate) struct Leg {
    pub inbound: Inbound,
    pub outbound: Outbound,
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg").finish_non_exhaustive()
    }
}

/// Every relay, offered or open. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    clock: Clock,
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    offers: HashMap<Uuid, Waiting>,
    /// Of each agent that has any.
    relays: HashMap<String, usize>,
    total: usize,
}

/// An offer that nobody has accepted yet.
#[derive(Debug)]
struct Waiting {
    acceptor: String,
    asker: oneshot::Sender<Leg>,
}

/// A relay's place in the count of both its agents, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<Mutex<State>>,
    agents: [String; 2],
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.total -= 1;
        for agent in &self.agents {
            if let Some(count) = state.relays.get_mut(agent) {
                *count -= 1;
                if *count == 0 {
                    state.relays.remove(agent);
                }
            }
        }
    }
}

/// A relay that waits to be accepted. Dropping it takes the offer back.
#[derive(Debug)]
pub(crate) struct Offer {
    /// How the acceptor calls it.
    pub id: Uuid,
    acceptor: String,
    accepted: oneshot::Receiver<Leg>,
    clock: Clock,
    place: Option<Place>,
    state: Arc<Mutex<State>>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        lock(&self.state).offers.remove(&self.id);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// No relay yet, and never more than `most`.
    pub(crate) fn new(clock: Clock, most: usize) -> Self {
        Self { clock, most, state: Arc::default() }
    }

    /// Prepares a relay from one agent to another. The caller has made sure that
    /// they may have one, and tells the acceptor of it.
    pub(crate) fn offer(&self, asker: &str, acceptor: &str) -> Result<Offer, Failure> {
        if self.most == 0 {
            return Err(unavailable("the coordinator is configured to relay nothing")
                .hint("Let the agents reach each other, or raise `relay.max_relays` in coordinator.toml.")
                .remedy(Remedy::Operator));
        }
        let mut state = lock(&self.state);
        if state.total >= self.most {
            return Err(unavailable("the coordinator carries no more relays at the moment")
                .hint("Wait for other migrations, or raise `relay.max_relays` in coordinator.toml."));
        }
        if let Some(agent) =
            [asker, acceptor].iter().find(|agent| state.relays.get(**agent).is_some_and(|at| *at >= RELAYS_OF_AN_AGENT))
        {
            return Err(unavailable(&format!("agent {agent} has as many relays as one agent may have")));
        }
        state.total += 1;
        for agent in [asker, acceptor] {
            *state.relays.entry(agent.to_owned()).or_default() += 1;
        }
        let place = Place { state: Arc::clone(&self.state), agents: [asker.to_owned(), acceptor.to_owned()] };
        let id = Uuid::new_v4();
        let (waiting, accepted) = oneshot::channel();
        state.offers.insert(id, Waiting { acceptor: acceptor.to_owned(), asker: waiting });
        Ok(Offer {
            id,
            acceptor: acceptor.to_owned(),
            accepted,
            clock: self.clock,
            place: Some(place),
            state: Arc::clone(&self.state),
        })
    }

    /// Hands the acceptor's end to whoever asked.
    ///
    /// One refusal to everybody when there is no such offer to this agent: it never was,
    /// was accepted, taken back or too old.
    pub(crate) fn accept(&self, id: &str, acceptor: &str, leg: Leg) -> Result<(), Failure> {
        let none = || {
            refusal(Reason::PeerRefused, "there is no such relay to be accepted")
                .detail("It was accepted already, or the agent that asked has given up.")
        };
        let id = Uuid::parse_str(id).map_err(|_| none())?;
        let waiting = {
            let mut state = lock(&self.state);
            // Looked at first: a stranger must not be able to take it away.
            if state.offers.get(&id).is_none_or(|waiting| waiting.acceptor != acceptor) {
                return Err(none());
            }
            state.offers.remove(&id).ok_or_else(none)?
        };
        waiting.asker.send(leg).map_err(|_| none())
    }
}

impl Offer {
    /// Waits until the acceptor is there.
    pub(crate) async fn accepted(mut self) -> Result<(Leg, Place), Failure> {
        let absent = || {
            unavailable(&format!("agent {} did not accept a relay", self.acceptor))
                .detail(format!("It had {} seconds.", ACCEPT_LIMIT.as_secs()))
                .hint("Look at its log. Does it know the migration, and is it of the same release?")
        };
        match self.clock.timeout(ACCEPT_LIMIT, &mut self.accepted).await {
            Ok(Ok(leg)) => self.place.take().map(|place| (leg, place)).ok_or_else(absent),
            Ok(Err(_)) | Err(_) => Err(absent()),
        }
    }
}

/// What went through a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Bytes from the one who asked.
    pub there_bytes: u64,
    /// Bytes to the one who asked.
    pub back_bytes: u64,
}

/// Passes bytes on, and tells `meter` how many, until both directions have ended or
/// one has failed. The end of one direction is passed on while the other goes on; a
/// failure ends both. Dropping the future closes everything.
pub(crate) async fn carry(asker: Leg, acceptor: Leg, meter: impl Fn(usize)) -> Result<Carried, Status> {
    let (there_bytes, back_bytes) = tokio::try_join!(
        pass(asker.inbound, acceptor.outbound, &meter),
        pass(acceptor.inbound, asker.outbound, &meter)
    )?;
    Ok(Carried { there_bytes, back_bytes })
}

async fn pass(mut from: Inbound, to: Outbound, meter: impl Fn(usize)) -> Result<u64, Status> {
    let gone = || Status::unavailable("the other end of the relay is gone");
    let mut passed = 0_u64;
    loop {
        let chunk = tokio::select! {
            biased;
            // Without this a silent writer would outlive its reader.
            () = to.closed() => return Err(gone()),
            chunk = from.next() => chunk,
        };
        match chunk {
            Some(Ok(chunk)) => {
                passed += chunk.len() as u64;
                meter(chunk.len());
                to.send(Ok(chunk)).await.map_err(|_| gone())?;
            }
            // Dropping `to` ends the stream in order.
            None => return Ok(passed),
            Some(Err(status)) => {
                // Best effort: TLS above knows a stream that was cut anyway.
                let told = to.try_send(Err(Status::unavailable("the other end of the relay is lost")));
                tracing::trace!(?told, "a relay broke");
                return Err(status);
            }
        }
    }
}

/// Worth another try.
pub(crate) fn unavailable(message: &str) -> Failure {
    refusal(Reason::PeerUnreachable, message).remedy(Remedy::Wait)
}

#[cfg(test)]
mod tests;
