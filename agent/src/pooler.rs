//! The PgBouncer that applications reach a database through.
//!
//! Its clients are made to wait before the barrier is raised, and let on when it
//! is known where to: to the source when the cutover was given up, to the
//! destination once that has opened; before a rollback, the other way round. They see
//! a pause and no error.
//!
//! **Invariant:** where a paused pooler leads follows from what is durable alone: on
//! the side that is left from the note written before it is paused and from the notes
//! of the fence ([`Onward`]), on the side that is entered from its own decision. In
//! doubt it stays paused. The pooler is no fence: what keeps
//! writes off a server are the barrier and the fence, and whatever happens to
//! the pooler costs waiting and no row.

mod check;
mod console;
mod file;
mod ini;
mod lead;
mod turn;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_proto::{MigrationId, Reason};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::policy::{Policy, PoolerRule};
use console::{Console, command};
use turn::Turns;

/// Journal note: the [`Pause`] that poolers may be in. Written before they are
/// paused, cleared when their clients were let on.
const PAUSED_NOTE: &str = "pooler.paused";

/// A login that the pooler makes when it is paused is broken off, and its pool
/// tries no other for as long as `server_login_retry` says. So none should be
/// under way; for this long that is waited for.
const CALM: Duration = Duration::from_millis(200);

/// Why clients of a pooler wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The number of the switch.
    pub cutover_epoch: i64,
    /// What it does with this side.
    pub occasion: Occasion,
}

/// What a switch does with this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A cutover: the pooler leads here, and away when the other side has opened.
    Leaving,
    /// A rollback: the pooler leads to the other side, and back here when this one has
    /// opened.
    Entering,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.occasion {
            Occasion::Leaving => write!(f, "{}", self.cutover_epoch),
            Occasion::Entering => write!(f, "{} {ENTERING}", self.cutover_epoch),
        }
    }
}

/// How [`Occasion::Entering`] is noted.
const ENTERING: &str = "entering";

impl Pause {
    fn from_note(text: &str) -> Option<Self> {
        let (epoch, occasion) = match text.split_once(' ') {
            None => (text, Occasion::Leaving),
            Some((epoch, ENTERING)) => (epoch, Occasion::Entering),
            Some(_) => return None,
        };
        Some(Self { cutover_epoch: epoch.parse().ok()?, occasion })
    }
}

/// Where the clients of a pooler are let on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To where they were when they were made to wait.
    Same,
    /// To the destination.
    Destination,
    /// Back to the source, after they were led to the destination.
    Source,
}

impl Towards {
    fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What becomes of something that began with a cutover, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// Nobody knows yet whether the destination has opened.
    InDoubt,
    /// The source was never fenced, or is not any more.
    Back,
    /// The destination has opened.
    Forth,
}

impl Onward {
    /// Decides about the cutover `epoch`, which nobody works on any more, from
    /// the epochs of a fence that may stand and of the cutover at which the
    /// destination is known to have opened.
    #[must_use]
    pub(crate) fn after(epoch: i64, fence: Option<i64>, settled: Option<i64>) -> Self {
        if settled == Some(epoch) {
            Self::Forth
        } else if fence == Some(epoch) {
            Self::InDoubt
        } else {
            Self::Back
        }
    }
}

/// What becomes of a switch when the console of a pooler does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// It does not begin.
    Refuse,
    /// It goes on without that pooler, as the operator wished.
    LeaveOut,
}

impl Unreachable {
    /// What there is to do with a pooler: nothing, if it is left out.
    pub(crate) fn judge<T>(self, rule: &PoolerRule, reached: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match (self, reached) {
            (_, Ok(reached)) => Ok(Some(reached)),
            (Self::LeaveOut, Err(failure)) if failure.reason == Reason::PoolerUnreachable => {
                tracing::warn!(console = rule.console, detail = failure.detail, "a pooler is left out: {failure}");
                Ok(None)
            }
            (Self::Refuse | Self::LeaveOut, Err(failure)) => Err(failure),
        }
    }
}

