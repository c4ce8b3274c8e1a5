//! The places around every act where a test may end the process:
//! `<act>.<verb>.<moment>`, for example `create_slot.perform.surveyed`.
//!
//! Places inside an act have names of the act's own
//! ([`crate::act::Context::fail_point`]). The tests read all names from the
//! source, so a new one cannot be forgotten.

use pgportage_proto::{ActKind, Verb};

/// What has just become true of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The intent is on disk; nothing was done yet.
    Accepted,
    /// The act has surveyed. Only when it is performed: an undo has nothing to survey.
    Surveyed,
    /// The act has done its work; the outcome is not recorded yet.
    Performed,
    /// The outcome is on disk; the coordinator was not told yet.
    Recorded,
}

impl Moment {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Surveyed => "surveyed",
            Self::Performed => "performed",
            Self::Recorded => "recorded",
        }
    }
}

/// Passes one of the points around an act.
pub(crate) fn pass(kind: ActKind, verb: Verb, moment: Moment) {
    pgportage_link::fail_point::hit(&format!("{kind}.{verb}.{}", moment.as_str()));
}
