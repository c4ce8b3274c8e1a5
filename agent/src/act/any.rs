//! Acts of any kind, as a command holds them.

use std::fmt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, Verb, v1};

use super::fail_points::{Moment, pass};
use super::{Act, Consequences, Context, Survey};
use crate::policy::{DestructiveAct, Intent};

/// An [`Act`] whose kind only its own file knows. Nothing else implements this.
pub trait AnyAct: fmt::Debug + Send + Sync {
    /// [`Act::KIND`].
    fn kind(&self) -> ActKind;

    /// [`Act::SIDE`].
    fn only_side(&self) -> Option<Side>;

    /// [`Act::COPIES`].
    fn copies(&self) -> bool;

    /// [`Act::JOINS`].
    fn joins(&self) -> bool;

    /// [`Act::is_last`].
    fn ends_participation(&self, verb: Verb, side: Side) -> bool;

    /// What the policy has to allow.
    fn intent(&self, verb: Verb, side: Side) -> Intent;

    /// Surveys, then performs or takes back. What was taken back has no result.
    fn carry_out<'a>(&'a self, cx: &'a Context, verb: Verb) -> BoxFuture<'a, Result<v1::CommandResult, Failure>>;
}

impl<A: Act> AnyAct for A {
    fn kind(&self) -> ActKind {
        A::KIND
    }

    fn only_side(&self) -> Option<Side> {
        A::SIDE
    }

    fn copies(&self) -> bool {
        A::COPIES
    }

    fn joins(&self) -> bool {
        A::JOINS
    }

    fn ends_participation(&self, verb: Verb, side: Side) -> bool {
        A::is_last(verb, side)
    }

    fn intent(&self, verb: Verb, side: Side) -> Intent {
        let Consequences { destructive, max_outage } = self.consequences(verb, side);
        let mut acts = destructive.to_vec();
        // Removing a way back that is there is always allowed.
        if verb == Verb::Perform && A::WAY_BACK.contains(&side) {
            acts.push(DestructiveAct::WayBack);
        }
        Intent { kind: A::KIND, verb, acts, max_outage }
    }

    fn carry_out<'a>(&'a self, cx: &'a Context, verb: Verb) -> BoxFuture<'a, Result<v1::CommandResult, Failure>> {
        async move {
            let result = match verb {
                Verb::Perform => Some(A::encode(perform(self, cx).await?)),
                Verb::Undo => {
                    self.undo(cx).await?;
                    None
                }
            };
            pass(A::KIND, verb, Moment::Performed);
            Ok(v1::CommandResult { result })
        }
        .boxed()
    }
}

/// One look and, unless it was done before, one act.
async fn perform<A: Act>(act: &A, cx: &Context) -> Result<A::Output, Failure> {
    if A::needs_slot(cx.participation.side) {
        cx.slots.stands(&cx.participation.migration)?;
    }
    let survey = act.survey(cx).await?;
    pass(A::KIND, Verb::Perform, Moment::Surveyed);
    match survey {
        Survey::Done(output) => Ok(output),
        Survey::Ready => {
            cx.safe_point()?;
            act.perform(cx).await
        }
    }
}
