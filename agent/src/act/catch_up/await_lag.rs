//! Waits until the lag stays under a limit.

use std::time::Duration;

use pgportage_data_plane::heartbeat::Reading;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{ActKind, Reason, Side, v1};
use pgportage_report::progress::{Progress, Unit};
use tokio::time::Instant;

use crate::act::patience::{Patience, stalled};
use crate::act::{Act, Context, Produced, Survey};
use crate::message::{duration, span};

/// Time between two looks at the gauge. While the act waits, also the time between two beats.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until the lag, by heartbeat, stays under a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitLag {
    /// The limit.
    pub max_lag: Duration,
    /// How long it must stay under the limit.
    pub stable_window: Duration,
}

/// The lag has stayed under its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitLagResult {
    /// The largest lag seen during the window.
    pub lag: Duration,
}

/// The time for which the lag has been under its limit.
#[derive(Debug)]
struct Window {
    since: Instant,
    largest: Duration,
    /// Number of the heartbeat with which it began: at least one more must arrive before the window counts.
    first: i64,
}

impl Window {
    /// Continues the window, begins one, or ends it.
    fn next(window: Option<Self>, reading: Option<Reading>, limit: Duration, now: Instant) -> Option<Self> {
        let reading = reading.filter(|reading| reading.lag <= limit)?;
        Some(match window {
            Some(window) => Self { largest: window.largest.max(reading.lag), ..window },
            None => Self { since: now, largest: reading.lag, first: reading.arrived },
        })
    }

    fn is_stable(&self, reading: Reading, length: Duration, now: Instant) -> bool {
        now.duration_since(self.since) >= length && reading.arrived > self.first
    }
}

impl Act for AwaitLag {
    const KIND: ActKind = ActKind::AwaitLag;
    type Message = v1::AwaitLag;
    type Output = AwaitLagResult;

    fn decode(message: v1::AwaitLag) -> Result<Self, Failure> {
        Ok(Self {
            max_lag: duration(message.max_lag, "max_lag")?,
            stable_window: duration(message.stable_window, "stable_window")?,
        })
    }

    fn encode(output: AwaitLagResult) -> Produced {
        Produced::AwaitLag(v1::AwaitLagResult { lag: Some(span(output.lag)) })
    }

    fn needs_slot(_side: Side) -> bool {
        true
    }

    /// Never done before: an earlier lag says nothing about the present.
    async fn survey(&self, _cx: &Context) -> Result<Survey<AwaitLagResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<AwaitLagResult, Failure> {
        cx.heartbeats.start(&cx.participation);
        let mut patience = Patience::new(cx);
        let mut window: Option<Window> = None;
        let mut best: Option<Duration> = None;
        let mut arrived = None;
        loop {
            cx.slots.stands(&cx.participation.migration)?;
            let now = cx.tasks.clock.now();
            let reading = cx.heartbeats.reading(&cx.participation.migration);
            window = Window::next(window, reading, self.max_lag, now);
            if let (Some(window), Some(reading)) = (&window, reading)
                && window.is_stable(reading, self.stable_window, now)
            {
                return Ok(AwaitLagResult { lag: window.largest });
            }
            // The act moves while a window lasts, and while the lag shrinks.
            let shrunk = reading.is_some_and(|reading| best.is_none_or(|best| reading.lag < best));
            if window.is_some() || shrunk {
                patience.moved(cx);
                best = reading.map(|reading| reading.lag);
            }
            let subject = subject(reading, self.max_lag, window.is_some());
            cx.report(Progress {
                subject: subject.clone(),
                completed: reading.map(|reading| milliseconds(reading.lag)).unwrap_or_default(),
                total: milliseconds(self.max_lag),
                unit: Unit::Milliseconds,
                ..Progress::default()
            });
            if patience.is_over(cx) {
                let arriving = arrived.is_some() && reading.map(|reading| reading.arrived) > arrived;
                return Err(match reading {
                    Some(reading) if arriving => too_high(reading.lag, self.max_lag),
                    Some(_) | None => stalled(cx, &subject).effect(Effect::None).hint(LOG_HINT),
                });
            }
            arrived = arrived.or(reading.map(|reading| reading.arrived));
            cx.heartbeats.hurry(&cx.participation.migration);
            cx.pause(LOOK).await?;
        }
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

const LOG_HINT: &str = "No heartbeat arrives: the link may be down, or the subscription fails. Read the logs of the two \
                        agents and of the destination server; then retry the step.";

fn subject(reading: Option<Reading>, limit: Duration, under: bool) -> String {
    let limit = humantime::format_duration(limit);
    match reading {
        None => "the first heartbeat to arrive".to_owned(),
        Some(_) if under => format!("the lag to stay under {limit}"),
        Some(_) => format!("the lag to fall under {limit}"),
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn too_high(lag: Duration, limit: Duration) -> Failure {
    let text =
        |duration: Duration| humantime::format_duration(Duration::from_millis(milliseconds(duration).unsigned_abs()));
    Failure::new(Reason::LagTooHigh, format!("the lag stays above {}", text(limit)))
        .detail(format!("It was {} when last seen: the source writes faster than the destination applies.", text(lag)))
        .hint("Wait for a quieter time and retry the step, or allow more lag.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_needs_time_and_a_new_arrival() {
        let start = pgportage_link::Clock.now();
        let second = Duration::from_secs(1);
        let reading = |lag: u64, arrived| Reading { lag: second * lag as u32, arrived, arrived_at: start };
        let limit = second * 2;
        let window = Window::next(None, Some(reading(1, 5)), limit, start);
        let window = Window::next(window, Some(reading(2, 5)), limit, start + second).unwrap();
        assert_eq!(window.largest, limit);
        assert!(!window.is_stable(reading(2, 5), second, start + second * 3), "nothing has arrived since");
        assert!(!window.is_stable(reading(2, 6), second * 5, start + second * 3), "too short");
        assert!(window.is_stable(reading(2, 6), second * 3, start + second * 3));
        assert!(Window::next(Some(window), Some(reading(3, 6)), limit, start).is_none(), "above the limit");
        assert!(Window::next(None, None, limit, start).is_none(), "unknown is not low");
    }
}
