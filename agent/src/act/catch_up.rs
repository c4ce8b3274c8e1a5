//! *catch-up*: waits until the initial copy is ready, then until the lag is low.

mod await_copy;
mod await_lag;

pub use await_copy::{AwaitCopy, AwaitCopyResult};
pub use await_lag::{AwaitLag, AwaitLagResult};
