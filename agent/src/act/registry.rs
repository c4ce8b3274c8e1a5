//! The registry: every act, by the name that the contract gives it.

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};

use super::{Act, AnyAct};
use super::{
    catch_up, certify, close, connect, copy, cutover, finish, identity, inspect, publication, schema, subscribe,
    verify, way_back,
};

/// Reads the act that a command asks for.
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
