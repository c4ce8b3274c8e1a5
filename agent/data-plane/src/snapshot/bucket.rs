//! How many bytes may be read by now: a token bucket. Pure.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// The time at full rate that an idle copy saves up. Short, so that the source is not hit by a burst of
/// what it was spared before.
const BURST: Duration = Duration::from_millis(100);

/// Bytes of table data a second, for all readers of a migration together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// A limit as the coordinator sends it: zero or less means no limit.
    pub fn limit(bytes: i64) -> Option<Self> {
        u64::try_from(bytes).ok().and_then(NonZeroU64::new).map(Self)
    }

    /// Bytes a second.
    pub fn as_bytes(self) -> u64 {
        self.0.get()
    }

    /// Bytes in a span of time, rounded down.
    fn over(self, span: Duration) -> i64 {
        let bytes = u128::from(self.as_bytes()) * span.as_nanos() / 1_000_000_000;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// The time in which so many bytes are paid for, rounded up.
    fn span(self, bytes: i64) -> Duration {
        let nanos = (u128::from(bytes.unsigned_abs()) * 1_000_000_000).div_ceil(u128::from(self.as_bytes()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The bucket. A piece passes as soon as no debt is left, however large the piece is, and is paid for
/// afterwards. So over any span no more passes than the rate allows, the saved burst and one piece.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<Rate>,
    /// Saved up when above zero, owed when below.
    balance: i64,
    /// The moment up to which the balance is reckoned.
    at: Instant,
}

impl Bucket {
    /// A bucket without a limit.
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: None, balance: 0, at: now }
    }

    /// Changes the rate. A debt stays, and is paid at the new rate.
    pub(super) fn set(&mut self, now: Instant, rate: Option<Rate>) {
        self.refill(now);
        self.rate = rate;
    }

    pub(super) fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Lets a piece pass, or returns how long to wait before it may. Nothing has passed then.
    pub(super) fn take(&mut self, now: Instant, bytes: usize) -> Result<(), Duration> {
        self.refill(now);
        let Some(rate) = self.rate else { return Ok(()) };
        if self.balance < 0 {
            return Err(rate.span(self.balance));
        }
        self.balance = self.balance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let Some(rate) = self.rate else {
            (self.balance, self.at) = (0, now);
            return;
        };
        let earned = rate.over(now.saturating_duration_since(self.at));
        // Two looks so close together earn less than a byte: their time still counts.
        if earned > 0 {
            self.balance = self.balance.saturating_add(earned).min(rate.over(BURST));
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use pgportage_link::Clock;
    use proptest::prelude::*;

    use super::*;

    const PIECE: usize = 256 << 10;

    fn rate(bytes: i64) -> Option<Rate> {
        Rate::limit(bytes)
    }

    /// Bytes that pass in a span when a reader always asks for more.
    fn passed(bucket: &mut Bucket, from: Instant, span: Duration, piece: usize) -> u64 {
        let (mut now, mut bytes) = (from, 0);
        while now < from + span {
            match bucket.take(now, piece) {
                Ok(()) => bytes += piece as u64,
                Err(wait) => now += wait,
            }
        }
        bytes
    }

    #[test]
    fn nothing_above_zero_is_no_limit() {
        assert_eq!([rate(0), rate(-1), rate(i64::MIN)], [None; 3]);
        assert_eq!(rate(7).map(Rate::as_bytes), Some(7));
        let now = Clock.now();
        let mut bucket = Bucket::new(now);
        for _ in 0..1000 {
            assert_eq!(bucket.take(now, usize::MAX), Ok(()));
        }
    }

    #[test]
    fn a_changed_rate_holds_at_once() {
        let now = Clock.now();
        let mut bucket = Bucket::new(now);
        bucket.set(now, rate(64 << 10));
        assert_eq!(bucket.take(now, PIECE), Ok(()));
        assert_eq!(bucket.take(now, PIECE), Err(Duration::from_secs(4)), "the first piece is owed");
        let later = now + Duration::from_secs(2);
        bucket.set(later, rate(1 << 20));
        assert_eq!(bucket.take(later, PIECE), Err(Duration::from_millis(125)), "half of it, at the new rate");
        bucket.set(later, None);
        assert_eq!(bucket.take(later, PIECE), Ok(()));
        bucket.set(later, rate(1 << 20));
        assert_eq!(bucket.take(later, PIECE), Ok(()), "what passed without a limit is not owed");
        assert_eq!(bucket.take(later, PIECE), Err(Duration::from_millis(250)));
    }

    #[test]
    fn an_idle_hour_saves_up_little() {
        let now = Clock.now();
        let mut bucket = Bucket::new(now);
        bucket.set(now, rate(10 << 20));
        let later = now + Duration::from_secs(3600);
        let bytes = passed(&mut bucket, later, Duration::from_secs(1), PIECE);
        let allowed = 11 * (1 << 20) + 2 * PIECE as u64;
        assert!(bytes <= allowed, "{bytes} of {allowed}");
    }

    #[test]
    fn looking_often_loses_nothing() {
        let now = Clock.now();
        let mut bucket = Bucket::new(now);
        bucket.set(now, rate(100_000));
        assert_eq!(bucket.take(now, 100_000), Ok(()));
        for microsecond in 0..1_000_000 {
            assert!(bucket.take(now + Duration::from_micros(microsecond), 1).is_err(), "{microsecond}");
        }
        assert_eq!(bucket.take(now + Duration::from_secs(1), 1), Ok(()));
    }

    proptest! {
        /// The rate is kept from above and from below.
        #[test]
        fn no_more_than_the_rate_and_no_less(
            bytes in 65_536_i64..1 << 31, piece in 1_usize..1 << 20, seconds in 1_u64..60,
        ) {
            // A bound on the number of pieces keeps the test short.
            prop_assume!(bytes as u64 * seconds / (piece as u64) < 200_000);
            let now = Clock.now();
            let mut bucket = Bucket::new(now);
            bucket.set(now, rate(bytes));
            let came = passed(&mut bucket, now, Duration::from_secs(seconds), piece);
            let (fair, piece) = (bytes as u64 * seconds, piece as u64);
            prop_assert!(came <= fair + bytes as u64 / 10 + piece, "{} of {}", came, fair);
            prop_assert!(came + piece + bytes as u64 / 100 >= fair, "{} of {}", came, fair);
        }
    }
}
