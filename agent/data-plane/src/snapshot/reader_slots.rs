//! Which readers of a migration may read at the moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All readers of a migration, in the order in which they began. When not all may read, the earliest do:
/// their ranges are the next to be complete.
#[derive(Debug, Default)]
pub(super) struct ReaderSlots {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    reading: BTreeSet<u64>,
    /// How many may read at a time. None: all.
    allowed: Option<usize>,
}

/// The slot of one reader, held until it is dropped.
#[derive(Debug)]
pub(super) struct ReaderSlot {
    slots: Arc<ReaderSlots>,
    number: u64,
}

impl ReaderSlots {
    /// A slot for one more reader.
    pub(super) fn begin(self: &Arc<Self>) -> ReaderSlot {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.reading.insert(number);
        ReaderSlot { slots: Arc::clone(self), number }
    }

    /// From now on so many may read at a time, at least one. None: all.
    pub(super) fn allow(&self, allowed: Option<usize>) {
        self.lock().allowed = allowed;
        self.changed.notify_waiters();
    }

    /// How many readers there are, counting those that wait.
    pub(super) fn reading(&self) -> usize {
        self.lock().reading.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReaderSlot {
    /// Waits until this reader may read. Safe to drop.
    pub(super) async fn wait(&self) {
        loop {
            let changed = self.slots.changed.notified();
            if self.may_read() {
                return;
            }
            changed.await;
        }
    }

    fn may_read(&self) -> bool {
        let state = self.slots.lock();
        state.allowed.is_none_or(|allowed| state.reading.range(..self.number).count() < allowed.max(1))
    }
}

impl Drop for ReaderSlot {
    fn drop(&mut self) {
        self.slots.lock().reading.remove(&self.number);
        self.slots.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn who_may(readers: &[ReaderSlot]) -> Vec<bool> {
        readers.iter().map(|reader| reader.wait().now_or_never().is_some()).collect()
    }

    #[test]
    fn the_earliest_read_and_others_follow() {
        let slots = Arc::new(ReaderSlots::default());
        let mut readers: Vec<ReaderSlot> = (0..4).map(|_| slots.begin()).collect();
        assert_eq!(who_may(&readers), [true; 4]);
        slots.allow(Some(2));
        assert_eq!(who_may(&readers), [true, true, false, false]);
        readers.remove(0);
        assert_eq!((slots.reading(), who_may(&readers)), (3, vec![true, true, false]));
        slots.allow(Some(0));
        assert_eq!(who_may(&readers), [true, false, false], "one always goes on");
        readers.push(slots.begin());
        slots.allow(None);
        assert_eq!(who_may(&readers), [true; 4]);
    }

    #[tokio::test]
    async fn whoever_waits_is_told() {
        let slots = Arc::new(ReaderSlots::default());
        slots.allow(Some(1));
        let (first, second) = (slots.begin(), slots.begin());
        let waiting = tokio::spawn(async move { second.wait().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
