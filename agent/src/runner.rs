//! The life of every command.
//!
//! A known command is answered from the journal. A command is refused, with one line in the log, when it
//! comes from a coordinator that a later one has replaced, was decided too long ago, or is not allowed by
//! the policy. Otherwise: intent to the journal, a turn in its migration, survey, act, outcome to the
//! journal. The session sends what the journal holds; nothing here waits for it.
//!
//! **Invariant:** one command of a migration is carried out at a time, and a panic, stall or cancellation
//! of one does not affect another.

mod attempts;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::journal::{CommandEntry, FactKind, Known};
use pgportage_proto::{ActKind, MigrationId, Reason, Verb, v1};
use pgportage_report::progress::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::act::fail_points::{Moment, pass};
use crate::act::{Context, Handles};
use crate::command::{Command, Fact};
use crate::reports;
use crate::wire::{self, Received};

pub use attempts::Attempts;

/// How long a stalled act may take to its next safe point. Then it is dropped, as a crash would drop it.
/// Never longer than its own stall limit.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long ids of finished commands stay known. An older repetition comes from a coordinator that a later
/// one has replaced anyway.
const REMEMBER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Carries commands out. One for each agent.
#[derive(Debug)]
pub struct Runner {
    handles: Handles,
    running: Mutex<HashMap<String, Running>>,
    /// One lock for each migration: its commands take turns.
    turns: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<()>>>>,
    /// Counts recorded facts: the session waits for a change.
    news: watch::Sender<u64>,
    attempts: Attempts,
}

/// A command under way, for the situation and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Its migration.
    pub migration: MigrationId,
    /// The kind of its act.
    pub kind: ActKind,
    /// The coordinator's step that the act belongs to. May be empty.
    pub step: String,
    /// Whether it is performed or taken back.
    pub verb: Verb,
}

#[derive(Debug)]
struct Running {
    migration: MigrationId,
    kind: ActKind,
    step: String,
    verb: Verb,
    /// Whether its progress is that of the copy.
    copies: bool,
    cancel: CancellationToken,
    progress: watch::Receiver<Progress>,
}

/// The coordinator that sent a command, and how old its picture of this agent was.
#[derive(Clone, Debug)]
pub struct Sender {
    /// SPIFFE id of its certificate.
    pub actor: String,
    /// Serial number of the certificate, in hexadecimal.
    pub serial: String,
    /// Age of the heartbeat that the command names, on this agent's clock.
    /// Absent when the session never sent such a beat.
    pub heartbeat_age: Option<Duration>,
}

/// What became of a command that came in.
#[derive(Debug)]
pub enum Taken {
    /// It is stored and under way.
    Started,
    /// It was known; its facts are sent again.
    Repeated,
    /// It is refused, and the refusal is stored like an outcome.
    Refused,
    /// Its id is taken by another command.
    Conflict(Failure),
}

impl Runner {
    /// No command is under way yet.
    #[must_use]
    pub fn new(handles: Handles) -> Arc<Self> {
        Arc::new(Self {
            handles,
            running: Mutex::default(),
            turns: Mutex::default(),
            news: watch::Sender::new(0),
            attempts: Attempts::default(),
        })
    }

    /// Every attempt that ended since the start.
    #[must_use]
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// Every command under way, also those that wait for their turn.
    #[must_use]
    pub fn under_way(&self) -> Vec<UnderWay> {
        let under_way = |running: &Running| UnderWay {
            migration: running.migration.clone(),
            kind: running.kind,
            step: running.step.clone(),
            verb: running.verb,
        };
        self.running().values().map(under_way).collect()
    }

    /// The progress of the copies under way.
    #[must_use]
    pub fn copies(&self) -> Vec<(MigrationId, Progress)> {
        self.running()
            .values()
            .filter(|running| running.verb == Verb::Perform && running.copies)
            .map(|running| (running.migration.clone(), running.progress.borrow().clone()))
            .collect()
    }

