//! Trying an act again while an application or another program is in its way.

use std::time::Duration;

use pgportage_link::{Failure, Remedy};
use pgportage_postgres::is_passing;
use pgportage_proto::Reason;
use pgportage_report::progress::Progress;
use tokio::time::Instant;

use super::Context;

/// First pause between two tries; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Short enough that an operator who removed the obstacle sees the act go on.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts how long an act has gone without moving. Ends it with [`Reason::Stalled`] after too long.
#[derive(Debug)]
pub(crate) struct Patience {
    moved_at: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(cx: &Context) -> Self {
        Self { moved_at: cx.tasks.clock.now(), pause: FIRST_PAUSE }
    }

    /// Notes that the act has moved: the limit begins anew.
    pub(crate) fn moved(&mut self, cx: &Context) {
        self.moved_at = cx.tasks.clock.now();
        self.pause = FIRST_PAUSE;
    }

    /// Whether nothing has moved for longer than the act allows.
    pub(crate) fn is_over(&self, cx: &Context) -> bool {
        cx.tasks.clock.now().duration_since(self.moved_at) >= cx.stall_timeout
    }

    /// After a failed try: waits when the same try may succeed later (a lock was not granted, an object is
    /// in use, the server is away), reports `subject` as the obstacle, and returns. After
    /// [`Reason::ServerUnreachable`] the next try needs a new session.
    ///
    /// # Errors
    ///
    /// The failure itself when waiting does not help, [`Reason::Stalled`] when it took too long,
    /// [`Reason::Cancelled`] when asked to stop.
    pub(crate) async fn again(&mut self, cx: &Context, failure: Failure, subject: &str) -> Result<(), Failure> {
        if !is_passing(&failure) {
            return Err(failure);
        }
        if self.is_over(cx) {
            return Err(stalled(cx, subject).because(&failure));
        }
        tracing::debug!(failure = %failure, detail = failure.detail, subject, "trying again");
        cx.report(Progress { subject: subject.to_owned(), ..Progress::default() });
        cx.pause(self.pause).await?;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// The failure of an act in which nothing moves.
pub(crate) fn stalled(cx: &Context, subject: &str) -> Failure {
    let limit = humantime::format_duration(Duration::from_secs(cx.stall_timeout.as_secs()));
    Failure::new(Reason::Stalled, format!("nothing moved for {limit}"))
        .detail(format!("Last seen: {subject}."))
        .remedy(Remedy::Operator)
}
