//! The PgBouncer that applications reach a database through.
//!
//! Its clients have to wait before the barrier is raised. They go on when it is known where: at the source
//! when the cutover was given up, at the destination once that has opened; in a rollback, the other way
//! round. They see a pause and no error.
//!
//! **Invariant:** where a paused pooler leads follows only from durable facts: on the side that is left,
//! from the record of the switchover ([`pgportage_migration::switchover::SwitchoverRecord`]); on the side that is
//! entered, from its own decision. In doubt it stays paused. The pooler is no fence: the barrier and the
//! fence keep writes off a server, and a failure of the pooler costs waiting and no row.

mod check;
mod console;
mod file;
mod ini;
mod lead;
mod turn;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_proto::{MigrationId, Reason, Side};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::policy::{Policy, PoolerRule};
use console::{Console, command};
use turn::Turns;

/// A login to the server that is under way when the pooler is paused is broken off, and its pool tries no
/// other for `server_login_retry`. So none should be under way; the agent waits up to this long for that.
const CALM: Duration = Duration::from_millis(200);

/// What to do in a switchover when the console of a pooler does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// Do not begin the switchover.
    Refuse,
    /// Go on without that pooler, as the operator wished.
    LeaveOut,
}

impl Unreachable {
    /// The result for a pooler: none if it is left out.
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

/// The poolers of this agent's policy, with those that are paused. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Poolers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    means: Means,
    turns: Turns,
    /// One lock for each migration, held while the agent commands its poolers.
    waiting: std::sync::Mutex<HashMap<MigrationId, Arc<Mutex<Waiting>>>>,
}

/// What it takes to command poolers.
#[derive(Clone, Debug)]
struct Means {
    policy: Arc<Policy>,
    state_dir: PathBuf,
    clock: Clock,
}

/// What this process knows of the poolers of one migration.
#[derive(Debug, Default)]
struct Waiting {
    /// Sessions with the paused poolers.
    approached: Vec<Approached>,
    /// Poolers that were led, while others could not be led yet.
    led: Option<(Option<Side>, Vec<PoolerRule>)>,
}

/// A pooler that can be paused at once: the agent has logged in, and the pooler is not logging in to a
/// server.
#[derive(Debug)]
pub struct Approached {
    rule: PoolerRule,
    /// One for each entry: a console session waits until its entry has paused.
    consoles: Vec<Console>,
}

impl Poolers {
    /// No pooler is paused yet. Copies of their configuration files are kept in `state_dir`.
    pub fn new(policy: Arc<Policy>, state_dir: PathBuf, clock: Clock) -> Self {
        let means = Means { policy, state_dir, clock };
        Self(Arc::new(Inner { means, turns: Turns::default(), waiting: std::sync::Mutex::default() }))
    }

    /// Checks whether every pooler can be paused and led, before any client has to wait.
    pub(crate) async fn check(&self, participation: &Participation) -> Result<(), Failure> {
        check::check(&self.0.means, participation).await
    }

    /// As [`Self::check`], for a switchover that may lead poolers back to the source.
    pub(crate) async fn check_back(
        &self,
        participation: &Participation,
        unreachable: Unreachable,
    ) -> Result<(), Failure> {
        check::check_back(&self.0.means, participation, unreachable).await
    }

    /// Prepares the pause, so that only the pause itself is left to do. Safe to drop.
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

    /// Makes the clients of all poolers wait, once the running transactions have ended. The outage, as
    /// those clients see it, begins here. A future that is dropped may leave some poolers paused, and so
    /// may a failure. `note` makes that durable before the first is paused.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerBusy`] when a transaction does not end in time, and [`Reason::OutageBudgetExceeded`]
    /// when that time was the rest of the budget; [`Reason::PoolerUnreachable`];
    /// [`Reason::StoreUnwritable`]. Some poolers may be paused then: the caller resumes them.
    pub async fn pause(
        &self,
        participation: &Participation,
        mut approached: Vec<Approached>,
        deadline: Instant,
        note: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if approached.is_empty() {
            return Ok(());
        }
        let waiting = self.waiting(&participation.migration);
        let mut waiting = waiting.lock().await;
        let rules: Vec<_> = approached.iter().map(|pooler| pooler.rule.clone()).collect();
        let _turn = self.0.turns.take(&rules).await;
        note()?;
        waiting.led = None;
        let began = self.0.means.clock.now();
        try_join_all(approached.iter_mut().map(|pooler| pooler.pause(self.0.means.clock, deadline))).await?;
        let pause_ms = u64::try_from(self.0.means.clock.now().duration_since(began).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(migration.id = %participation.migration, pause_ms, "the poolers' clients wait");
        waiting.approached = approached;
        Ok(())
    }

    /// Lets the clients of every pooler go on, whether or not they wait: at a side, or where they were.
    /// `due` says whether that is still to be done; it is asked when no other task commands these poolers.
    /// Returns what `due` said. A future that was dropped can be called again.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnfit`] and [`Reason::PoolerUnreachable`]: some clients still wait, and the caller
    /// can try again. Those of `due`.
    pub async fn let_on(
        &self,
        participation: &Participation,
        towards: Option<Side>,
        due: impl FnOnce() -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let waiting = self.waiting(&participation.migration);
        let mut waiting = waiting.lock().await;
        let due = due()?;
        if due {
            self.lead_all(participation, towards, &mut waiting).await?;
        }
        Ok(due)
    }

    /// Removes the copies that were kept to lead poolers back.
    pub(crate) fn forget(&self, participation: &Participation) -> Result<(), Failure> {
        self.0
            .means
            .policy
            .poolers(&participation.database)
            .try_for_each(|rule| lead::forget(&self.0.means, participation, rule))
    }

    /// Leads every pooler that can be led, even if another fails; then returns the first failure. Called
    /// again, it leads those that are left.
    async fn lead_all(
        &self,
        participation: &Participation,
        towards: Option<Side>,
        waiting: &mut Waiting,
    ) -> Result<(), Failure> {
        let mut led = match waiting.led.take() {
            Some((before, led)) if before == towards => led,
            Some(_) | None => Vec::new(),
        };
        // Earlier sessions are used once: after a failure they may be in any state.
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

impl Approached {
    async fn approach(rule: &PoolerRule, clock: Clock) -> Result<Self, Failure> {
        let consoles = try_join_all(rule.entries.iter().map(|_| Console::open(rule, clock))).await?;
        let mut approached = Self { rule: rule.clone(), consoles };
        approached.await_calm(clock).await?;
        Ok(approached)
    }

    /// Waits, for a short time, until the pooler is not logging in to a server.
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

/// The failure of a pause, naming the transactions that prevent it.
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
