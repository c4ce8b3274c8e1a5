//! The cutover: P0 to P7 of the protocol, one file for each act.
//!
//! A switchover *leaves* one side and *enters* the other: a cutover leaves the source and enters the
//! destination, a rollback leaves the destination and enters the source. The acts are the same. Where their
//! names and messages say source and destination, they mean the side that is left and the side that is
//! entered.
//!
//! There are two fences, which fail in different directions. The *barrier* (table locks) dies with its
//! session: up to P3 any failure reopens the source by itself. The *durable fence* is committed only when
//! everything else is proved; from then on the source is unfenced only on the destination's promise that it
//! never opens at this epoch ([`crate::switchover`]). The *decision* is one row in the destination, in the
//! transaction that opens it.
//!
//! The open sessions have to outlive a single command and are kept in [`crate::switchover`]; they are no
//! source of truth. A restarted agent finds the durable state in the server's own tables. The rest ended
//! with its sessions.

mod barrier;
mod cycle;
mod drain;
mod fence;
mod flow;
mod open;
mod prepare;
mod release;
mod seeded;
mod sequence;

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::{Lsn, sql_failure};
use pgportage_proto::Reason;
use tokio::time::Instant;
use tokio_postgres::GenericClient;

pub use crate::switchover::{DrainToMarkerResult, FenceSourceResult, RaiseBarrierResult, WrittenRows};
pub use barrier::RaiseBarrier;
pub use drain::DrainToMarker;
pub use fence::FenceSource;
pub use open::{OpenDestination, OpenDestinationResult};
pub use prepare::{PrepareCutover, PrepareCutoverResult, Switch};
pub use release::{ReleaseBarrier, ReleaseBarrierResult};

/// The server's position, for the answer.
async fn current_lsn(client: &tokio_postgres::Client) -> Result<Lsn, Failure> {
    let row = client
        .query_typed_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(|error| sql_failure(error, "read the server's position"))?;
    row.get::<_, &str>(0)
        .parse()
        .map_err(|error| Failure::new(Reason::Internal, "the server's position is unreadable").because(&error))
}

/// Makes the commit of a transaction wait for the disk, whatever the settings of the role or the database.
/// WAL is flushed in order: everything before it is safe as well.
async fn await_disk(transaction: &impl GenericClient) -> Result<(), Failure> {
    let value = if seeded::Bug::NoFlush.is_seeded() { "off" } else { "on" };
    transaction
        .batch_execute(&format!("SET LOCAL synchronous_commit = {value}"))
        .await
        .map_err(|error| sql_failure(error, "wait for the disk"))
}

/// Refuses an act that cannot be taken back by itself: a rehearsal never performs one, even if the
/// coordinator asks for it.
fn refuse_in_rehearsal(rehearsal: bool) -> Result<(), Failure> {
    if !rehearsal {
        return Ok(());
    }
    Err(Failure::new(Reason::WrongState, "this cutover is only rehearsed")
        .detail("A rehearsal ends before the fence.")
        .hint("Let the rehearsal be taken back, then type the cutover.")
        .remedy(Remedy::Operator)
        .effect(Effect::None))
}

fn remaining(deadline: Instant, now: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() {
        return Err(Failure::new(Reason::OutageBudgetExceeded, "the outage would exceed its budget")
            .hint("Allow more with --max-outage, or wait for a quieter moment.")
            .remedy(Remedy::Operator)
            .effect(Effect::None));
    }
    Ok(left)
}