/// The poolers of this agent's policy, as far as they are paused.
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Poolers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    means: Means,
    turns: Turns,
    /// One lock for each migration, held while its poolers are commanded.
    waiting: std::sync::Mutex<HashMap<MigrationId, Arc<Mutex<Waiting>>>>,
}

/// What poolers are led with.
#[derive(Clone, Debug)]
struct Means {
    policy: Arc<Policy>,
    journal: Journal,
    state_dir: PathBuf,
    clock: Clock,
}

/// What this process knows of the poolers of one migration.
#[derive(Debug, Default)]
struct Waiting {
    /// Sessions with those that are paused.
    approached: Vec<Approached>,
    /// Which of them were led where the others could not be led yet.
    led: Option<(Towards, Vec<PoolerRule>)>,
}

/// A pooler that can be paused at once: logged in, and no login of its own under
/// way.
#[derive(Debug)]
pub struct Approached {
    rule: PoolerRule,
    /// One for each entry: a session waits until its entry has paused.
    consoles: Vec<Console>,
}

impl Poolers {
    /// None is paused yet. What their configuration files held is kept in `state_dir`.
    #[must_use]
    pub fn new(policy: Arc<Policy>, journal: Journal, state_dir: PathBuf, clock: Clock) -> Self {
        let means = Means { policy, journal, state_dir, clock };
        Self(Arc::new(Inner { means, turns: Turns::default(), waiting: std::sync::Mutex::default() }))
    }

    /// Looks whether every pooler can be paused and led, before anybody waits.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnfit`] and [`Reason::PoolerUnreachable`].
    pub(crate) async fn check(&self, participation: &Participation) -> Result<(), Failure> {
        check::check(&self.0.means, participation).await
    }

