//! The closed set of what an agent can be told to do: one file for each act.
//!
//! **Invariant:** nothing but an [`Act`] of the registry is ever carried out. No
//! SQL, no path and no address is part of one.
//!
//! An act is whole in its file: what it is asked for and what it answers, as values
//! and as the contract has them; what the policy has to allow; its survey, its work
//! and its undo. The registry lists them all. The runner (`crate::runner`) gives
//! every act the same life: policy, journal, survey, perform, journal, fact.

mod any;
pub mod catch_up;
pub mod certify;
pub mod close;
pub mod connect;
mod context;
pub mod copy;
pub mod cutover;
pub(crate) mod fail_points;
pub mod finish;
pub mod identity;
pub mod inspect;
mod patience;
pub mod publication;
pub mod schema;
pub mod subscribe;
pub mod verify;
pub mod way_back;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};

use crate::policy::DestructiveAct;
pub use any::AnyAct;
pub use context::Context;
pub use context::Handles;
pub use context::IndexBuild;
pub use context::Progress;
pub use context::ProgressPart;
pub use context::ProgressUnit;
pub use v1::command_result::Result as Produced;

/// What a look at the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survey<Output> {
    /// The work is done already; this is its result.
    Done(Output),
    /// Nothing is in the way.
    Ready,
}

/// What an act may do to a server, as far as the policy is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequences {
    /// What of it needs a word of its own in the policy.
    pub destructive: &'static [DestructiveAct],
    /// The outage it may cause.
    pub max_outage: Option<Duration>,
}

impl Consequences {
    /// Nothing that has to be allowed besides the act itself.
    pub const NONE: Self = Self { destructive: &[], max_outage: None };

    /// What needs words of its own, and no outage.
    #[must_use]
    pub const fn of(destructive: &'static [DestructiveAct]) -> Self {
        Self { destructive, max_outage: None }
    }
}

/// One kind of work. The value holds the input.
pub trait Act: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name in the policy file, in logs, in metrics and in the ledger.
    const KIND: ActKind;
    /// The only side it makes sense on; none when both can do it.
    const SIDE: Option<Side> = None;
    /// Where it belongs to the way back: to what only lets a migration return after
    /// its cutover, or to the return itself. There, to perform it needs
    /// [`DestructiveAct::WayBack`].
    const REVERSE: &'static [Side] = &[];
    /// Whether its progress is that of the copy.
    const COPIES: bool = false;
    /// Whether accepting it makes this agent take part in the migration. A mere
    /// question about a server does not.
    const JOINS: bool = true;

    /// The input as a command has it.
    type Message;
    /// What a successful attempt produces.
    type Output: Send;

    /// Takes the input in.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`], naming the field.
    fn decode(message: Self::Message) -> Result<Self, Failure>;

    /// What was produced, as the command's result has it.
    fn encode(output: Self::Output) -> Produced;

    /// What needs a word of its own in the policy, and the outage it may cause.
    /// [`Act::REVERSE`] is added to it. Taking back is never refused for its outage:
    /// that would prolong it.
    fn consequences(&self, _verb: Verb, _side: Side) -> Consequences {
        Consequences::NONE
    }

    /// Whether it cannot be performed once this side's replication slot was given up.
    /// What prepares for the slot, what takes back and what comes after the drain goes
    /// on without it.
    fn needs_slot(_side: Side) -> bool {
        false
    }

    /// Whether its success is the last this agent does for the migration: finished,
    /// or taken back to the first act that touched this side.
    fn is_last(_verb: Verb, _side: Side) -> bool {
        false
    }

    /// Looks before acting: already done, ready, or what is in the way (as a
    /// failure). Changes nothing. Runs before every attempt, the first included.
    fn survey(&self, cx: &Context) -> impl Future<Output = Result<Survey<Self::Output>, Failure>> + Send;

    /// Does the work. May be cut short at any `cx.safe_point()` or killed at any
    /// instant; the next attempt surveys again.
    fn perform(&self, cx: &Context) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Takes the work back. Succeeds when there is nothing to take back.
    fn undo(&self, cx: &Context) -> impl Future<Output = Result<(), Failure>> + Send;
}

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
