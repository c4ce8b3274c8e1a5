//! *way back*: what lets a migration return after its cutover.
//!
//! Before the cutover the stream back is made whole and proved, and then waits:
//! role, publication and slot on the destination by the acts that make the
//! source's, the subscription on the source by [`CreateWayBack`]. After each switch
//! the side that was entered fixes where its stream begins ([`KeepStream`]), and the
//! side that was left begins to follow ([`FollowStream`]). While a side is closed its
//! own slot is moved along ([`keep_idle_slots_moving`]), so that it keeps no WAL.

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

/// What flows back, or would, does so no more: the migration can be finished and,
/// before its cutover, go on without a way back.
pub(crate) fn lost(why: impl Into<String>) -> Failure {
    Failure::new(Reason::WayBackLost, format!("there is no way back: {}", why.into()))
        .hint("Before the cutover, go on without one with `pgportage cutover --no-way-back`; after it, end the migration with `pgportage finish`.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}
