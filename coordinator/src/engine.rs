//! Carries plans out: one task for each migration that is not over.
//!
//! A task applies what it hears to its migration, stores it together with the
//! commands that follow from it, and only then acknowledges and sends. Nothing
//! on the way polls: an agent's fact becomes the next agent's command with one
//! commit between.
//!
//! **Invariant:** no command leaves before its intent is stored, and no fact is
//! acknowledged before it is. Whatever is lost on the way is sent again when the
//! agent comes back.

mod explain;
mod hear;
mod preflight;
mod ready;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Failure};
use pgportage_proto::Reason;
use pgportage_report::drift::SchemaDrift;
use pgportage_report::progress::Progress;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::figures::Gauge;
use crate::fleet::Fleet;
use crate::message::refusal;
use crate::metrics::Figures;
use crate::settings::MigrationSettings;
use crate::store::{Store, StoreError};
use crate::wire::{AgentFact, etag};
use crate::workflow::Side;
use crate::workflow::act::Digest;
use crate::workflow::drift;
use crate::workflow::fact::{CommandId, Event, Fact, Origin, TraceContext};
use crate::workflow::planned;
use crate::workflow::spec::{MigrationId, Spec};
use crate::workflow::state::{State, fold, next};
use crate::workflow::verb::{self, Request};

use explain::Asker;
use task::{Incoming, Task};

pub use explain::Explained;

/// Letters waiting for one migration's task: facts of two agents and the
/// operators' words. Senders wait when it is full.
const INBOX: usize = 64;

/// Everything known about a migration at one moment.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Where it stands.
    pub state: Arc<State>,
    /// How far its commands are.
    pub progress: BTreeMap<CommandId, Progress>,
    /// What the agents measure.
    pub gauges: BTreeMap<Side, Gauge>,
}

impl Overview {
    /// What is known before any agent has said something.
    pub(crate) fn of(state: State) -> Self {
        Self { state: Arc::new(state), progress: BTreeMap::new(), gauges: BTreeMap::new() }
    }

    /// How the schemas of both sides compare while rows flow between them, as far as
    /// the agent of the side that follows has said.
    #[must_use]
    pub fn drift(&self) -> Option<&SchemaDrift> {
        let follower = self.state.writable.other();
        let said = self.gauges.get(&follower)?.drift.as_ref()?;
        (said.follower == follower && drift::concerns(&self.state)).then_some(said)
    }
}

/// The engine. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    identity: Identity,
    migration: MigrationSettings,
    figures: Figures,
    migrations: RwLock<BTreeMap<MigrationId, Handle>>,
    /// Which migration each command of a live one belongs to.
    commands: RwLock<HashMap<CommandId, MigrationId>>,
    /// Who waits for the commands of a preflight, which nobody stores.
    preflights: Mutex<HashMap<CommandId, mpsc::Sender<AgentFact>>>,
    /// Who waits for an answer of an agent.
    questions: Mutex<HashMap<Uuid, Asker>>,
    /// One creation at a time: each looks at all the others.
    creating: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The way to one migration.
#[derive(Clone, Debug)]
struct Handle {
    overview: Arc<watch::Sender<Overview>>,
    inbox: mpsc::Sender<Incoming>,
}

/// Runs when it is dropped: forgets who waits, however the waiting ends.
struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// An operator's request, and on what occasion it was made.
#[derive(Debug)]
pub struct Submission {
    /// Who.
    pub origin: Origin,
    /// The picture it was said on. Refused when it is old.
    pub etag: Option<String>,
    /// The trace that everything it brings about belongs to.
    pub trace: TraceContext,
    /// What.
    pub request: Request,
}

/// A migration to be created.
#[derive(Debug)]
pub struct Creation {
    /// Who.
    pub origin: Origin,
    /// Its name.
    pub id: MigrationId,
    /// What to do.
    pub spec: Spec,
    /// Check everything, create nothing.
    pub validate_only: bool,
}