    /// As [`Self::check`], for a switch that may lead poolers back to the source.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(crate) async fn check_back(
        &self,
        participation: &Participation,
        unreachable: Unreachable,
    ) -> Result<(), Failure> {
        check::check_back(&self.0.means, participation, unreachable).await
    }

    /// Prepares the pause, so that nothing but the pause is left to do. Safe to
    /// drop.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnreachable`]. Nothing has changed then.
    pub async fn approach(
        &self,
        participation: &Participation,
        unreachable: Unreachable,
    ) -> Result<Vec<Approached>, Failure> {
        let approach =
            async |rule: &PoolerRule| unreachable.judge(rule, Approached::approach(rule, self.0.means.clock).await);
        let approached = try_join_all(self.0.means.policy.poolers(&participation.database).map(approach)).await?;
        Ok(approached.into_iter().flatten().collect())
    }

    /// Makes the clients of all poolers wait, once the transactions at work have
    /// ended. The outage, as those clients see it, begins here. Dropped on its
    /// way, it may leave some paused, as a failure may.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerBusy`] when a transaction does not end in time, and
    /// [`Reason::OutageBudgetExceeded`] when that time was what is left of the budget;
    /// [`Reason::PoolerUnreachable`]; [`Reason::StoreUnwritable`]. Some may be
    /// paused then: the caller lets them on.
    pub async fn pause(
        &self,
        participation: &Participation,
        pause: Pause,
        mut approached: Vec<Approached>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if approached.is_empty() {
            return Ok(());
        }
        let waiting = self.waiting(&participation.migration);
        let mut waiting = waiting.lock().await;
        let rules: Vec<_> = approached.iter().map(|pooler| pooler.rule.clone()).collect();
        let _turn = self.0.turns.take(&rules).await;
        self.0.means.journal.set_note(&participation.migration, PAUSED_NOTE, &pause.to_string())?;
        waiting.led = None;
        let began = self.0.means.clock.now();
        try_join_all(approached.iter_mut().map(|pooler| pooler.pause(self.0.means.clock, deadline))).await?;
        let pause_ms = u64::try_from(self.0.means.clock.now().duration_since(began).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(migration.id = %participation.migration, pause_ms, "the poolers' clients wait");
        waiting.approached = approached;
        Ok(())
    }

    /// Lets waiting clients on. Succeeds when none wait. Dropped on its way, it
    /// can be called again.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnfit`] and [`Reason::PoolerUnreachable`]: some wait on,
    /// and this can be tried again.
    pub async fn let_on(&self, participation: &Participation, towards: Towards) -> Result<(), Failure> {
        let migration = &participation.migration;
        let waiting = self.waiting(migration);
        let mut waiting = waiting.lock().await;
        if pause_of(&self.0.means.journal, migration)?.is_none() {
            return Ok(());
        }
        self.lead_all(participation, towards, &mut waiting).await?;
        self.0.means.journal.clear_note(migration, PAUSED_NOTE)?;
        tracing::info!(migration.id = %migration, towards = towards.as_str(), "the poolers' clients go on");
        Ok(())
    }

    /// Leads poolers back to the source, their clients with them, whether or not they
    /// wait. Succeeds when they lead there already. Dropped on its way, it can be
    /// called again.
    ///
    /// # Errors
    ///
    /// Those of [`Poolers::let_on`].
    pub(crate) async fn lead_back(&self, participation: &Participation) -> Result<(), Failure> {
        let waiting = self.waiting(&participation.migration);
        let mut waiting = waiting.lock().await;
        self.lead_all(participation, Towards::Source, &mut waiting).await?;
        self.0.means.journal.clear_note(&participation.migration, PAUSED_NOTE)?;
        tracing::info!(migration.id = %participation.migration, "the poolers lead to the source again");
        Ok(())
    }

    /// Removes what was kept for the way back.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub(crate) fn forget(&self, participation: &Participation) -> Result<(), Failure> {
        self.0
            .means
            .policy
            .poolers(&participation.database)
            .try_for_each(|rule| lead::forget(&self.0.means, participation, rule))
    }

    /// Leads every pooler that can be, whatever becomes of the others; then fails with
    /// the first that cannot. Called again, it leads those that are left.
    async fn lead_all(
        &self,
        participation: &Participation,
        towards: Towards,
        waiting: &mut Waiting,
    ) -> Result<(), Failure> {
        let mut led = match waiting.led.take() {
            Some((before, led)) if before == towards => led,
            Some(_) | None => Vec::new(),
        };
        // Sessions from before are used once: after a failure they may be in any state.
        let mut approached = std::mem::take(&mut waiting.approached);
        let left = self.0.means.policy.poolers(&participation.database).filter(|rule| !led.contains(rule));
        let leading: Vec<_> = left
            .map(|rule| {
                let known = approached.iter().position(|pooler| pooler.rule == *rule);
                let console = known.and_then(|index| approached.swap_remove(index).consoles.pop());
                Box::pin(async move {
                    let _turn = self.0.turns.take(std::slice::from_ref(rule)).await;
                    (rule, lead::lead(&self.0.means, participation, rule, towards, console).await)
                })
            })
            .collect();
        let mut outcome = Ok(());
        for (rule, told) in join_all(leading).await {
            match told {
                Ok(()) => led.push(rule.clone()),
                Err(failure) => outcome = outcome.and(Err(failure)),
            }
        }
        if outcome.is_err() {
            waiting.led = Some((towards, led));
        }
        outcome
    }

    fn waiting(&self, migration: &MigrationId) -> Arc<Mutex<Waiting>> {
        let mut all = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(migration.clone()).or_default())
    }
}

/// The pause that poolers may be in.
pub(crate) fn pause_of(journal: &Journal, migration: &MigrationId) -> Result<Option<Pause>, Failure> {
    Ok(journal.note(migration, PAUSED_NOTE)?.as_deref().and_then(Pause::from_note))
}

