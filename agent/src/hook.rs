//! Hooks: commands of the machine's owner at named points of a cutover.
//!
//! Those before the decision take part in it: their failure gives the cutover
//! up. Those after it are told what happened, and hold nobody up. That somebody
//! has to be told is noted in the journal before the first hook of a cutover
//! runs, so that a killed agent tells it after its restart; the same may then be
//! told twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_proto::{MigrationId, Reason};

use crate::policy::{HookPoint, Policy};
use crate::program;

/// Journal note: the cutover whose end hooks have still to be told.
const OWED_NOTE: &str = "hook.owed";
/// Journal note: the same, for a cutover that was to enter this side. Apart, because
/// nothing but the decision itself says how that ended.
const OWED_ON_ENTRY_NOTE: &str = "hook.owed_on_entry";

/// The hooks of the policy, and the migrations whose hooks are being told how the
/// cutover ended. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Hooks {
    policy: Arc<Policy>,
    journal: Journal,
    tasks: Tasks,
    telling: Arc<Mutex<HashSet<MigrationId>>>,
}

impl Hooks {
    /// Nobody is being told anything yet.
    #[must_use]
    pub fn new(policy: Arc<Policy>, journal: Journal, tasks: Tasks) -> Self {
        Self { policy, journal, tasks, telling: Arc::default() }
    }

    fn telling(&self) -> std::sync::MutexGuard<'_, HashSet<MigrationId>> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This side is about to be left: however that ends, hooks will be told.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub(crate) fn owe(&self, participation: &Participation, epoch: i64) -> Result<(), Failure> {
        self.note(participation, OWED_NOTE, epoch)
    }

    /// This side is about to be entered: hooks will be told if it opens.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub(crate) fn owe_on_entry(&self, participation: &Participation, epoch: i64) -> Result<(), Failure> {
        self.note(participation, OWED_ON_ENTRY_NOTE, epoch)
    }

    fn note(&self, participation: &Participation, key: &str, epoch: i64) -> Result<(), Failure> {
        let told = |point| self.policy.hooks(point, &participation.database).next().is_some();
        if told(HookPoint::AfterOpen) || told(HookPoint::AfterAbort) {
            self.journal.set_note(&participation.migration, key, &epoch.to_string())?;
        }
        Ok(())
    }

    /// Runs the hooks of a point before the decision, one after the other, each for
    /// at most its own limit and all of them for at most `left`.
    ///
    /// # Errors
    ///
    /// [`Reason::HookFailed`] at the first that does not succeed; the others do not
    /// run then.
    pub(crate) async fn ask(
        &self,
        participation: &Participation,
        at: HookPoint,
        left: Option<Duration>,
    ) -> Result<(), Failure> {
        let deadline = left.map(|left| self.tasks.clock.now() + left);
        for (index, rule) in self.policy.hooks(at, &participation.database).enumerate() {
            let left = deadline
                .map_or(rule.command.timeout, |deadline| deadline.saturating_duration_since(self.tasks.clock.now()));
            let limit = rule.command.timeout.min(left);
            run(participation, at, &rule.command, limit, self.tasks.clock)
                .await
                .map_err(|error| failed(at, index, &error))?;
        }
        Ok(())
    }

    /// Tells hooks how the cutover ended, once, without waiting for them. Does
    /// nothing when nothing is owed.
    pub(crate) fn tell(&self, participation: &Participation, at: HookPoint) {
        if !self.telling().insert(participation.migration.clone()) {
            return;
        }
        let (hooks, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move {
            let told = hooks.tasks.stop.run_until_cancelled(hooks.tell_all(&participation, at)).await;
            if let Some(Err(failure)) = told {
                tracing::error!(migration.id = %participation.migration, "hooks cannot be told: {failure}");
            }
            hooks.telling().remove(&participation.migration);
        });
    }

    async fn tell_all(&self, participation: &Participation, at: HookPoint) -> Result<(), Failure> {
        let migration = &participation.migration;
        let mut debts = Vec::new();
        for key in [OWED_NOTE, OWED_ON_ENTRY_NOTE] {
            debts.extend(self.journal.note(migration, key)?.map(|epoch| (key, epoch)));
        }
        if debts.is_empty() {
            return Ok(());
        }
        for rule in self.policy.hooks(at, &participation.database) {
            if let Err(error) = run(participation, at, &rule.command, rule.command.timeout, self.tasks.clock).await {
                tracing::warn!(migration.id = %participation.migration, hook = %at, "a hook failed: {error}");
            }
        }
        // The next cutover may have begun meanwhile, and owes by itself.
        for (key, epoch) in debts {
            if self.journal.note(migration, key)? == Some(epoch) {
                self.journal.clear_note(migration, key)?;
            }
        }
        Ok(())
    }
}

/// The cutover that was to leave this side and whose end hooks have still to be
/// told.
pub(crate) fn owed(journal: &Journal, migration: &MigrationId) -> Result<Option<i64>, Failure> {
    Ok(journal.note(migration, OWED_NOTE)?.and_then(|text| text.parse().ok()))
}

async fn run(
    participation: &Participation,
    at: HookPoint,
    command: &crate::policy::LocalCommand,
    limit: Duration,
    clock: Clock,
) -> Result<(), program::Unsuccessful> {
    tracing::info!(migration.id = %participation.migration, hook = %at, "running a hook");
    let mut variables = program::variables(participation);
    variables.push(("PGPORTAGE_HOOK", at.to_string()));
    program::run(command, limit, &variables, clock).await
}

/// Which hook, but not what it said: its output is for the machine's owner.
fn failed(at: HookPoint, index: usize, error: &program::Unsuccessful) -> Failure {
    Failure::new(Reason::HookFailed, format!("hook {} at {at} failed", index + 1))
        .detail(format!("The agent's policy names it; {error}."))
        .hint("What it said is in the agent's log. Mend it, or take it out of the policy, and try the cutover again.")
        .remedy(Remedy::Operator)
        .effect(Effect::Unknown)
        .with("hook", at)
}
