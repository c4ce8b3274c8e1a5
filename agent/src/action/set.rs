//! The steps as values: what a command asks for and what it produced.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, Verb};

use crate::policy::DestructiveAct;
use crate::runner::fail_points::{Moment, pass};
use crate::step::catch_up::{AwaitCopy, AwaitCopyResult, AwaitLag, AwaitLagResult};
use crate::step::certify::{CertifySwitch, CertifySwitchResult};
use crate::step::close::{CloseDatabase, CloseDatabaseResult};
use crate::step::connect::{CreateReplicationRole, CreateReplicationRoleResult, ReachPeer, ReachPeerResult};
use crate::step::copy::{CopyTables, CopyTablesResult};
use crate::step::cutover::{
    DrainToMarker, DrainToMarkerResult, FenceSource, FenceSourceResult, OpenDestination, OpenDestinationResult,
    PrepareCutover, PrepareCutoverResult, RaiseBarrier, RaiseBarrierResult, ReleaseBarrier, ReleaseBarrierResult,
    Switch,
};
use crate::step::finish::{FinishMigration, FinishMigrationResult};
use crate::step::identity::{SetReplicaIdentity, SetReplicaIdentityResult};
use crate::step::inspect::{CheckServer, CheckServerResult};
use crate::step::publication::{CreatePublication, CreatePublicationResult};
use crate::step::schema::{RestoreSchema, RestoreSchemaResult};
use crate::step::subscribe::{CreateSlot, CreateSlotResult, CreateSubscription, CreateSubscriptionResult};
use crate::step::verify::{CompareRows, CompareRowsResult, CountRows, CountRowsResult};
use crate::step::way_back::{
    CreateWayBack, CreateWayBackResult, FollowStream, FollowStreamResult, KeepStream, KeepStreamResult,
};
use crate::step::{Context, Step, Survey};

/// What to do. Each variant holds the step with its input.
#[derive(Clone, Debug)]
pub enum Action {
    /// [`ActKind::CheckServer`].
    CheckServer(CheckServer),
    /// [`ActKind::CreateReplicationRole`].
    CreateReplicationRole(CreateReplicationRole),
    /// [`ActKind::ReachPeer`].
    ReachPeer(ReachPeer),
    /// [`ActKind::SetReplicaIdentity`].
    SetReplicaIdentity(SetReplicaIdentity),
    /// [`ActKind::CreatePublication`].
    CreatePublication(CreatePublication),
    /// [`ActKind::CloseDatabase`].
    CloseDatabase(CloseDatabase),
    /// [`ActKind::RestoreSchema`].
    RestoreSchema(RestoreSchema),
    /// [`ActKind::CreateSlot`].
    CreateSlot(CreateSlot),
    /// [`ActKind::CopyTables`].
    CopyTables(CopyTables),
    /// [`ActKind::CreateSubscription`].
    CreateSubscription(CreateSubscription),
    /// [`ActKind::AwaitCopy`].
    AwaitCopy(AwaitCopy),
    /// [`ActKind::AwaitLag`].
    AwaitLag(AwaitLag),
    /// [`ActKind::CreateWayBack`].
    CreateWayBack(CreateWayBack),
    /// [`ActKind::CountRows`].
    CountRows(CountRows),
    /// [`ActKind::CompareRows`].
    CompareRows(CompareRows),
    /// [`ActKind::PrepareCutover`].
    PrepareCutover(PrepareCutover),
    /// [`ActKind::RaiseBarrier`].
    RaiseBarrier(RaiseBarrier),
    /// [`ActKind::DrainToMarker`].
    DrainToMarker(DrainToMarker),
    /// [`ActKind::FenceSource`].
    FenceSource(FenceSource),
    /// [`ActKind::OpenDestination`].
    OpenDestination(OpenDestination),
    /// [`ActKind::ReleaseBarrier`].
    ReleaseBarrier(ReleaseBarrier),
    /// [`ActKind::KeepStream`].
    KeepStream(KeepStream),
    /// [`ActKind::FollowStream`].
    FollowStream(FollowStream),
    /// [`ActKind::CertifySwitch`].
    CertifySwitch(CertifySwitch),
    /// [`ActKind::FinishMigration`].
    FinishMigration(FinishMigration),
}

