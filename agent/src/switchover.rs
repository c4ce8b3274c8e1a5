//! What is between commands of a switchover and behind them: what carries out what is due
//! of a migration's [`SwitchoverRecord`](pgportage_migration::switchover::SwitchoverRecord).
//!
//! The acts P0 to P9 are in [`crate::act::cutover`]. They report to the journal what
//! happened, and anybody who learns how a switchover ended may have carried out what follows
//! from it, in any order and any number of times: the act that failed, its undo, P7, P6a, the
//! other agent's announcement, a timer for the case that no command comes any more, and the
//! look that this agent takes by itself each second.

mod announce;
mod canary;
mod carry_out;
mod fingerprint;
mod sessions;
mod settle;
mod written_rows_check;

pub(crate) use canary::Canary;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use sessions::{Barrier, EnteringSide, LeavingSide, sessions_lost, written};
pub use sessions::{DrainToMarkerResult, FenceSourceResult, RaiseBarrierResult, Switchovers};
pub(crate) use settle::fence_table_exists;
pub use written_rows_check::WrittenRows;
pub(crate) use written_rows_check::WrittenRowsCheck;
