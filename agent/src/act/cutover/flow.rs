//! P0: the stream flows. After a restart of the agent that tunnels it, for example, the stream has to
//! connect again. A switchover does not begin before that: its drain would have to wait for it.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::stream::published_name;
use pgportage_postgres::{Session, sql_failure};
use pgportage_proto::Reason;

use crate::act::Context;

/// How long the stream may take to connect again, while no application waits for it: twice PostgreSQL's
/// default of `wal_retrieve_retry_interval`, after which a subscription connects again.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

const RECEIVED: &str = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)";

/// Waits until the other side receives what this one publishes.
///
/// # Errors
///
/// [`Reason::LagTooHigh`] when it does not in time; what the server reports. Ends early
/// when the command is cancelled.
pub(super) async fn await_receiver(cx: &Context, client: &Session) -> Result<(), Failure> {
    let (slot, end) = (published_name(&cx.participation), cx.tasks.clock.now() + PATIENCE);
    loop {
        let received = client.query_one(RECEIVED, &[&slot]).await;
        if received.map_err(|error| sql_failure(error, "look whether the stream flows"))?.get(0) {
            return Ok(());
        }
        if cx.tasks.clock.now() >= end {
            let side = cx.participation.side;
            let message = format!("the {} does not receive the changes of the {side}", side.other());
            return Err(Failure::new(Reason::LagTooHigh, message)
                .detail(format!("No session has used replication slot {slot} for {} s.", PATIENCE.as_secs()))
                .hint(format!(
                    "Read the log of the {}'s server; its subscription connects again by itself.",
                    side.other()
                ))
                .remedy(Remedy::Operator)
                .effect(Effect::None));
        }
        cx.pause(LOOK).await?;
    }
}
