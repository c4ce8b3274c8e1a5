//! The steps as values: what a command asks for and what it produced.

use std::time::Duration;

use pgportage_link::Failure;

use super::{ActionKind, Verb};
use crate::migration::Side;
use crate::policy::DestructiveAct;
use crate::runner::fail_points::{Moment, pass};
use crate::step::connect::{CreateReplicationRole, CreateReplicationRoleResult};
use crate::step::identity::{SetReplicaIdentity, SetReplicaIdentityResult};
use crate::step::publication::{CreatePublication, CreatePublicationResult};
use crate::step::{Context, Step, Survey};

/// What to do. Each variant holds the step with its input.
#[derive(Clone, Debug)]
pub enum Action {
    /// [`ActionKind::CreateReplicationRole`].
    CreateReplicationRole(CreateReplicationRole),
    /// [`ActionKind::SetReplicaIdentity`].
    SetReplicaIdentity(SetReplicaIdentity),
    /// [`ActionKind::CreatePublication`].
    CreatePublication(CreatePublication),
}

/// What a command produced.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was taken back; there is nothing to say about it.
    Undone,
    /// Of [`Action::CreateReplicationRole`].
    CreateReplicationRole(CreateReplicationRoleResult),
    /// Of [`Action::SetReplicaIdentity`].
    SetReplicaIdentity(SetReplicaIdentityResult),
    /// Of [`Action::CreatePublication`].
    CreatePublication(CreatePublicationResult),
}

impl Action {
    /// Which action it is.
    #[must_use]
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::CreateReplicationRole(_) => ActionKind::CreateReplicationRole,
            Self::SetReplicaIdentity(_) => ActionKind::SetReplicaIdentity,
            Self::CreatePublication(_) => ActionKind::CreatePublication,
        }
    }

    /// What needs a word of its own in the policy, and the outage it may cause.
    #[must_use]
    pub fn consequences(&self, verb: Verb, side: Side) -> (Vec<DestructiveAct>, Option<Duration>) {
        let perform = verb == Verb::Perform;
        let acts = match self {
            Self::SetReplicaIdentity(step) if perform && !step.tables.is_empty() => {
                vec![DestructiveAct::ReplicaIdentityFull]
            }
            Self::SetReplicaIdentity(_) => vec![],
            Self::CreateReplicationRole(_) | Self::CreatePublication(_) => vec![],
        };
        (acts, None)
    }

    /// Looks, then acts or takes back.
    ///
    /// # Errors
    ///
    /// What the step reports.
    pub(crate) async fn carry_out(&self, cx: &Context, verb: Verb) -> Result<Outcome, Failure> {
        let attempt = Attempt { cx, kind: self.kind(), verb };
        match self {
            Self::CreateReplicationRole(step) => attempt.of(step, Outcome::CreateReplicationRole).await,
            Self::SetReplicaIdentity(step) => attempt.of(step, Outcome::SetReplicaIdentity).await,
            Self::CreatePublication(step) => attempt.of(step, Outcome::CreatePublication).await,
        }
    }
}

/// One look and one act.
struct Attempt<'a> {
    cx: &'a Context,
    kind: ActionKind,
    verb: Verb,
}

impl Attempt<'_> {
    async fn of<S: Step>(self, step: &S, outcome: fn(S::Output) -> Outcome) -> Result<Outcome, Failure> {
        let Self { cx, kind, verb } = self;
        let outcome = match verb {
            Verb::Perform => {
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
