//! Watching a migration until something has come true.
//!
//! The migration goes on without the operator: Ctrl-C ends the watching and nothing
//! else. When the coordinator goes away, the program waits for it.

use std::time::Duration;

use pgportage_link::{Clock, Failure, Remedy};
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::coordinator::{Coordinator, Watch};
use crate::exit::Stop;
use crate::render::span;
use crate::terminal::Terminal;
use crate::view::Migration;

/// First and longest pause between attempts to reach a coordinator that went
/// away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Ctrl-C, from now on ours: it no longer ends the process by itself.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signal: Signal,
}

impl Interrupt {
    /// Listens from here on.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { signal: signal(SignalKind::interrupt())? })
    }

    /// Drives `future` unless Ctrl-C comes first; then it is dropped.
    ///
    /// # Errors
    ///
    /// [`Stop::Detached`] with `words`.
    pub(crate) async fn unless<T>(
        &mut self,
        future: impl Future<Output = T>,
        words: impl FnOnce() -> String,
    ) -> Result<T, Stop> {
        tokio::select! {
            biased;
            _ = self.signal.recv() => Err(Stop::Detached(words())),
            outcome = future => Ok(outcome),
        }
    }
}

/// What watching needs.
#[derive(Debug)]
pub(crate) struct Follow<'a> {
    /// Where the news comes from.
    pub coordinator: &'a Coordinator,
    /// Where waiting is told.
    pub terminal: &'a Terminal,
    /// The clocks.
    pub clock: Clock,
    /// How long a coordinator that went away is waited for.
    pub patience: Duration,
}

impl Follow<'_> {
    /// Shows every change of the migration until `reached`, and returns it as it
    /// was then, or as it was when it ended.
    ///
    /// # Errors
    ///
    /// [`Stop::Detached`] on Ctrl-C; [`Stop::Failed`] when the coordinator
    /// refuses or stays away for longer than `patience`.
    pub(crate) async fn until(
        &self,
        name: &str,
        interrupt: &mut Interrupt,
        mut shown: impl FnMut(&Migration, OffsetDateTime),
        mut reached: impl FnMut(&Migration) -> bool,
    ) -> Result<Migration, Stop> {
        let mut line = Line { watch: None, lost: None, pause: PAUSES.0, told: false };
        loop {
            let next = interrupt.unless(self.next(name, &mut line), || detached(name)).await??;
            shown(&next, self.clock.wall().into());
            if reached(&next) {
                return Ok(next);
            }
        }
    }

    /// The next state of the migration, however often the line breaks.
    async fn next(&self, name: &str, line: &mut Line) -> Result<Migration, Failure> {
        loop {
            let outcome = match &mut line.watch {
                Some(watch) => watch.next().await,
                None => match self.coordinator.watch(name).await {
                    Ok(watch) => {
                        line.watch = Some(watch);
                        continue;
                    }
                    Err(failure) => Err(failure),
                },
            };
            let failure = match outcome {
                Ok(Some(migration)) => {
                    if line.told {
                        self.terminal.note("the coordinator is back\n");
                    }
                    *line = Line { watch: line.watch.take(), lost: None, pause: PAUSES.0, told: false };
                    return Ok(migration);
                }
                // An orderly end without what we wait for: ask again.
                Ok(None) => None,
                Err(failure) if failure.remedy == Remedy::Wait => Some(failure),
                Err(failure) => return Err(failure),
            };
            line.watch = None;
            self.wait(line, failure).await?;
        }
    }

    async fn wait(&self, line: &mut Line, failure: Option<Failure>) -> Result<(), Failure> {
        let now = self.clock.now();
        let lost = *line.lost.get_or_insert(now);
        if let Some(failure) = failure {
            if now.duration_since(lost) >= self.patience {
                return Err(Failure {
                    hint: "The migration does not need this program: agents go on with what they were told. \
                           Start the coordinator again and look with `pgportage status`."
                        .to_owned(),
                    detail: format!("It was waited for during {}. {}", span(self.patience), failure.detail)
                        .trim()
                        .to_owned(),
                    ..failure
                });
            }
            if !line.told {
                line.told = true;
                self.terminal.note(&format!("the coordinator is away ({failure}); waiting for it, Ctrl-C detaches\n"));
            }
        }
        self.clock.sleep(line.pause).await;
        line.pause = (line.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

/// The connection to the coordinator, while it stands and while it is sought again.
struct Line {
    watch: Option<Watch>,
    /// When the line broke.
    lost: Option<tokio::time::Instant>,
    pause: Duration,
    /// Whether the operator was told that the coordinator is away.
    told: bool,
}

/// What Ctrl-C means while a migration is watched.
fn detached(name: &str) -> String {
    format!("detached: migration {name} goes on without you. To see how it does: pgportage status {name} --watch")
}
