//! The loop that carries out what is due: this agent's pooler clients go on, the other agent and hooks
//! learn the end, and a fence that no command works on is settled.

use std::collections::HashMap;
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{MigrationId, Reason, Side};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::sessions::Switchovers;
use crate::policy::HookPoint;
use pgportage_data_plane::peer::Resolution;
use pgportage_migration::Participation;
use pgportage_migration::switchover::{Due, Ended, Event, Held, InHand, Switchover};

/// How often this agent looks whether anything is due that no command works on. Also how often it asks
/// another agent that does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Switchovers {
    /// Carries out what is due, except for the fence: clients of poolers go where the record says; hooks
    /// and the other agent learn the end. In doubt all clients wait. The sessions of the switchover must be
    /// gone, or past its decision.
    ///
    /// A future that was dropped can be called again.
    ///
    /// # Errors
    ///
    /// [`Reason::PoolerUnfit`] and [`Reason::PoolerUnreachable`]: some clients wait on, and this can be
    /// called again.
    pub(crate) async fn carry_out(&self, participation: &Participation) -> Result<(), Failure> {
        self.carry_out_what_is_free(participation, InHand::FENCE).await
    }

    async fn carry_out_what_is_free(&self, participation: &Participation, in_hand: InHand) -> Result<(), Failure> {
        let (mut begun, mut outcome) = (Vec::new(), Ok(()));
        loop {
            // Read anew each time: one thing that is done makes another due.
            let due = self.journal.switchover(&participation.migration)?.due(in_hand, self.tasks.clock.now());
            let Some(next) = due.into_iter().find(|due| !begun.contains(due)) else { return outcome };
            begun.push(next);
            // One pooler that does not answer must not keep the clients of others waiting.
            outcome = outcome.and(self.carry_out_one(participation, next).await);
        }
    }

    async fn carry_out_one(&self, participation: &Participation, due: Due) -> Result<(), Failure> {
        match due {
            // Not done here: `settle_fence` does it, in a session of its own.
            Due::AskOther(_) | Due::LiftFence(_) => Ok(()),
            Due::LeadHere => self.lead_here(participation).await,
            Due::TellHooks(switchover, ended) => {
                self.tell_hooks(participation, switchover, ended);
                Ok(())
            }
            Due::TellOther(epoch) => {
                self.tell_other(participation, epoch);
                Ok(())
            }
            Due::LetOnToOther(pause) => self.let_on(participation, pause, Some(participation.side.other())).await,
            Due::LetOnAsTheyWere(pause) => self.let_on(participation, pause, None).await,
            // The other agent would have announced an opening of this side, or this agent has opened it
            // itself. When this agent now asks its own server, this side has either opened already, or
            // never will.
            Due::AskOwnDecision(pause) => match self.resolve(participation, pause.epoch).await? {
                Resolution::Opened => self.let_on(participation, pause, Some(participation.side)).await,
                Resolution::WillNotOpen => self.let_on(participation, pause, None).await,
            },
        }
    }

    async fn let_on(
        &self,
        participation: &Participation,
        pause: Switchover,
        towards: Option<Side>,
    ) -> Result<(), Failure> {
        let migration = &participation.migration;
        // Asked again when this task has its turn with the poolers: the clients may have gone on since, and
        // wait for the next switchover.
        let wait = || Ok::<_, Failure>(self.journal.switchover(migration)?.pause == Some(pause));
        if self.poolers.let_on(participation, towards, wait).await? {
            self.journal.happened(migration, Event::LetOn(pause))?;
            let towards = towards.map_or("same", Side::as_str);
            tracing::info!(migration.id = %migration, towards, "the poolers' clients go on");
        }
        Ok(())
    }

    async fn lead_here(&self, participation: &Participation) -> Result<(), Failure> {
        let migration = &participation.migration;
        let mut waited = None;
        let due = || {
            let record = self.journal.switchover(migration)?;
            waited = record.pause;
            Ok::<_, Failure>(record.lead_here)
        };
        if self.poolers.let_on(participation, Some(participation.side), due).await? {
            self.journal.happened(migration, Event::LeadHere(waited))?;
            tracing::info!(migration.id = %migration, "the poolers lead to the {} again", participation.side);
        }
        Ok(())
    }

    fn tell_hooks(&self, participation: &Participation, switchover: Switchover, ended: Ended) {
        let at = match ended {
            Ended::Opened => HookPoint::AfterOpen,
            Ended::TakenBack => HookPoint::AfterAbort,
        };
        let (switchovers, migration) = (self.clone(), participation.migration.clone());
        self.hooks
            .tell(participation, at, move || switchovers.journal.happened(&migration, Event::HooksTold(switchover)));
    }

    /// Notes, before the first hook of a switchover runs, that hooks have to learn how it ends, if the
    /// policy has such hooks.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`]; [`Reason::WrongState`] when a later switchover has begun.
    pub(crate) fn owe_hooks(&self, participation: &Participation, switchover: Switchover) -> Result<(), Failure> {
        let are_told = |point| self.policy.hooks(point, &participation.database).next().is_some();
        if are_told(HookPoint::AfterOpen) || are_told(HookPoint::AfterAbort) {
            self.journal.happened(&participation.migration, Event::OwesHooks(switchover))?;
        }
        Ok(())
    }

    /// On the side that was entered, after the decision: notes the opening, and starts carrying out what
    /// follows from it. Hearing it again does no harm.
    pub(crate) fn this_side_opened(&self, participation: &Participation, epoch: i64) -> Result<(), Failure> {
        // Only poolers on the source can lead to the other side.
        let lead_here = participation.side == Side::Source && self.has_poolers(participation);
        self.journal.happened(&participation.migration, Event::Opened { epoch, lead_here })?;
        self.carry_out_beside(participation);
        Ok(())
    }

    /// Carries out what is due in a task of its own. The agent tries again what fails.
    pub(super) fn carry_out_beside(&self, participation: &Participation) {
        let (switchovers, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move { tell_failure(&participation, switchovers.carry_out(&participation).await) });
    }

    pub(super) fn has_poolers(&self, participation: &Participation) -> bool {
        self.policy.poolers(&participation.database).next().is_some()
    }

    /// Makes sure that a pause ends with the budget for the outage, as the barrier does, also when no
    /// command comes any more, and when the agent stops. A fence that may stand is left to P6a.
    pub(crate) fn carry_out_at(&self, participation: &Participation, pause: Switchover, deadline: Instant) {
        if !self.has_poolers(participation) {
            return;
        }
        let (switchovers, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = switchovers.tasks.stop.cancelled() => {}
                () = switchovers.tasks.clock.sleep_until(deadline) => {}
            }
            tell_failure(&participation, switchovers.end_pause(&participation, pause).await);
        });
    }

    async fn end_pause(&self, participation: &Participation, pause: Switchover) -> Result<(), Failure> {
        let migration = &participation.migration;
        // The next switchover has a timer of its own.
        if self.journal.switchover(migration)?.pause != Some(pause) {
            return Ok(());
        }
        // The act at work holds these; it ends with the budget or with the agent. After the budget no fence
        // begins and no side opens.
        let (leaving, entering) = (self.sessions.leaving(migration), self.sessions.entering(migration));
        let _left = match &leaving {
            Some(cutover) => Some(cutover.lock().await),
            None => None,
        };
        let _entered = match &entering {
            Some(cutover) => Some(cutover.lock().await),
            None => None,
        };
        self.carry_out(participation).await
    }

    /// Carries out what is due in every migration that no command works on. Independent of commands: looks
    /// each second, and when a barrier's budget ends. Runs until the agent stops.
    ///
    /// This agent asks about a fence that may stand as soon as the barrier's budget is over: the other side
    /// does not open any more by then, and applications wait. After a restart it asks at once, because the
    /// barrier is gone then.
    pub async fn look_after_each(self) {
        let clock = self.tasks.clock;
        let mut under_way = HashMap::new();
        loop {
            let pause = async {
                let now = clock.now();
                let due = self.sessions.next_deadline(now);
                clock.sleep_until(due.map_or(now + LOOK_AGAIN, |due| due.min(now + LOOK_AGAIN))).await;
            };
            tokio::select! {
                biased;
                () = self.tasks.stop.cancelled() => return,
                // The budget of the new barrier may end before the next look.
                () = self.sessions.raised.notified() => continue,
                () = pause => {}
            }
            let participations = match self.journal.participations() {
                Ok(participations) => participations,
                Err(failure) => {
                    tracing::error!(%failure, "cannot read the journal");
                    continue;
                }
            };
            under_way.retain(|_, looking: &mut JoinHandle<()>| !looking.is_finished());
            for participation in participations {
                // In a task for each migration: a pooler that does not answer delays only what is due in
                // its own.
                let migration = participation.migration.clone();
                under_way.entry(migration).or_insert_with(|| {
                    let switchovers = self.clone();
                    self.tasks.spawn(async move { switchovers.look_after(&participation).await })
                });
            }
        }
    }

    async fn look_after(&self, participation: &Participation) {
        let migration = &participation.migration;
        if let Err(failure) = self.settle_what_is_in_doubt(participation).await {
            tracing::warn!(migration.id = %migration, %failure, "the switchover is in doubt");
        }
        let in_hand = InHand { fence: Held::ByCommand, clients: self.clients_in_hand(migration) };
        tell_failure(participation, self.carry_out_what_is_free(participation, in_hand).await);
    }

    async fn settle_what_is_in_doubt(&self, participation: &Participation) -> Result<(), Failure> {
        let migration = &participation.migration;
        if !self.is_fence_due(migration)? {
            return Ok(());
        }
        // A command may be working on it to its end, and leave nothing in doubt.
        if let Some(cutover) = self.sessions.leaving(migration) {
            drop(cutover.lock().await);
        }
        if !self.is_fence_due(migration)? {
            return Ok(());
        }
        match self.settle_fence(participation).await {
            Err(failure) if failure.reason == Reason::DestinationOpened => Ok(()),
            settled => settled,
        }
    }

    fn is_fence_due(&self, migration: &MigrationId) -> Result<bool, Failure> {
        // While the budget runs, a command may be working on it.
        let fence = self.sessions.deadline(migration).map_or(Held::No, Held::Until);
        let in_hand = InHand { fence, clients: Held::ByCommand };
        Ok(!self.journal.switchover(migration)?.due(in_hand, self.tasks.clock.now()).is_empty())
    }

    /// How long commands work on what is due to clients, hooks and the other agent.
    fn clients_in_hand(&self, migration: &MigrationId) -> Held {
        if let Some(cutover) = self.sessions.leaving(migration) {
            // A command that works on it holds the lock.
            let Ok(cutover) = cutover.try_lock() else { return Held::ByCommand };
            match cutover.barrier.as_ref().map(|barrier| barrier.deadline) {
                Some(deadline) if self.tasks.clock.now() >= deadline => {}
                Some(deadline) => return Held::Until(deadline),
                None => return Held::ByCommand,
            }
        }
        if let Some(cutover) = self.sessions.entering(migration) {
            let Ok(cutover) = cutover.try_lock() else { return Held::ByCommand };
            return cutover.clients_wait_until.map_or(Held::No, Held::Until);
        }
        Held::No
    }
}

/// Logs what could not be carried out: clients wait for it.
pub(super) fn tell_failure(participation: &Participation, outcome: Result<(), Failure>) {
    if let Err(failure) = outcome {
        tracing::error!(
            migration.id = %participation.migration, detail = failure.detail,
            "the poolers' clients still wait: {failure}"
        );
    }
}
