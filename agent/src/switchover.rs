//! What happens between the commands of a switchover and after them: carrying out what is due by a
//! migration's [`SwitchoverRecord`](pgportage_migration::switchover::SwitchoverRecord).
//!
//! The acts P0 to P9 are in [`crate::act::cutover`]. They write into the journal what happened. Every part
//! of the agent that learns how a switchover ended may then carry out what is due, in any order and any
//! number of times: the act that failed, its undo, P7, P6a, the other agent's announcement, a timer for the
//! case that no command comes any more, and the agent's own look each second.

mod announce;
mod canary;
mod carry_out;
mod fingerprint;
mod sessions;
mod settle;
mod written_rows_check;

pub(crate) use canary::Canary;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use sessions::Switchovers;
pub(crate) use sessions::{Barrier, EnteringSide, LeavingSide, sessions_lost, written};
pub use sessions::{DrainToMarkerResult, FenceSourceResult, RaiseBarrierResult};
pub(crate) use settle::fence_table_exists;
pub use written_rows_check::WrittenRows;
pub(crate) use written_rows_check::WrittenRowsCheck;
