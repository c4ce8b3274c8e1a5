//! What must hold before a switch is even asked for.
//!
//! A switch right behind another one is asked for before the first heartbeats have come
//! the new way. That passes by itself within seconds, so it is waited for; whatever else
//! is missing is said at once.

use pgportage_link::Failure;
use pgportage_proto::Reason;

use super::{Engine, Overview};
use crate::fleet::not_attached;
use crate::message::refusal;
use crate::workflow::spec::MigrationId;
use crate::workflow::state::Phase;
use crate::workflow::{Side, StepName};

/// Whether a switch may be asked for.
#[derive(Debug)]
enum Readiness {
    /// It may: nothing that can be seen from here stands in its way.
    Ready,
    /// Nothing but the lag stands in its way.
    Behind(Failure),
    /// Something does that waiting for a moment does not mend.
    Unmet(Failure),
}

impl Engine {
    /// Waits until a switch may be asked for that the migration is held for at `held`:
    /// for the lag to fall under its limit, and never longer than the settings allow.
    /// Where the migration is not held there, the word itself is refused in better words.
    /// Dropping the future is safe: nothing was said yet.
    ///
    /// Fails with everything that does not hold, as one failure.
    pub async fn ready_to_switch(&self, id: &MigrationId, held: StepName) -> Result<(), Failure> {
        let mut changes = self.watch(id)?;
        let patience = self.0.migration.lag_patience;
        let level = async {
            loop {
                let overview = changes.borrow_and_update().clone();
                let behind = match self.readiness(&overview, held) {
                    Readiness::Ready => return Ok(()),
                    Readiness::Unmet(failure) => return Err(failure),
                    Readiness::Behind(failure) => failure,
                };
                // The board closes with the engine.
                if changes.changed().await.is_err() {
                    return Err(behind);
                }
            }
        };
        if let Ok(outcome) = self.0.clock.timeout(patience, level).await {
            return outcome;
        }
        match self.readiness(&self.overview(id)?, held) {
            Readiness::Ready => Ok(()),
            Readiness::Unmet(failure) => Err(failure),
            Readiness::Behind(failure) => {
                Err(failure.detail(format!("It was waited for during {} ms.", patience.as_millis())))
            }
        }
    }

    fn readiness(&self, overview: &Overview, held: StepName) -> Readiness {
        let state = &overview.state;
        let overtakes = held == StepName::Finish && state.awaits_last_word();
        if state.phase != (Phase::Held { step: held }) && !overtakes {
            return Readiness::Ready;
        }
        let lag =
            overview.gauges.get(&state.writable).and_then(|gauge| gauge.lag).filter(|lag| *lag > state.spec.max_lag);
        let behind = lag.map(|lag| {
            let (lag, limit) = (lag.as_millis(), state.spec.max_lag.as_millis());
            refusal(Reason::LagTooHigh, format!("the lag is {lag} ms, above its limit of {limit} ms"))
                .hint("Wait until the other side has caught up, then try again.")
        });
        let agents = [Side::Source, Side::Destination].map(|side| state.spec.agent(side));
        let mut absent = agents.into_iter().filter(|agent| !self.fleet().attached(agent)).map(not_attached);
        let Some(first) = absent.next() else { return behind.map_or(Readiness::Ready, Readiness::Behind) };
        let others: Vec<_> = absent.chain(behind).map(|failure| failure.message).collect();
        Readiness::Unmet(if others.is_empty() { first } else { first.detail(format!("Also, {}.", others.join("; "))) })
    }
}
