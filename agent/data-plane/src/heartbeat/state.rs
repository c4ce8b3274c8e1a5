//! What is known about the beats that have not arrived yet.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Beats remembered while none arrives: about an hour. Beyond that the newest are not remembered, and the
/// arrival of one reads as that of an older one: the lag is then too high, never too low.
const REMEMBERED: usize = 4096;

/// While no beat is on its way, the last arrival says nothing about the present after this time.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// What the heartbeat says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Time since the commit of the oldest beat that has not arrived, or what the newest arrival took,
    /// whichever is more.
    pub lag: Duration,
    /// Number of the newest beat that has arrived.
    pub arrived: i64,
    /// When the news of it came.
    pub arrived_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Beats {
    /// Number and time of every beat that has not arrived, oldest first.
    under_way: VecDeque<(i64, Instant)>,
    /// How long the newest arrival took, its number, and when this agent heard of it.
    newest: Option<(Duration, i64, Instant)>,
}

impl Beats {
    /// Notes a beat that was committed. `at` is a moment before its commit.
    pub(super) fn sent(&mut self, number: i64, at: Instant) {
        if self.under_way.len() < REMEMBERED {
            self.under_way.push_back((number, at));
        }
    }

    /// Notes the arrival of `number`, and with it of everything before.
    pub(super) fn arrived(&mut self, number: i64, now: Instant) {
        let mut newest = None;
        while let Some((first, at)) = self.under_way.front().copied()
            && first <= number
        {
            self.under_way.pop_front();
            newest = Some(at);
        }
        if let Some(at) = newest {
            self.newest = Some((now.duration_since(at), number, now));
        }
    }

    /// The lag now. None before the first arrival of a beat of this process, and once no beats are sent any
    /// more.
    pub(super) fn reading(&self, now: Instant) -> Option<Reading> {
        let (took, arrived, arrived_at) = self.newest?;
        let waiting = self.under_way.front().map(|(_, at)| now.duration_since(*at));
        if waiting.is_none() && now.duration_since(arrived_at) > STALE_AFTER {
            return None;
        }
        Some(Reading { lag: took.max(waiting.unwrap_or_default()), arrived, arrived_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn an_arrival_measures_and_silence_grows() {
        let start = pgportage_link::Clock.now();
        let mut beats = Beats::default();
        assert_eq!(beats.reading(start), None);
        beats.sent(7, start);
        beats.sent(8, start + seconds(1));
        assert_eq!(beats.reading(start + seconds(2)), None, "nothing has arrived yet");
        beats.arrived(7, start + seconds(3));
        let reading = beats.reading(start + seconds(3)).unwrap();
        assert_eq!((reading.lag, reading.arrived), (seconds(3), 7));
        assert_eq!(beats.reading(start + seconds(60)).unwrap().lag, seconds(59), "number 8 is on its way for 59 s");
        beats.arrived(8, start + seconds(61));
        assert_eq!(beats.reading(start + seconds(61)).unwrap().lag, seconds(60));
        beats.sent(9, start + seconds(62));
        beats.arrived(9, start + seconds(62));
        assert_eq!(beats.reading(start + seconds(62)).unwrap().lag, seconds(0));
        assert_eq!(beats.reading(start + seconds(80)), None, "nobody beats any more");
    }

    #[test]
    fn a_number_of_an_earlier_process_measures_nothing() {
        let start = pgportage_link::Clock.now();
        let mut beats = Beats::default();
        beats.sent(100, start);
        beats.arrived(99, start);
        assert_eq!(beats.reading(start), None);
    }

    #[test]
    fn a_long_silence_is_bounded_and_never_tells_too_little() {
        let start = pgportage_link::Clock.now();
        let mut beats = Beats::default();
        for number in 0..10_000_i64 {
            beats.sent(number, start + seconds(number as u64));
        }
        assert_eq!(beats.under_way.len(), REMEMBERED);
        beats.arrived(9_999, start + seconds(10_000));
        assert!(beats.reading(start + seconds(10_000)).unwrap().lag >= seconds(1));
    }
}
