//! One function for each verb. Each asks the coordinator, shows what it says,
//! and returns how the program ends.

mod ask;
mod certificate;
mod certs;
mod local;
mod look;
mod run;

pub(crate) use certificate::verify as verify_certificate;
pub(crate) use certs::certs;
pub(crate) use local::{completions, help, man};

use std::time::Duration;

use pgportage_link::{Clock, Failure};
use pgportage_proto::Reason;
use time::OffsetDateTime;

use crate::arguments::Verb;
use crate::coordinator::Coordinator;
use crate::exit::{Exit, Stop};
use crate::follow::{Follow, Interrupt};
use crate::outcome::{Awaited, at_rest, outcome};
use crate::progress::Display;
use crate::render;
use crate::settings::Settings;
use crate::terminal::Terminal;
use crate::view::Migration;

/// How long the request for a switchover may go unanswered before the operator is told
/// what it waits for.
const UNTOLD: Duration = Duration::from_millis(500);

/// What every verb that speaks to the coordinator has at hand.
#[derive(Debug)]
pub(crate) struct Hand {
    /// Where words go.
    pub terminal: Terminal,
    /// The settings in force.
    pub settings: Settings,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The clocks.
    pub clock: Clock,
}

/// Runs a verb that speaks to the coordinator.
pub(crate) async fn run(hand: &Hand, verb: &Verb) -> Result<Exit, Stop> {
    match verb {
        Verb::Agents => look::agents(hand).await,
        Verb::Status(arguments) => look::status(hand, arguments).await,
        Verb::Explain(arguments) => look::explain(hand, &arguments.name).await,
        Verb::Plan(arguments) => look::plan(hand, arguments).await,
        Verb::Preflight(arguments) => ask::preflight(hand, arguments).await,
        Verb::Create(arguments) => ask::create(hand, arguments).await,
        Verb::Tune(arguments) => ask::tune(hand, arguments).await,
        Verb::Consent(arguments) => ask::consent(hand, arguments).await,
        Verb::Start(arguments) => Box::pin(run::start(hand, arguments)).await,
        Verb::Verify(arguments) => Box::pin(run::verify(hand, arguments)).await,
        Verb::Retry(arguments) => Box::pin(run::retry(hand, arguments)).await,
        Verb::Cutover(arguments) => Box::pin(run::cutover(hand, arguments)).await,
        Verb::Rollback(arguments) => Box::pin(run::rollback(hand, arguments)).await,
        Verb::Finish(arguments) => Box::pin(run::finish(hand, arguments)).await,
        Verb::Abort(arguments) => Box::pin(run::abort(hand, arguments)).await,
        Verb::Certificate(arguments) => certificate::run(hand, &arguments.act).await,
        Verb::Certs(_) | Verb::Completions(_) | Verb::Man(_) | Verb::Help(_) => {
            Err(Failure::new(Reason::Internal, "this verb does not speak to the coordinator").into())
        }
    }
}

impl Hand {
    fn now(&self) -> OffsetDateTime {
        self.clock.wall().into()
    }

    fn interrupt() -> Result<Interrupt, Failure> {
        Interrupt::listen()
            .map_err(|error| Failure::new(Reason::Internal, "this process cannot listen for Ctrl-C").because(&error))
    }

