//! What every act defines: its name, its input and output as the contract has them, what the policy has to
//! allow, its survey, its work and its undo.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use pgportage_link::Failure;
#[cfg(doc)]
use pgportage_proto::Reason;
pub use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, Side, Verb};

use super::Context;
use crate::policy::DestructiveAct;

/// What a survey of the server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survey<Output> {
    /// The work is done already; this is its result.
    Done(Output),
    /// The act can be performed.
    Ready,
}

/// What an act may do to a server, for the policy to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequences {
    /// The destructive acts among them, which the policy allows one by one.
    pub destructive: &'static [DestructiveAct],
    /// The outage it may cause.
    pub max_outage: Option<Duration>,
}

impl Consequences {
    /// Needs no permission besides the act itself.
    pub const NONE: Self = Self { destructive: &[], max_outage: None };

    /// Needs these permissions, and causes no outage.
    #[must_use]
    pub const fn of(destructive: &'static [DestructiveAct]) -> Self {
        Self { destructive, max_outage: None }
    }
}

/// One kind of work of an agent. A value holds the input of one command.
pub trait Act: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name in the policy file, in logs, in metrics and in the ledger.
    const KIND: ActKind;
    /// The only side it makes sense on; none when both can do it.
    const SIDE: Option<Side> = None;
    /// Where it belongs to the way back: to what only lets a migration return after
    /// its cutover, or to the return itself. There, to perform it needs
    /// [`DestructiveAct::WayBack`].
    const WAY_BACK: &'static [Side] = &[];
    /// Whether its progress is reported as the progress of the copy.
    const COPIES: bool = false;
    /// Whether accepting it makes this agent take part in the migration. A mere
    /// question about a server does not.
    const JOINS: bool = true;

    /// The input as a command has it.
    type Message;
    /// What a successful attempt produces.
    type Output: Send;

    /// Reads the input from a command.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`], naming the field.
    fn decode(message: Self::Message) -> Result<Self, Failure>;

    /// What was produced, as the command's result has it.
    fn encode(output: Self::Output) -> Produced;

    /// The destructive acts that the policy has to allow, and the outage it may cause. [`Act::WAY_BACK`] is
    /// added to it. Taking an act back is never refused because of its outage: that would prolong the
    /// outage.
    fn consequences(&self, _verb: Verb, _side: Side) -> Consequences {
        Consequences::NONE
    }

    /// Whether it cannot be performed once this side's replication slot was given up. Acts that prepare for
    /// the slot, acts that are taken back, and acts after the drain do without the slot.
    fn needs_slot(_side: Side) -> bool {
        false
    }

    /// Whether its success ends this agent's part in the migration: finished, or taken back to the first
    /// act on this side.
    fn is_last(_verb: Verb, _side: Side) -> bool {
        false
    }

    /// Looks before acting: the work is done, or can be done, or is prevented (a failure). Changes nothing.
    /// Runs before every attempt, the first included.
    fn survey(&self, cx: &Context) -> impl Future<Output = Result<Survey<Self::Output>, Failure>> + Send;

    /// Does the work. May be cut short at any `cx.safe_point()` or killed at any
    /// instant; the next attempt surveys again.
    fn perform(&self, cx: &Context) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Takes the work back. Succeeds when there is nothing to take back.
    fn undo(&self, cx: &Context) -> impl Future<Output = Result<(), Failure>> + Send;
}
