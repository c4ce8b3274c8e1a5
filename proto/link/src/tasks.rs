//! The tasks of one process: who owns them, and how they are told to end.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Clock;

/// What every part of a process that outlasts one call is given. Cloning is cheap;
/// all clones are of the same process.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// The clocks.
    pub clock: Clock,
    /// Says that the process ends.
    pub stop: CancellationToken,
    /// Owner of every task that outlasts a call. **Invariant:** each of them ends by
    /// itself soon after `stop`.
    pub tracker: TaskTracker,
}

impl Tasks {
    /// Spawns a task that ends by itself soon after `stop`. The tracker owns it: the
    /// handle may be dropped.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// One round of work and the pause behind it. Returns whether another one may follow:
    /// once the process ends none does, and this one is dropped where it is.
    pub async fn round(&self, work: impl Future<Output = ()>, pause: Duration) -> bool {
        let round = async {
            work.await;
            self.clock.sleep(pause).await;
        };
        self.stop.run_until_cancelled(round).await.is_some()
    }
}