/// What a command produced.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was taken back; there is nothing to say about it.
    Undone,
    /// Of [`Action::CheckServer`].
    CheckServer(CheckServerResult),
    /// Of [`Action::CreateReplicationRole`].
    CreateReplicationRole(CreateReplicationRoleResult),
    /// Of [`Action::ReachPeer`].
    ReachPeer(ReachPeerResult),
    /// Of [`Action::SetReplicaIdentity`].
    SetReplicaIdentity(SetReplicaIdentityResult),
    /// Of [`Action::CreatePublication`].
    CreatePublication(CreatePublicationResult),
    /// Of [`Action::CloseDatabase`].
    CloseDatabase(CloseDatabaseResult),
    /// Of [`Action::RestoreSchema`].
    RestoreSchema(RestoreSchemaResult),
    /// Of [`Action::CreateSlot`].
    CreateSlot(CreateSlotResult),
    /// Of [`Action::CopyTables`].
    CopyTables(CopyTablesResult),
    /// Of [`Action::CreateSubscription`].
    CreateSubscription(CreateSubscriptionResult),
    /// Of [`Action::AwaitCopy`].
    AwaitCopy(AwaitCopyResult),
    /// Of [`Action::AwaitLag`].
    AwaitLag(AwaitLagResult),
    /// Of [`Action::CreateWayBack`].
    CreateWayBack(CreateWayBackResult),
    /// Of [`Action::CountRows`].
    CountRows(CountRowsResult),
    /// Of [`Action::CompareRows`].
    CompareRows(CompareRowsResult),
    /// Of [`Action::PrepareCutover`].
    PrepareCutover(PrepareCutoverResult),
    /// Of [`Action::RaiseBarrier`].
    RaiseBarrier(RaiseBarrierResult),
    /// Of [`Action::DrainToMarker`].
    DrainToMarker(DrainToMarkerResult),
    /// Of [`Action::FenceSource`].
    FenceSource(FenceSourceResult),
    /// Of [`Action::OpenDestination`].
    OpenDestination(OpenDestinationResult),
    /// Of [`Action::ReleaseBarrier`].
    ReleaseBarrier(ReleaseBarrierResult),
    /// Of [`Action::KeepStream`].
    KeepStream(KeepStreamResult),
    /// Of [`Action::FollowStream`].
    FollowStream(FollowStreamResult),
    /// Of [`Action::CertifySwitch`].
    CertifySwitch(CertifySwitchResult),
    /// Of [`Action::FinishMigration`].
    FinishMigration(FinishMigrationResult),
}

impl Action {
    /// Which action it is.
    #[must_use]
    pub fn kind(&self) -> ActKind {
        match self {
            Self::CheckServer(_) => ActKind::CheckServer,
            Self::CreateReplicationRole(_) => ActKind::CreateReplicationRole,
            Self::ReachPeer(_) => ActKind::ReachPeer,
            Self::SetReplicaIdentity(_) => ActKind::SetReplicaIdentity,
            Self::CreatePublication(_) => ActKind::CreatePublication,
            Self::CloseDatabase(_) => ActKind::CloseDatabase,
            Self::RestoreSchema(_) => ActKind::RestoreSchema,
            Self::CreateSlot(_) => ActKind::CreateSlot,
            Self::CopyTables(_) => ActKind::CopyTables,
            Self::CreateSubscription(_) => ActKind::CreateSubscription,
            Self::AwaitCopy(_) => ActKind::AwaitCopy,
            Self::AwaitLag(_) => ActKind::AwaitLag,
            Self::CreateWayBack(_) => ActKind::CreateWayBack,
            Self::CountRows(_) => ActKind::CountRows,
            Self::CompareRows(_) => ActKind::CompareRows,
            Self::PrepareCutover(_) => ActKind::PrepareCutover,
            Self::RaiseBarrier(_) => ActKind::RaiseBarrier,
            Self::DrainToMarker(_) => ActKind::DrainToMarker,
            Self::FenceSource(_) => ActKind::FenceSource,
            Self::OpenDestination(_) => ActKind::OpenDestination,
            Self::ReleaseBarrier(_) => ActKind::ReleaseBarrier,
            Self::KeepStream(_) => ActKind::KeepStream,
            Self::FollowStream(_) => ActKind::FollowStream,
            Self::CertifySwitch(_) => ActKind::CertifySwitch,
            Self::FinishMigration(_) => ActKind::FinishMigration,
        }
    }

    /// What needs a word of its own in the policy, and the outage it may cause.
    /// Taking back is never refused for its outage: that would prolong it.
    #[must_use]
    pub fn consequences(&self, verb: Verb, side: Side) -> (Vec<DestructiveAct>, Option<Duration>) {
        let (mut acts, max_outage) = self.own_consequences(verb, side);
        // What is there may always be taken back.
        if verb == Verb::Perform && self.kind().is_of_the_way_back(side) {
            acts.push(DestructiveAct::WayBack);
        }
        (acts, max_outage)
    }