impl Approached {
    async fn approach(rule: &PoolerRule, clock: Clock) -> Result<Self, Failure> {
        let consoles = try_join_all(rule.entries.iter().map(|_| Console::open(rule, clock))).await?;
        let mut approached = Self { rule: rule.clone(), consoles };
        approached.await_calm(clock).await?;
        Ok(approached)
    }

    /// Waits, not for long, until the pooler is not logging in anywhere.
    async fn await_calm(&mut self, clock: Clock) -> Result<(), Failure> {
        let deadline = clock.now() + CALM;
        let Some(console) = self.consoles.first_mut() else { return Ok(()) };
        while clock.now() < deadline {
            let logging_in = console.show("POOLS").await?.iter().any(|pool| {
                let ours = pool.get("database").is_some_and(|entry| self.rule.entries.contains(entry));
                ours && pool.get("sv_login").is_some_and(|count| count != "0")
            });
            if !logging_in {
                break;
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn pause(&mut self, clock: Clock, deadline: Instant) -> Result<(), Failure> {
        let limit = self.rule.pause_timeout.min(deadline.saturating_duration_since(clock.now()));
        let patience = deadline.min(clock.now() + limit);
        let pauses = self.rule.entries.iter().zip(&mut self.consoles).map(|(entry, console)| async move {
            let told = console.command(&[command("PAUSE", entry)], limit).await?;
            told.into_iter().collect::<Result<(), String>>().map_err(|error| refused(entry, &error))
        });
        match try_join_all(pauses).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.reason == Reason::PoolerUnreachable && clock.now() >= patience => {
                Err(busy(&self.rule, clock, limit).await)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Says who is in the way of a pause.
async fn busy(rule: &PoolerRule, clock: Clock, limit: Duration) -> Failure {
    let holders = check::at_work(rule, clock).await.unwrap_or_default();
    let (reason, which) = match limit < rule.pause_timeout {
        true => (Reason::OutageBudgetExceeded, " that were left of the budget"),
        false => (Reason::PoolerBusy, ""),
    };
    let failure = Failure::new(
        reason,
        format!("the pooler's clients did not come to rest within {} ms{which}", limit.as_millis()),
    )
    .hint(
        "Wait until these transactions end, or end them, and try the cutover again. A pool in session mode \
         comes to rest only when its clients leave: use transaction pooling.",
    )
    .remedy(Remedy::Operator)
    .effect(Effect::Unknown);
    if holders.is_empty() { failure } else { failure.detail(format!("At work: {}.", holders.join("; "))) }
}

fn refused(entry: &str, told: &str) -> Failure {
    Failure::new(Reason::PoolerUnfit, format!("the pooler does not pause {entry:?}"))
        .detail(format!("It says: {told}."))
        .remedy(Remedy::Operator)
        .effect(Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_as_it_was_noted() {
        for occasion in [Occasion::Leaving, Occasion::Entering] {
            let pause = Pause { cutover_epoch: 7, occasion };
            assert_eq!(Pause::from_note(&pause.to_string()), Some(pause));
        }
        // As releases before there was an occasion noted it.
        assert_eq!(Pause::from_note("7"), Some(Pause { cutover_epoch: 7, occasion: Occasion::Leaving }));
        assert_eq!(Pause::from_note("7 sailing"), None);
    }

    #[test]
    fn where_clients_go_on_follows_from_the_notes() {
        // The fence was never begun, or belongs to an earlier cutover.
        assert_eq!(Onward::after(7, None, None), Onward::Back);
        assert_eq!(Onward::after(7, Some(6), None), Onward::Back);
        // It may stand, and nobody has asked yet.
        assert_eq!(Onward::after(7, Some(7), None), Onward::InDoubt);
        assert_eq!(Onward::after(7, Some(7), Some(6)), Onward::InDoubt);
        // The destination has opened: the fence stays.
        assert_eq!(Onward::after(7, Some(7), Some(7)), Onward::Forth);
        assert_eq!(Onward::after(7, None, Some(7)), Onward::Forth);
    }
}
