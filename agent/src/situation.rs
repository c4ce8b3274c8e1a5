//! The present state around one migration: the facts from which the coordinator explains why the migration
//! does not move.
//!
//! Reading it changes nothing, stores nothing and waits for no act. **Invariant:** a look that failed is
//! reported as such; it never reads as a pass.

mod server;

use pgportage_data_plane::peer::Peers;
use pgportage_link::{Clock, Effect, Failure};
use pgportage_migration::Participation;
use pgportage_proto::{MigrationId, Reason};
use pgportage_report::situation::{Link, Situation, Unchecked};
use tokio::time::Instant;

use crate::act::Handles;

/// Looks at everything around a migration until a moment; looks that have not ended by then are reported as
/// unchecked. Dropping the future leaves nothing behind.
///
/// # Errors
///
/// [`Reason::MigrationMissing`] when this agent takes no part in it, and [`Reason::StoreUnwritable`] when
/// the journal cannot be read.
pub async fn look(handles: &Handles, migration: &MigrationId, until: Instant) -> Result<Situation, Failure> {
    let Some(participation) = handles.journal.participation(migration)? else {
        return Err(Failure::new(
            Reason::MigrationMissing,
            format!("agent {} has no part in {migration} yet", handles.settings.name),
        )
        .detail("An agent learns of a migration with its first command.")
        .effect(Effect::None));
    };
    let limit = Limit { clock: handles.tasks.clock, until };
    let (mut situation, link) = tokio::join!(
        Box::pin(server::look(handles, &participation, limit)),
        greet(&handles.peers, handles.tasks.clock, &participation, limit)
    );
    match link {
        Ok(link) => situation.link = Some(link),
        Err(failure) => {
            situation.unchecked.push(Unchecked { subject: "the link to the other agent".to_owned(), failure })
        }
    }
    Ok(situation)
}

/// How long the other agent takes to answer. The time to dial is not counted.
async fn greet(peers: &Peers, clock: Clock, participation: &Participation, limit: Limit) -> Result<Link, Failure> {
    let greeting = async {
        let peer = peers.call(participation).await?;
        let asked = clock.now();
        peer.greet().await?;
        Ok(clock.now().duration_since(asked))
    };
    match limit.within(greeting).await? {
        Ok(round_trip) => Ok(Link::Answers(round_trip)),
        Err(failure) => Ok(Link::Broken(failure)),
    }
}

/// The moment at which looks must end.
#[derive(Clone, Copy, Debug)]
struct Limit {
    clock: Clock,
    until: Instant,
}

impl Limit {
    /// Drives a look until the limit.
    async fn within<T>(self, look: impl Future<Output = T>) -> Result<T, Failure> {
        let left = self.until.saturating_duration_since(self.clock.now());
        self.clock
            .timeout(left, look)
            .await
            .map_err(|_| Failure::new(Reason::CouldNotCheck, "there was no answer in time").effect(Effect::None))
    }
}
