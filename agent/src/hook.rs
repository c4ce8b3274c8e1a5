//! Hooks: commands of the machine's owner at named points of a cutover.
//!
//! Hooks before the decision take part in it: their failure gives the cutover up. Hooks after it only learn
//! what happened, and delay nothing. Before the first hook of a switchover runs, the agent notes that hooks
//! have to learn its end ([`pgportage_migration::switchover::Event::OwesHooks`]). So an agent that was killed runs them
//! after its restart; they may then run twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_proto::{MigrationId, Reason};

use crate::policy::{HookPoint, Policy};
use crate::program;

/// The hooks of the policy, and the migrations whose hooks are running to learn how the cutover ended.
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Hooks {
    policy: Arc<Policy>,
    tasks: Tasks,
    telling: Arc<Mutex<HashSet<MigrationId>>>,
}

impl Hooks {
    /// No hook is running yet.
    pub fn new(policy: Arc<Policy>, tasks: Tasks) -> Self {
        Self { policy, tasks, telling: Arc::default() }
    }

    fn telling(&self) -> std::sync::MutexGuard<'_, HashSet<MigrationId>> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Runs the hooks that learn how a switchover ended, without waiting for them; then notes with `told`
    /// that they ran. Does nothing while such hooks of that migration are running.
    pub(crate) fn tell(
        &self,
        participation: &Participation,
        at: HookPoint,
        told: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) {
        if !self.telling().insert(participation.migration.clone()) {
            return;
        }
        let (hooks, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move {
            let ran = hooks.tasks.stop.run_until_cancelled(hooks.tell_all(&participation, at)).await;
            if let Some(Err(failure)) = ran.map(|()| told()) {
                tracing::error!(migration.id = %participation.migration, "that hooks were told cannot be noted: {failure}");
            }
            hooks.telling().remove(&participation.migration);
        });
    }

    async fn tell_all(&self, participation: &Participation, at: HookPoint) {
        for rule in self.policy.hooks(at, &participation.database) {
            if let Err(error) = run(participation, at, &rule.command, rule.command.timeout, self.tasks.clock).await {
                tracing::warn!(migration.id = %participation.migration, hook = %at, "a hook failed: {error}");
            }
        }
    }
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

/// The failure of a hook, without its output: that is for the machine's owner.
fn failed(at: HookPoint, index: usize, error: &program::Unsuccessful) -> Failure {
    Failure::new(Reason::HookFailed, format!("hook {} at {at} failed", index + 1))
        .detail(format!("The agent's policy names it; {error}."))
        .hint("What it said is in the agent's log. Mend it, or take it out of the policy, and try the cutover again.")
        .remedy(Remedy::Operator)
        .effect(Effect::Unknown)
        .with("hook", at)
}
