//! The closed set of acts that an agent can be told to do: one file for each.
//!
//! **Invariant:** nothing but an [`Act`] of the registry is ever carried out. No SQL, no path and no
//! address is part of one.
//!
//! Everything about an act is in its file: its input and its result, as values and as messages of the
//! contract; what the policy has to allow; its survey, its work and its undo. The registry, at the end of
//! this file, lists them all. The runner (`crate::runner`) gives every act the same life: policy, journal,
//! survey, perform, journal, fact.

mod any;
mod baseline;
pub mod catch_up;
pub mod certify;
pub mod close;
pub mod connect;
mod context;
mod contract;
pub mod copy;
pub mod cutover;
pub(crate) mod fail_points;
pub mod finish;
mod history;
pub mod identity;
pub mod inspect;
mod patience;
pub mod publication;
pub mod schema;
pub mod subscribe;
pub mod verify;
pub mod way_back;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};

pub use any::AnyAct;
pub use context::{Context, Handles};
pub use contract::{Act, Consequences, Produced, Survey};

/// The registry: every act, by the name that the contract gives it. Takes in what a
/// command asks for.
///
/// # Errors
///
/// [`Reason::UnknownAction`] or [`Reason::RequestInvalid`].
pub(crate) fn decode(action: Option<v1::command::Action>) -> Result<Box<dyn AnyAct>, Failure> {
    use v1::command::Action as Wire;
    match action.ok_or_else(unknown)? {
        Wire::CheckServer(message) => act::<inspect::CheckServer>(message),
        Wire::CreateReplicationRole(message) => act::<connect::CreateReplicationRole>(message),
        Wire::ReachPeer(message) => act::<connect::ReachPeer>(message),
        Wire::SetReplicaIdentity(message) => act::<identity::SetReplicaIdentity>(message),
        Wire::CreatePublication(message) => act::<publication::CreatePublication>(message),
        Wire::CloseDatabase(message) => act::<close::CloseDatabase>(message),
        Wire::RestoreSchema(message) => act::<schema::RestoreSchema>(message),
        Wire::CreateSlot(message) => act::<subscribe::CreateSlot>(message),
        Wire::CopyTables(message) => act::<copy::CopyTables>(message),
        Wire::CreateSubscription(message) => act::<subscribe::CreateSubscription>(message),
        Wire::AwaitCopy(message) => act::<catch_up::AwaitCopy>(message),
        Wire::AwaitLag(message) => act::<catch_up::AwaitLag>(message),
        Wire::CreateWayBack(message) => act::<way_back::CreateWayBack>(message),
        Wire::CountRows(message) => act::<verify::CountRows>(message),
        Wire::CompareRows(message) => act::<verify::CompareRows>(message),
        Wire::PrepareCutover(message) => act::<cutover::PrepareCutover>(message),
        Wire::RaiseBarrier(message) => act::<cutover::RaiseBarrier>(message),
        Wire::DrainToMarker(message) => act::<cutover::DrainToMarker>(message),
        Wire::FenceSource(message) => act::<cutover::FenceSource>(message),
        Wire::OpenDestination(message) => act::<cutover::OpenDestination>(message),
        Wire::ReleaseBarrier(message) => act::<cutover::ReleaseBarrier>(message),
        Wire::KeepStream(message) => act::<way_back::KeepStream>(message),
        Wire::FollowStream(message) => act::<way_back::FollowStream>(message),
        Wire::CertifySwitch(message) => act::<certify::CertifySwitch>(message),
        Wire::FinishMigration(message) => act::<finish::FinishMigration>(message),
    }
}

fn act<A: Act>(message: A::Message) -> Result<Box<dyn AnyAct>, Failure> {
    Ok(Box::new(A::decode(message)?))
}

fn unknown() -> Failure {
    Failure::new(Reason::UnknownAction, "this agent does not know the action")
        .hint("Install the coordinator's release on the agent's machine.")
        .effect(Effect::None)
}
