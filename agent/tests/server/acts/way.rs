//! The way of a migration around the copy, for tests of what is copied.

use std::time::Duration;

use pgportage_agent::act::catch_up::{AwaitCopy, AwaitLag};
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::copy::{CopyTables, CopyTablesResult};
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_proto::{ConnectionPath, CopyMethod, Side};
use pgportage_tests::wait::{self, Seen};

use super::contract::perform;
use crate::world::World;

const METHOD: CopyMethod = CopyMethod::Snapshot;
const LOW_LAG: AwaitLag = AwaitLag { max_lag: Duration::from_secs(5), stable_window: Duration::from_millis(500) };

/// Up to where the copy begins.
pub(crate) async fn lead_to_the_copy(world: &World) {
    perform(world, Side::Source, &CreateReplicationRole).await;
    perform(world, Side::Source, &CreatePublication).await;
    perform(world, Side::Destination, &CloseDatabase).await;
    perform(world, Side::Destination, &RestoreSchema { copy_method: METHOD }).await;
    perform(world, Side::Source, &CreateSlot { copy_method: METHOD }).await;
}

/// The copy.
pub(crate) async fn copy(world: &World) -> CopyTablesResult {
    perform(world, Side::Destination, &CopyTables { copy_method: METHOD }).await
}

/// The stream behind the copy, until what is on the source now has arrived.
pub(crate) async fn follow(world: &World) {
    let subscribe = CreateSubscription { path: ConnectionPath::Tunnel, copy_method: METHOD };
    perform(world, Side::Destination, &subscribe).await;
    perform(world, Side::Destination, &AwaitCopy).await;
    perform(world, Side::Source, &LOW_LAG).await;
}

/// Waits until everything that was written on the source until now is applied on
/// the destination.
pub(crate) async fn arrive(world: &World, limit: Duration) {
    let source = world.source.connect(&world.options.database).await.unwrap();
    let written: String = source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let confirmed = format!(
        "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{written}'), false), \
                coalesce(max(confirmed_flush_lsn)::text, 'no slot') FROM pg_replication_slots"
    );
    wait::until(&format!("the stream to arrive at {written}"), limit, async || {
        let row = source.query_one(&confirmed, &[]).await?;
        Ok(if row.get(0) { Seen::Done(()) } else { Seen::NotYet(row.get(1)) })
    })
    .await
    .unwrap();
}