impl Engine {
    /// Takes up every migration that is not over where its facts say it stands.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or holds a history that cannot be.
    pub async fn start(
        clock: Clock,
        store: Arc<dyn Store>,
        fleet: Arc<Fleet>,
        identity: Identity,
        migration: MigrationSettings,
        figures: Figures,
    ) -> Result<Self, Failure> {
        let histories = store.histories().await?;
        let inner = Inner {
            clock,
            store,
            fleet,
            identity,
            migration,
            figures,
            migrations: RwLock::default(),
            commands: RwLock::default(),
            preflights: Mutex::default(),
            questions: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let engine = Self(Arc::new(inner));
        for (id, facts) in histories {
            let state = fold(&facts).map_err(|illegal| {
                refusal(Reason::Internal, format!("the history of migration {id} does not make sense"))
                    .because(&illegal)
            })?;
            if !state.terminal() {
                tracing::info!(migration.id = %id, "taken up: {}", verb::describe(&state.phase));
            }
            engine.run(state);
        }
        Ok(engine)
    }

    /// Ends every task at its next pause. Nothing is lost: the next start goes on.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Lets a migration's task run, unless it is over.
    fn run(&self, state: State) {
        let id = state.id.clone();
        let terminal = state.terminal();
        let overview = Overview::of(state);
        let (inbox, incoming) = mpsc::channel(INBOX);
        let handle = Handle { overview: Arc::new(watch::Sender::new(overview)), inbox };
        if !terminal {
            let state = Arc::clone(&handle.overview.borrow().state);
            self.0.commands_mut().extend(state.commands.keys().map(|command| (*command, id.clone())));
            let task = Task::new(self.clone(), &state, Arc::clone(&handle.overview), incoming);
            self.0.tasks.spawn(task.run());
        }
        self.0.figures.moved(None, Some(&handle.overview.borrow().state));
        self.0.migrations.write().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
    }

    fn handle(&self, id: &MigrationId) -> Result<Handle, Failure> {
        self.0.handles().get(id).cloned().ok_or_else(|| {
            refusal(Reason::MigrationMissing, format!("there is no migration {id}"))
                .hint("List them with `pgportage status`.")
                .with("migration", id)
        })
    }

    /// Creates a migration. The same request again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Reason::MigrationExists`], [`Reason::AgentUnknown`] and faults of the
    /// store.
    pub async fn create(&self, creation: Creation) -> Result<Overview, Failure> {
        let Creation { origin, id, spec, validate_only } = creation;
        let _one_at_a_time = self.0.creating.lock().await;
        let existing = self.0.handles().get(&id).map(|handle| handle.overview.borrow().clone());
        if let Some(overview) = existing {
            if origin.request_id == overview.state.create_request_id && overview.state.spec == spec {
                return Ok(overview);
            }
            return Err(exists(&id, format!("there is a migration {id} already")));
        }
        self.must_be_free(&spec)?;
        let event = Event::Created { id: id.clone(), spec };
        let time = self.0.clock.wall();
        let mut fact = Fact { sequence: 1, origin, time, plan_digest: Digest::default(), event };
        fact.plan_digest = planned::digest(&next(None, &fact).map_err(|illegal| defect(&illegal))?);
        let state = next(None, &fact).map_err(|illegal| defect(&illegal))?;
        if !validate_only {
            self.0.store.append(id, vec![fact]).await?;
            self.run(state.clone());
        }
        Ok(Overview::of(state))
    }

    /// Whether the agents are known and the database is in nobody else's hands.
    fn must_be_free(&self, spec: &Spec) -> Result<(), Failure> {
        for agent in [&spec.source_agent, &spec.destination_agent] {
            if self.0.fleet.get(agent).is_none() {
                return Err(refusal(Reason::AgentUnknown, format!("no agent {agent} was ever attached"))
                    .hint("Look at `pgportage agents`; the name is the one in the agent's certificate.")
                    .with("agent", agent));
            }
        }
        for handle in self.0.handles().values() {
            let other = Arc::clone(&handle.overview.borrow().state);
            if other.terminal() || other.spec.database != spec.database {
                continue;
            }
            let shared = [&other.spec.source_agent, &other.spec.destination_agent]
                .into_iter()
                .find(|agent| [&spec.source_agent, &spec.destination_agent].contains(agent));
            if let Some(agent) = shared {
                return Err(exists(
                    &other.id,
                    format!("migration {} has database {:?} of agent {agent} in hand", other.id, spec.database),
                )
                .hint(format!("Finish or abort it first; look at `pgportage status {}`.", other.id)));
            }
        }
        Ok(())
    }

    /// Carries an operator's request to a migration and returns what came of it.
    ///
    /// # Errors
    ///
    /// When the request does not fit, was made on an old picture, or cannot be
    /// stored.
    pub async fn submit(&self, id: &MigrationId, submission: Submission) -> Result<Overview, Failure> {
        let handle = self.handle(id)?;
        let (reply, answer) = oneshot::channel();
        let state = Arc::clone(&handle.overview.borrow().state);
        if state.terminal() {
            // Its task is gone; the refusal is the same.
            check_etag(&state, submission.etag.as_deref())?;
            verb::apply(&state, submission.request.clone(), TraceContext::new())?;
        }
        let stopped = || {
            refusal(Reason::StoreUnwritable, "the coordinator is stopping, or cannot go on with this migration")
                .hint("Try again; if that does not help, look at the coordinator's log.")
        };
        handle.inbox.send(Incoming::Request { submission, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// One migration.
    ///
    /// # Errors
    ///
    /// [`Reason::MigrationMissing`].
    pub fn overview(&self, id: &MigrationId) -> Result<Overview, Failure> {
        Ok(self.handle(id)?.overview.borrow().clone())
    }

    /// One migration, now and after every change.
    ///
    /// # Errors
    ///
    /// [`Reason::MigrationMissing`].
    pub fn watch(&self, id: &MigrationId) -> Result<watch::Receiver<Overview>, Failure> {
        Ok(self.handle(id)?.overview.subscribe())
    }

    /// A migration that is not over and that these two agents move, one on each
    /// side; its board closes with the engine.
    #[must_use]
    pub fn shared_migration(&self, one: &str, other: &str) -> Option<watch::Receiver<Overview>> {
        let shares = |state: &State| {
            let Spec { source_agent, destination_agent, .. } = &state.spec;
            let agents = (source_agent.as_str(), destination_agent.as_str());
            !state.terminal() && (agents == (one, other) || agents == (other, one))
        };
        self.0
            .handles()
            .values()
            .find(|handle| shares(&handle.overview.borrow().state))
            .map(|it| it.overview.subscribe())
    }

    /// Every migration, newest first.
    #[must_use]
    pub fn overviews(&self) -> Vec<Overview> {
        let mut overviews: Vec<_> = self.0.handles().values().map(|handle| handle.overview.borrow().clone()).collect();
        overviews.sort_by(|a, b| {
            let key = |overview: &Overview| (std::cmp::Reverse(overview.state.create_time), overview.state.id.clone());
            key(a).cmp(&key(b))
        });
        overviews
    }

    /// The budget of a cutover when the operator names none.
    #[must_use]
    pub fn default_max_outage(&self) -> Duration {
        self.0.migration.max_outage
    }

    /// Who attends to the agents.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }
}

impl Inner {
    fn handles(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<MigrationId, Handle>> {
        self.migrations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> std::sync::RwLockReadGuard<'_, HashMap<CommandId, MigrationId>> {
        self.commands.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<CommandId, MigrationId>> {
        self.commands.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn preflights(&self) -> MutexGuard<'_, HashMap<CommandId, mpsc::Sender<AgentFact>>> {
        self.preflights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<Uuid, Asker>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ourselves, as the cause of a fact.
    fn origin(&self, request_id: &str) -> Origin {
        let own = self.identity.own();
        Origin { actor: own.uri, certificate_serial: own.serial, request_id: request_id.to_owned() }
    }

    fn leader_epoch(&self) -> i64 {
        self.store.leader_epoch()
    }
}

fn check_etag(state: &State, given: Option<&str>) -> Result<(), Failure> {
    let current = etag(state);
    match given {
        Some(given) if given != current => {
            Err(refusal(Reason::EtagMismatch, format!("migration {} has changed since you looked", state.id))
                .hint(format!("Look again with `pgportage status {}`, then decide.", state.id))
                .with("migration", &state.id)
                .with("currentEtag", current))
        }
        Some(_) | None => Ok(()),
    }
}

fn exists(id: &MigrationId, message: String) -> Failure {
    refusal(Reason::MigrationExists, message).with("migration", id)
}

fn defect(error: &(dyn std::error::Error + 'static)) -> Failure {
    refusal(Reason::Internal, "a defect of the coordinator stands in the way")
        .hint("Look at the coordinator's log, and report it.")
        .because(error)
}

/// The failure that a store error is for whoever asked.
fn refused(error: StoreError) -> Failure {
    error.into()
}
