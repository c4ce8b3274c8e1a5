//! *way back*: the replication from destination to source that allows a rollback after the cutover.
//!
//! Before the cutover it is made whole and proved, and then waits: role, publication and slot on the
//! destination by the acts that make the source's, the subscription on the source by [`CreateWayBack`].
//! After each switchover the side that was entered fixes where its stream begins ([`KeepStream`]), and the
//! side that was left begins to follow ([`FollowStream`]). While a side is closed, its agent advances its
//! slot ([`keep_idle_slots_moving`]), so that the slot keeps no WAL.

mod create;
mod follow;
mod idle;
mod keep;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

pub(crate) use create::remove_way_back;
pub use create::{CreateWayBack, CreateWayBackResult};
pub use follow::{FollowStream, FollowStreamResult};
pub use idle::keep_idle_slots_moving;
pub(crate) use keep::beginning;
pub use keep::{KeepStream, KeepStreamResult};

/// The failure of a way back that is lost. The migration can be finished without it, and before its cutover
/// go on without it.
pub(crate) fn lost(why: impl Into<String>) -> Failure {
    Failure::new(Reason::WayBackLost, format!("there is no way back: {}", why.into()))
        .hint("Before the cutover, go on without one with `pgportage cutover --no-way-back`; after it, end the migration with `pgportage finish`.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}