    /// Sends a request that Ctrl-C may interrupt, without knowing then whether
    /// it was accepted.
    async fn send<T>(
        &self,
        interrupt: &mut Interrupt,
        name: &str,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Stop> {
        let words = || {
            format!(
                "interrupted before the coordinator answered: it may have accepted the request. \
                 To see: pgportage status {name}"
            )
        };
        Ok(interrupt.unless(request, words).await??)
    }

    /// Sends the request for a switchover. The coordinator takes it once the lag is small.
    /// Where that takes time, the operator is told the lag.
    async fn send_switch(
        &self,
        interrupt: &mut Interrupt,
        name: &str,
        word: impl Future<Output = Result<Migration, Failure>>,
    ) -> Result<Migration, Stop> {
        let told = async {
            self.clock.sleep(UNTOLD).await;
            let behind = self.coordinator.migration(name).await.ok().and_then(|migration| migration.behind());
            if let Some((lag, limit)) = behind {
                self.terminal.note(&render::behind(lag, limit));
            }
            std::future::pending().await
        };
        let answer = async {
            tokio::select! {
                biased;
                answer = word => answer,
                never = told => never,
            }
        };
        self.send(interrupt, name, answer).await
    }

    /// Shows a migration that was changed from `before` to `accepted` until it
    /// rests, prints what it came to, and says how the program ends.
    async fn see_through(
        &self,
        interrupt: &mut Interrupt,
        before: &Migration,
        accepted: Migration,
        awaited: Awaited,
        detach: bool,
    ) -> Result<Exit, Stop> {
        if detach {
            let text = render::conclusion(&accepted, self.terminal.out);
            self.terminal.result(&text, &accepted);
            return Ok(Exit::Done);
        }
        let last = self.see(interrupt, before, accepted).await?;
        self.conclude(awaited, &last);
        Ok(outcome(awaited, &last))
    }

    /// Shows a migration that was changed from `before` to `accepted` until it rests.
    async fn see(&self, interrupt: &mut Interrupt, before: &Migration, accepted: Migration) -> Result<Migration, Stop> {
        let name = accepted.name.clone();
        let mut display = Display::new(&self.terminal, Some(before.clone()));
        display.update(&accepted, self.now());
        if at_rest(&accepted, &before.etag) {
            return Ok(accepted);
        }
        let shown = |migration: &Migration, now| display.update(migration, now);
        // The bars go away with the display, before any result is printed.
        self.follow().until(&name, interrupt, shown, |migration| at_rest(migration, &before.etag)).await
    }

    fn follow(&self) -> Follow<'_> {
        Follow {
            coordinator: &self.coordinator,
            terminal: &self.terminal,
            clock: self.clock,
            patience: self.settings.coordinator.patience,
        }
    }

    fn conclude(&self, awaited: Awaited, migration: &Migration) {
        let style = self.terminal.out;
        let mut text = String::new();
        let verification = migration.verification.as_ref().filter(|_| awaited == Awaited::Verified);
        let cutover = migration
            .cutover
            .as_ref()
            .filter(|_| matches!(awaited, Awaited::CutOver | Awaited::RolledBack | Awaited::Resolved));
        let rehearsal = migration.rehearsal.as_ref().filter(|_| awaited == Awaited::Rehearsed);
        let unfence =
            render::unfence(&migration.unfence_statements, &migration.database, &migration.source_agent, style);
        let blocks = [
            verification.map(|report| render::verification(report, style)),
            cutover.map(|report| render::cutover(report, style)),
            rehearsal.map(|report| render::rehearsal(report, style)),
            Some(unfence).filter(|text| !text.is_empty()),
        ];
        for block in blocks.into_iter().flatten() {
            text.push_str(&block);
            text.push('\n');
        }
        text.push_str(&render::conclusion(migration, style));
        self.terminal.result(&text, migration);
    }
}

/// The verb does not fit where the migration stands.
fn wrong_state(verb: &str, migration: &Migration) -> Stop {
    let happening = render::happening(migration);
    let waiting = match migration.waiting_for.as_str() {
        "" => String::new(),
        text => format!(" It waits for: {text}."),
    };
    let next = match migration.next_commands.first() {
        Some(command) => format!("Type next: {command}"),
        None => format!("To see more: pgportage status {}", migration.name),
    };
    Failure::new(Reason::WrongState, format!("migration {} is not where {verb} can be done", migration.name))
        .detail(format!("What is happening: {happening}.{waiting}"))
        .hint(next)
        .effect(pgportage_link::Effect::None)
        .into()
}