    /// Changes whenever there may be facts to send.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Continues what a crash or a stop interrupted. Call once, before the first session.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn resume(self: &Arc<Self>) -> Result<usize, Failure> {
        let journal = &self.handles.journal;
        journal.prune(self.handles.tasks.clock.wall(), REMEMBER)?;
        let interrupted = journal.interrupted()?;
        let count = interrupted.len();
        for bytes in interrupted {
            let Received { id, migration, command, .. } = wire::stored(&bytes)?;
            // The policy may have changed since.
            let allowed = command.and_then(|command| {
                self.handles.policy.allows(&command.participation, &command.intent())?;
                Ok(command)
            });
            match allowed {
                Ok(command) => self.start(command),
                Err(failure) => {
                    tracing::warn!(command.id = id, migration.id = migration, reason = %failure.reason, "not resumed: {failure}");
                    self.record(&id, Fact::Failed(failure.effect(Effect::Unknown)), FactKind::Final)?;
                }
            }
        }
        Ok(count)
    }

    /// Takes a command. Returns as soon as it is stored; never waits for an act.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`]: then nothing was started, and the agent cannot answer.
    pub fn take(self: &Arc<Self>, received: Received, sender: &Sender) -> Result<Taken, Failure> {
        let Handles { journal, tasks, .. } = &self.handles;
        let clock = tasks.clock;
        let Received { id, migration, digest, message, command } = received;
        match journal.known(&id, &digest)? {
            Known::New => {}
            Known::Same => {
                tracing::debug!(command.id = id, "known command: answered from the journal");
                journal.repeat(&id)?;
                self.tell();
                return Ok(Taken::Repeated);
            }
            Known::Conflict => {
                tracing::error!(command.id = id, actor = sender.actor, "refused: the id of this command is taken");
                return Ok(Taken::Conflict(
                    Failure::new(Reason::CommandConflict, format!("command {id} came before with other content"))
                        .detail("The earlier command stands. Nothing was done for this one.")
                        .effect(Effect::None),
                ));
            }
        }
        let entry = CommandEntry {
            id: id.clone(),
            migration,
            digest,
            message,
            actor: sender.actor.clone(),
            actor_serial: sender.serial.clone(),
        };
        let at = clock.wall();
        let accepted = command.and_then(|command| {
            self.admit(&command, sender)?;
            let participation = command.act.joins().then_some(&command.participation);
            journal.accept(&entry, participation, &wire::encode_fact(&id, Fact::Accepted, at), at)?;
            Ok(command)
        });
        match accepted {
            Ok(command) => {
                self.tell();
                pass(command.act.kind(), command.verb, Moment::Accepted);
                self.start(command);
                Ok(Taken::Started)
            }
            Err(failure) if failure.reason == Reason::StoreUnwritable => Err(failure),
            Err(failure) => {
                tracing::warn!(
                    command.id = id,
                    migration.id = entry.migration,
                    actor = sender.actor,
                    reason = %failure.reason,
                    hint = failure.hint,
                    "refused: {failure}"
                );
                journal.refuse(&entry, &wire::encode_fact(&id, Fact::Failed(failure), at), at)?;
                self.tell();
                Ok(Taken::Refused)
            }
        }
    }

    /// The checks that a new command has to pass. Changes nothing but the highest epoch seen.
    fn admit(&self, command: &Command, sender: &Sender) -> Result<(), Failure> {
        let Handles { journal, policy, .. } = &self.handles;
        journal.raise_leader_epoch(command.leader_epoch)?;
        let limit = policy.limits().command_age;
        if sender.heartbeat_age.is_none_or(|age| age > limit) {
            return Err(Failure::new(Reason::StaleCommand, "the command was decided too long ago")
                .detail(format!(
                    "The newest heartbeat it knows of is older than {}.",
                    humantime::format_duration(limit)
                ))
                .remedy(Remedy::Wait)
                .effect(Effect::None));
        }
        command.check_side()?;
        policy.allows(&command.participation, &command.intent())
    }

    /// Asks a command to stop at its next safe point. For a command that is over or unknown this does
    /// nothing: the facts show its outcome.
    pub fn cancel(&self, command_id: &str) {
        if let Some(running) = self.running().get(command_id) {
            tracing::info!(command.id = command_id, "asked to stop");
            running.cancel.cancel();
        }
    }

    /// Stops commands that the coordinator has no use for any more; their facts are no longer sent.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn abandon(&self, command_ids: &[String]) -> Result<(), Failure> {
        for id in command_ids {
            self.handles.journal.abandon(id)?;
            self.cancel(id);
        }
        Ok(())
    }

    /// The latest progress of every command under way.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<String, Progress> {
        self.running().iter().map(|(id, running)| (id.clone(), running.progress.borrow().clone())).collect()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, migration: &MigrationId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(migration.clone()).or_default())
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    fn record(&self, id: &str, fact: Fact, kind: FactKind) -> Result<(), Failure> {
        let at = self.handles.tasks.clock.wall();
        self.handles.journal.record(id, kind, &wire::encode_fact(id, fact, at), at)?;
        self.tell();
        Ok(())
    }

    /// Starts a stored command. Its task ends with the command, or soon after the agent's `stop`.
    fn start(self: &Arc<Self>, command: Command) {
        let cancel = CancellationToken::new();
        let (sender, progress) = watch::channel(Progress::default());
        let running = Running {
            migration: command.participation.migration.clone(),
            kind: command.act.kind(),
            step: command.step.clone(),
            verb: command.verb,
            copies: command.act.copies(),
            cancel: cancel.clone(),
            progress,
        };
        self.running().insert(command.id.clone(), running);
        let Command { participation, .. } = &command;
        let span = tracing::info_span!(
            "command",
            agent.id = self.handles.settings.name,
            migration.id = %participation.migration,
            side = %participation.side,
            step = command.step,
            act = %command.act.kind(),
            verb = %command.verb,
            attempt = command.attempt,
            command.id = command.id,
        );
        pgportage_link::trace::adopt(&span, &command.trace_context);
        let runner = Arc::clone(self);
        self.handles.tasks.spawn(
            async move {
                let began = runner.handles.tasks.clock.now();
                let end = runner.attempt(&command, sender, cancel).await;
                if let Some(fact) = end {
                    let duration = runner.handles.tasks.clock.now().duration_since(began);
                    runner.attempts.count(&command, &fact, duration);
                    runner.conclude(&command, fact);
                }
                runner.running().remove(&command.id);
            }
            .instrument(span),
        );
    }

    /// Records how a command ended. If the journal refuses, the command stays open, and the next start
    /// looks again at what it did.
    fn conclude(&self, command: &Command, fact: Fact) {
        let (kind, verb) = (command.act.kind(), command.verb);
        let kind_of_fact = match &fact {
            Fact::Succeeded(_) if command.ends_participation() => FactKind::FinalOfMigration,
            Fact::Accepted => FactKind::Interim,
            Fact::Succeeded(_) | Fact::Failed(_) | Fact::Cancelled(_) => FactKind::Final,
        };
        match &fact {
            Fact::Accepted => {}
            Fact::Succeeded(_) => tracing::info!("{verb} of {kind} succeeded"),
            Fact::Cancelled(_) => tracing::info!("{verb} of {kind} stopped as asked"),
            Fact::Failed(failure) => tracing::warn!(
                reason = %failure.reason,
                detail = failure.detail,
                sqlstate = failure.sqlstate,
                causes = ?failure.causes,
                "{verb} of {kind} failed: {failure}"
            ),
        }
        // The files go first: an agent that is killed in between looks again.
        if kind_of_fact == FactKind::FinalOfMigration {
            reports::remove(&self.handles.settings.state_dir, &command.participation.migration);
        }
        match self.record(&command.id, fact, kind_of_fact) {
            Ok(()) => pass(kind, verb, Moment::Recorded),
            Err(failure) => tracing::error!(causes = ?failure.causes, "the outcome cannot be stored: {failure}"),
        }
        if kind_of_fact == FactKind::FinalOfMigration {
            self.handles.gauges.remove(&command.participation.migration);
        }
    }

    /// Makes an attempt, and returns how it ended. None when the process stops: then nothing is recorded,
    /// and the next start continues.
    async fn attempt(
        &self,
        command: &Command,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Option<Fact> {
        let turn = self.turn(&command.participation.migration);
        let _turn = tokio::select! {
            biased;
            () = self.handles.tasks.stop.cancelled() => return None,
            () = cancel.cancelled() => return Some(Fact::Cancelled(Effect::None)),
            turn = turn.lock() => turn,
        };
        tracing::info!("{} of {} begins", command.verb, command.act.kind());
        let moved = progress.subscribe();
        let cx = Context {
            participation: command.participation.clone(),
            command_id: command.id.clone(),
            leader_epoch: command.leader_epoch,
            plan_digest: command.plan_digest.clone(),
            stall_timeout: command.stall_timeout,
            handles: self.handles.clone(),
            progress,
            // A stall cancels the act, not the command.
            cancel: cancel.child_token(),
        };
        let act = AssertUnwindSafe(command.act.carry_out(&cx, command.verb)).catch_unwind();
        let mut act = std::pin::pin!(act);
        let result = tokio::select! {
            biased;
            () = self.handles.tasks.stop.cancelled() => return None,
            result = &mut act => result,
            subject = self.stalled(moved, command.stall_timeout) => {
                cx.cancel.cancel();
                let stopped = self.handles.tasks.clock.timeout(STOP_GRACE.min(command.stall_timeout), &mut act).await;
                match stopped {
                    Ok(result) if !is_cancelled(&result) => result,
                    Ok(_) | Err(_) => Ok(Err(stalled(&subject, command.stall_timeout))),
                }
            }
        };
        Some(match result {
            Ok(Ok(result)) => Fact::Succeeded(result),
            Ok(Err(failure)) if failure.reason == Reason::Cancelled && cancel.is_cancelled() => {
                Fact::Cancelled(failure.effect)
            }
            Ok(Err(failure)) => Fact::Failed(failure),
            Err(panic) => Fact::Failed(panicked(&command.id, panic.as_ref())),
        })
    }

    /// Returns the last subject when the progress has not changed for `limit`. A report that equals the one
    /// before is no progress.
    async fn stalled(&self, mut moved: watch::Receiver<Progress>, limit: Duration) -> String {
        let mut last = moved.borrow_and_update().clone();
        let mut deadline = self.handles.tasks.clock.now() + limit;
        loop {
            tokio::select! {
                biased;
                changed = moved.changed() => match changed {
                    Ok(()) => {
                        let now = moved.borrow_and_update().clone();
                        if now != last {
                            last = now;
                            deadline = self.handles.tasks.clock.now() + limit;
                        }
                    }
                    // The act has ended and reports its own outcome.
                    Err(_) => std::future::pending().await,
                },
                () = self.handles.tasks.clock.sleep_until(deadline) => return last.subject,
            }
        }
    }
}

fn is_cancelled(result: &Result<Result<v1::CommandResult, Failure>, Box<dyn std::any::Any + Send>>) -> bool {
    matches!(result, Ok(Err(failure)) if failure.reason == Reason::Cancelled)
}

fn stalled(subject: &str, limit: Duration) -> Failure {
    let detail =
        if subject.is_empty() { "Nothing was reported at all.".to_owned() } else { format!("Last seen: {subject}.") };
    Failure::new(Reason::Stalled, format!("nothing moved for {}", humantime::format_duration(limit)))
        .detail(detail)
        .hint("Find out what holds it up, then retry the step.")
        .with("subject", subject)
}

/// A panic is a defect of this program. Its text goes to the log, where a developer looks for it.
fn panicked(command_id: &str, panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = text, "an act panicked");
    Failure::new(Reason::Internal, "the act ended with a defect of ours")
        .detail(format!("Look for command {command_id} in the agent's log."))
        .hint("Retry the step; please report the defect if it happens again.")
}
