//! One kind of work an agent can do, from the first look to the last trace.
//!
//! One file for each step. The runner (`crate::runner`) gives every step the
//! same life: policy, journal, survey, perform, journal, fact. A step that is
//! listed in [`crate::action::Action`] inherits the contract test: run twice,
//! killed at every fail point and resumed, undone, undone twice.

pub mod catch_up;
pub mod certify;
pub mod close;
pub mod connect;
mod context;
pub mod copy;
pub mod cutover;
pub mod finish;
pub mod identity;
pub mod inspect;
mod patience;
pub mod publication;
pub mod schema;
pub mod subscribe;
pub mod verify;
pub mod way_back;

use std::future::Future;

use pgportage_link::Failure;

pub use context::{Context, IndexBuild, Progress, ProgressPart, ProgressUnit};

/// What a look at the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survey<Output> {
    /// The work is done already; this is its result.
    Done(Output),
    /// Nothing is in the way.
    Ready,
}

/// One kind of work. The value holds the input.
pub trait Step: Send + Sync {
    /// What a successful attempt produces.
    type Output: Send;

    /// Looks before acting: already done, ready, or what is in the way (as a
    /// failure). Changes nothing. Runs before every attempt, the first included.
    fn survey(&self, cx: &Context) -> impl Future<Output = Result<Survey<Self::Output>, Failure>> + Send;

    /// Does the work. May be cut short at any `cx.safe_point()` or killed at any
    /// instant; the next attempt surveys again.
    fn perform(&self, cx: &Context) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Takes the work back. Succeeds when there is nothing to take back.
    fn undo(&self, cx: &Context) -> impl Future<Output = Result<(), Failure>> + Send;
}
