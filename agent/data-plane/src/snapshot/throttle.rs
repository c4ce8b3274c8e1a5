//! Lets readers pass at the rate that the operator allows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pgportage_link::Clock;
use tokio::sync::Notify;

use super::bucket::{Bucket, Rate};

/// The throttle of one migration. Each of its readers passes it with each piece.
#[derive(Debug)]
pub(super) struct Throttle {
    clock: Clock,
    bucket: Mutex<Bucket>,
    changed: Notify,
    /// Held by the reader that is next: readers pass in the order in which they ask.
    turn: tokio::sync::Mutex<()>,
}

impl Throttle {
    pub(super) fn new(clock: Clock) -> Self {
        let bucket = Mutex::new(Bucket::new(clock.now()));
        Self { clock, bucket, changed: Notify::new(), turn: tokio::sync::Mutex::default() }
    }

    /// Changes the rate, also for readers that wait.
    pub(super) fn set(&self, rate: Option<Rate>) {
        let mut bucket = self.lock();
        if bucket.rate() != rate {
            bucket.set(self.clock.now(), rate);
            drop(bucket);
            self.changed.notify_waiters();
        }
    }

    /// Waits until a piece may pass. Dropping the future lets the next reader's piece pass in its place.
    pub(super) async fn pass(&self, bytes: usize) {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let Err(wait) = self.lock().take(self.clock.now(), bytes) else { return };
            tokio::select! {
                () = changed => {}
                () = self.clock.sleep(wait) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn several_readers_share_one_rate() {
        let throttle = Arc::new(Throttle::new(Clock));
        throttle.set(Rate::limit(8 << 20));
        let begun = Clock.now();
        let readers = (0..4).map(|_| {
            let throttle = Arc::clone(&throttle);
            async move {
                for _ in 0..4 {
                    throttle.pass(256 << 10).await;
                }
            }
        });
        futures_util::future::join_all(readers).await;
        // Four megabytes take half a second, less the last piece and what was saved up. With a rate for
        // each reader they would take a quarter of that.
        let took = Clock.now().duration_since(begun);
        assert!(took >= Duration::from_millis(365), "{took:?}");
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_a_new_rate() {
        let throttle = Throttle::new(Clock);
        throttle.set(Rate::limit(1));
        throttle.pass(1 << 30).await;
        let waiting = throttle.pass(1);
        let changing = async {
            tokio::task::yield_now().await;
            throttle.set(None);
        };
        let both = async { tokio::join!(waiting, changing) };
        Clock.timeout(Duration::from_secs(30), both).await.expect("not in thirty years");
    }
}