    fn own_consequences(&self, verb: Verb, side: Side) -> (Vec<DestructiveAct>, Option<Duration>) {
        let perform = verb == Verb::Perform;
        match self {
            Self::SetReplicaIdentity(step) if perform && !step.tables.is_empty() => {
                (vec![DestructiveAct::ReplicaIdentityFull], None)
            }
            Self::CloseDatabase(_) if perform => (vec![DestructiveAct::TerminateSessions], None),
            Self::CreateSlot(_) if !perform && side == Side::Source => (vec![DestructiveAct::DropSlot], None),
            Self::FinishMigration(_) if side == Side::Source => (vec![DestructiveAct::DropSlot], None),
            Self::PrepareCutover(PrepareCutover { max_outage, switch: Switch::Rollback, .. }) if perform => {
                (vec![DestructiveAct::WayBack], Some(*max_outage))
            }
            Self::PrepareCutover(PrepareCutover { max_outage, .. })
            | Self::RaiseBarrier(RaiseBarrier { max_outage, .. })
                if perform =>
            {
                (vec![], Some(*max_outage))
            }
            Self::FenceSource(_) if perform => (vec![DestructiveAct::Fence, DestructiveAct::TerminateSessions], None),
            Self::OpenDestination(_) if perform => (vec![DestructiveAct::Open], None),
            Self::CheckServer(_)
            | Self::CreateReplicationRole(_)
            | Self::ReachPeer(_)
            | Self::SetReplicaIdentity(_)
            | Self::CreatePublication(_)
            | Self::CloseDatabase(_)
            | Self::RestoreSchema(_)
            | Self::CreateSlot(_)
            | Self::CopyTables(_)
            | Self::CreateSubscription(_)
            | Self::PrepareCutover(_)
            | Self::RaiseBarrier(_)
            | Self::DrainToMarker(_)
            | Self::FenceSource(_)
            | Self::OpenDestination(_)
            | Self::AwaitCopy(_)
            | Self::AwaitLag(_)
            | Self::CountRows(_)
            | Self::CompareRows(_)
            | Self::CertifySwitch(_)
            | Self::FinishMigration(_)
            | Self::CreateWayBack(_)
            | Self::KeepStream(_)
            | Self::FollowStream(_)
            | Self::ReleaseBarrier(_) => (vec![], None),
        }
    }

    /// Looks, then acts or takes back.
    ///
    /// # Errors
    ///
    /// What the step reports.
    pub(crate) async fn carry_out(&self, cx: &Context, verb: Verb) -> Result<Outcome, Failure> {
        let attempt = Attempt { cx, kind: self.kind(), verb };
        match self {
            Self::CheckServer(step) => attempt.of(step, Outcome::CheckServer).await,
            Self::CreateReplicationRole(step) => attempt.of(step, Outcome::CreateReplicationRole).await,
            Self::ReachPeer(step) => attempt.of(step, Outcome::ReachPeer).await,
            Self::SetReplicaIdentity(step) => attempt.of(step, Outcome::SetReplicaIdentity).await,
            Self::CreatePublication(step) => attempt.of(step, Outcome::CreatePublication).await,
            Self::CloseDatabase(step) => attempt.of(step, Outcome::CloseDatabase).await,
            Self::RestoreSchema(step) => attempt.of(step, Outcome::RestoreSchema).await,
            Self::CreateSlot(step) => attempt.of(step, Outcome::CreateSlot).await,
            Self::CopyTables(step) => attempt.of(step, Outcome::CopyTables).await,
            Self::CreateSubscription(step) => attempt.of(step, Outcome::CreateSubscription).await,
            Self::AwaitCopy(step) => attempt.of(step, Outcome::AwaitCopy).await,
            Self::AwaitLag(step) => attempt.of(step, Outcome::AwaitLag).await,
            Self::CreateWayBack(step) => attempt.of(step, Outcome::CreateWayBack).await,
            Self::CountRows(step) => attempt.of(step, Outcome::CountRows).await,
            Self::CompareRows(step) => attempt.of(step, Outcome::CompareRows).await,
            Self::PrepareCutover(step) => attempt.of(step, Outcome::PrepareCutover).await,
            Self::RaiseBarrier(step) => attempt.of(step, Outcome::RaiseBarrier).await,
            Self::DrainToMarker(step) => attempt.of(step, Outcome::DrainToMarker).await,
            Self::FenceSource(step) => attempt.of(step, Outcome::FenceSource).await,
            Self::OpenDestination(step) => attempt.of(step, Outcome::OpenDestination).await,
            Self::ReleaseBarrier(step) => attempt.of(step, Outcome::ReleaseBarrier).await,
            Self::KeepStream(step) => attempt.of(step, Outcome::KeepStream).await,
            Self::FollowStream(step) => attempt.of(step, Outcome::FollowStream).await,
            Self::CertifySwitch(step) => attempt.of(step, Outcome::CertifySwitch).await,
            Self::FinishMigration(step) => attempt.of(step, Outcome::FinishMigration).await,
        }
    }
}

/// One look and one act.
struct Attempt<'a> {
    cx: &'a Context,
    kind: ActKind,
    verb: Verb,
}

impl Attempt<'_> {
    async fn of<S: Step>(self, step: &S, outcome: fn(S::Output) -> Outcome) -> Result<Outcome, Failure> {
        let Self { cx, kind, verb } = self;
        let outcome = match verb {
            Verb::Perform => {
                crate::watch::before(kind, cx)?;
                let survey = step.survey(cx).await?;
                pass(kind, verb, Moment::Surveyed);
                outcome(match survey {
                    Survey::Done(output) => output,
                    Survey::Ready => {
                        cx.safe_point()?;
                        step.perform(cx).await?
                    }
                })
            }
            Verb::Undo => {
                step.undo(cx).await?;
                Outcome::Undone
            }
        };
        pass(kind, verb, Moment::Performed);
        Ok(outcome)
    }
}
