//! What operators call.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use pgportage_link::identity::PeerIdentity;
use pgportage_link::status::to_status;
use pgportage_link::{Failure, trace};
use pgportage_proto::v1::migration_service_server::MigrationService;
use pgportage_proto::{Reason, v1};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{caller, origin, page};
use crate::engine::{Creation, Engine, Overview, Submission};
use crate::message::invalid;
use crate::wire;
use crate::workflow::StepName;
use crate::workflow::depth::Look;
use crate::workflow::finding::Consent;
use crate::workflow::rehearsal::DEFAULT_ROUNDS;
use crate::workflow::spec::{MigrationId, Rate};
use crate::workflow::verb::Request as OperatorRequest;

/// Changes waiting for a watcher that reads slowly. One: it gets the newest
/// state anyway, not each of them.
const WATCH: usize = 1;

/// The service for operators about migrations. Watchers end at `stop`.
#[derive(Debug)]
pub(crate) struct MigrationFront {
    pub engine: Engine,
    /// Watchers under way.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl MigrationFront {
    fn view(&self, overview: &Overview) -> Option<v1::Migration> {
        Some(wire::view(overview, |agent| self.engine.fleet().attached(agent)))
    }

    /// Says a word and returns the migration as it stands then.
    async fn submit(
        &self,
        caller: &PeerIdentity,
        migration_id: &str,
        etag: Option<String>,
        request: OperatorRequest,
    ) -> Result<Option<v1::Migration>, Status> {
        let said =
            Submission { origin: origin(caller, None), etag, trace: trace::carry().into_iter().collect(), request };
        let outcome = async {
            let id = MigrationId::new(migration_id)?;
            self.engine.submit(&id, said).await
        };
        Ok(self.view(&outcome.await.map_err(to_status)?))
    }

    /// A budget from outside, or the one of the settings.
    fn max_outage(&self, given: Option<prost_types::Duration>) -> Result<Duration, Status> {
        given.map_or(Ok(self.engine.default_max_outage()), |given| {
            wire::duration("max_outage", given).map_err(to_status)
        })
    }
}

/// The etag of a verb that may go without.
fn optional(etag: String) -> Option<String> {
    Some(etag).filter(|etag| !etag.is_empty())
}

/// The etag of a verb that cannot be taken back.
fn required(etag: String) -> Result<Option<String>, Status> {
    optional(etag).map(Some).ok_or_else(|| {
        to_status(wire::missing("etag").hint("Look at the migration first; its etag says on which picture you decide."))
    })
}

/// How long comparing what is written in a switch may take.
fn compare_limit_of(given: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    given.map(|limit| wire::duration("compare_limit", limit)).transpose().map_err(to_status)
}

/// How often an operator wants a switch to be rehearsed.
fn rounds(given: i32) -> Result<u32, Failure> {
    match u32::try_from(given) {
        Ok(0) => Ok(DEFAULT_ROUNDS),
        Ok(rounds) => Ok(rounds),
        Err(_negative) => Err(invalid("round_count", "round_count must not be negative")),
    }
}

/// How closely an operator wants both sides to be compared.
fn look(message: &v1::VerifyMigrationRequest) -> Result<Look, Failure> {
    use v1::verify_migration_request::Depth;

    let time_limit = message.time_limit.map(|limit| wire::duration("time_limit", limit)).transpose()?;
    let look = Look {
        rows: match message.depth() {
            Depth::Unspecified | Depth::Counts => false,
            Depth::Rows => true,
        },
        time_limit,
        resume: message.resume,
        repair: message.repair,
    };
    if !look.rows && look != Look::default() {
        return Err(invalid("depth", "only a comparison of rows can be limited, resumed or mended"));
    }
    Ok(look)
}

fn id(text: &str) -> Result<MigrationId, Status> {
    MigrationId::new(text).map_err(|error| to_status(error.into()))
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MigrationService for MigrationFront {
    async fn create_migration(
        &self,
        request: Request<v1::CreateMigrationRequest>,
    ) -> Answer<v1::CreateMigrationResponse> {
        let caller = caller(&request)?;
        let v1::CreateMigrationRequest { migration_id, spec, request_id, validate_only } = request.into_inner();
        let creation = async {
            if !request_id.is_empty() && Uuid::parse_str(&request_id).is_err() {
                return Err(invalid("request_id", "request_id must be a UUID"));
            }
            let spec = wire::spec(spec.ok_or_else(|| wire::missing("spec"))?)?;
            let id = MigrationId::new(&migration_id)?;
            let origin = origin(&caller, optional(request_id));
            self.engine.create(Creation { origin, id, spec, validate_only }).await
        };
        let overview = creation.await.map_err(to_status)?;
        Ok(Response::new(v1::CreateMigrationResponse { migration: self.view(&overview) }))
    }

    async fn get_migration(&self, request: Request<v1::GetMigrationRequest>) -> Answer<v1::GetMigrationResponse> {
        let overview = self.engine.overview(&id(&request.into_inner().migration_id)?).map_err(to_status)?;
        Ok(Response::new(v1::GetMigrationResponse { migration: self.view(&overview) }))
    }

    async fn list_migrations(&self, request: Request<v1::ListMigrationsRequest>) -> Answer<v1::ListMigrationsResponse> {
        let v1::ListMigrationsRequest { page_size, page_token } = request.into_inner();
        let (overviews, next_page_token) =
            page(self.engine.overviews(), page_size, &page_token, |overview| overview.state.id.to_string())
                .map_err(to_status)?;
        let migrations = overviews.iter().filter_map(|overview| self.view(overview)).collect();
        Ok(Response::new(v1::ListMigrationsResponse { migrations, next_page_token }))
    }

    type WatchMigrationStream = Pin<Box<dyn Stream<Item = Result<v1::WatchMigrationResponse, Status>> + Send>>;

    async fn watch_migration(&self, request: Request<v1::WatchMigrationRequest>) -> Answer<Self::WatchMigrationStream> {
        let mut changes = self.engine.watch(&id(&request.into_inner().migration_id)?).map_err(to_status)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(WATCH);
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        // Ends with the migration, its watcher or the coordinator.
        self.tasks.spawn(async move {
            changes.mark_changed();
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        let failure = Failure::new(Reason::StoreUnwritable, "the coordinator is stopping")
                            .hint("Watch again: another coordinator, or this one, will be there.");
                        // The watcher may have gone.
                        drop(sender.try_send(Err(to_status(failure))));
                        return;
                    }
                    () = sender.closed() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                let overview = changes.borrow_and_update().clone();
                let migration = Some(wire::view(&overview, |agent| engine.fleet().attached(agent)));
                let gone = sender.send(Ok(v1::WatchMigrationResponse { migration })).await.is_err();
                if gone || overview.state.terminal() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn explain_migration(
        &self,
        request: Request<v1::ExplainMigrationRequest>,
    ) -> Answer<v1::ExplainMigrationResponse> {
        let id = id(&request.into_inner().migration_id)?;
        let explained = self.engine.explain(&id).await.map_err(to_status)?;
        let migration = wire::view(&explained.overview, |agent| self.engine.fleet().attached(agent));
        Ok(Response::new(wire::explained(explained, migration)))
    }

    async fn start_migration(&self, request: Request<v1::StartMigrationRequest>) -> Answer<v1::StartMigrationResponse> {
        let caller = caller(&request)?;
        let v1::StartMigrationRequest { migration_id, etag } = request.into_inner();
        let migration = self.submit(&caller, &migration_id, optional(etag), OperatorRequest::Start).await?;
        Ok(Response::new(v1::StartMigrationResponse { migration }))
    }

    async fn release_step(&self, request: Request<v1::ReleaseStepRequest>) -> Answer<v1::ReleaseStepResponse> {
        let caller = caller(&request)?;
        let v1::ReleaseStepRequest { migration_id, step_name, etag } = request.into_inner();
        let etag = required(etag)?;
        let step = StepName::parse(&step_name)
            .ok_or_else(|| to_status(invalid("step_name", format!("there is no step {step_name:?}"))))?;
        if step.is_switch() {
            self.engine.ready_to_switch(&id(&migration_id)?, step.held_at()).await.map_err(to_status)?;
        }
        let request = OperatorRequest::Release { step, max_outage: self.engine.default_max_outage() };
        let migration = self.submit(&caller, &migration_id, etag, request).await?;
        Ok(Response::new(v1::ReleaseStepResponse { migration }))
    }

    async fn tune_migration(&self, request: Request<v1::TuneMigrationRequest>) -> Answer<v1::TuneMigrationResponse> {
        let caller = caller(&request)?;
        let v1::TuneMigrationRequest { migration_id, etag, max_rate_bytes } = request.into_inner();
        let max_rate = max_rate_bytes.ok_or_else(|| wire::missing("max_rate_bytes")).and_then(Rate::limit);
        let request = OperatorRequest::Tune { max_rate: max_rate.map_err(to_status)? };
        let migration = self.submit(&caller, &migration_id, optional(etag), request).await?;
        Ok(Response::new(v1::TuneMigrationResponse { migration }))
    }

    async fn give_consent(&self, request: Request<v1::GiveConsentRequest>) -> Answer<v1::GiveConsentResponse> {
        let caller = caller(&request)?;
        let v1::GiveConsentRequest { migration_id, consents, etag } = request.into_inner();
        if consents.is_empty() {
            return Err(to_status(wire::missing("consents")));
        }
        let request = OperatorRequest::Consent(consents.into_iter().map(Consent::from).collect());
        let migration = self.submit(&caller, &migration_id, optional(etag), request).await?;
        Ok(Response::new(v1::GiveConsentResponse { migration }))
    }

    async fn run_preflight(&self, request: Request<v1::RunPreflightRequest>) -> Answer<v1::RunPreflightResponse> {
        let outcome = async {
            let spec = wire::spec(request.into_inner().spec.ok_or_else(|| wire::missing("spec"))?)?;
            self.engine.preflight(&spec).await
        };
        let (source, destination) = outcome.await.map_err(to_status)?;
        Ok(Response::new(v1::RunPreflightResponse {
            source_findings: source.iter().map(wire::to_finding).collect(),
            destination_findings: destination.iter().map(wire::to_finding).collect(),
        }))
    }

    async fn get_plan(&self, request: Request<v1::GetPlanRequest>) -> Answer<v1::GetPlanResponse> {
        let caller = caller(&request)?;
        let v1::GetPlanRequest { migration_id, refresh } = request.into_inner();
        let (overview, obstacle) =
            self.engine.plan(&id(&migration_id)?, origin(&caller, None), refresh).await.map_err(to_status)?;
        Ok(Response::new(wire::plan(&overview.state, obstacle)))
    }

    async fn cut_over(&self, request: Request<v1::CutOverRequest>) -> Answer<v1::CutOverResponse> {
        let caller = caller(&request)?;
        let v1::CutOverRequest { migration_id, etag, max_outage, without_way_back, compare_limit } =
            request.into_inner();
        let etag = required(etag)?;
        let max_outage = self.max_outage(max_outage)?;
        let compare_limit = compare_limit_of(compare_limit)?;
        self.engine.ready_to_switch(&id(&migration_id)?, StepName::Cutover).await.map_err(to_status)?;
        let request = OperatorRequest::CutOver { max_outage, without_way_back, compare_limit };
        let migration = self.submit(&caller, &migration_id, etag, request).await?;
        Ok(Response::new(v1::CutOverResponse { migration }))
    }

    async fn roll_back_migration(
        &self,
        request: Request<v1::RollBackMigrationRequest>,
    ) -> Answer<v1::RollBackMigrationResponse> {
        let caller = caller(&request)?;
        let v1::RollBackMigrationRequest { migration_id, etag, max_outage, without_poolers, compare_limit } =
            request.into_inner();
        let etag = required(etag)?;
        let max_outage = self.max_outage(max_outage)?;
        let compare_limit = compare_limit_of(compare_limit)?;
        self.engine.ready_to_switch(&id(&migration_id)?, StepName::Finish).await.map_err(to_status)?;
        let request = OperatorRequest::RollBack { max_outage, without_poolers, compare_limit };
        let migration = self.submit(&caller, &migration_id, etag, request).await?;
        Ok(Response::new(v1::RollBackMigrationResponse { migration }))
    }

    async fn rehearse_cutover(
        &self,
        request: Request<v1::RehearseCutoverRequest>,
    ) -> Answer<v1::RehearseCutoverResponse> {
        let caller = caller(&request)?;
        let v1::RehearseCutoverRequest { migration_id, etag, max_outage, round_count, rollback, compare_limit } =
            request.into_inner();
        let etag = required(etag)?;
        let max_outage = self.max_outage(max_outage)?;
        let compare_limit = compare_limit_of(compare_limit)?;
        let round_count = rounds(round_count).map_err(to_status)?;
        let switch = if rollback { StepName::Rollback } else { StepName::Cutover };
        self.engine.ready_to_switch(&id(&migration_id)?, switch.held_at()).await.map_err(to_status)?;
        let request = OperatorRequest::Rehearse { switch, max_outage, round_count, compare_limit };
        let migration = self.submit(&caller, &migration_id, etag, request).await?;
        Ok(Response::new(v1::RehearseCutoverResponse { migration }))
    }

    async fn verify_migration(
        &self,
        request: Request<v1::VerifyMigrationRequest>,
    ) -> Answer<v1::VerifyMigrationResponse> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let look = look(&message).map_err(to_status)?;
        let v1::VerifyMigrationRequest { migration_id, etag, .. } = message;
        let migration = self.submit(&caller, &migration_id, optional(etag), OperatorRequest::Verify(look)).await?;
        Ok(Response::new(v1::VerifyMigrationResponse { migration }))
    }

    async fn get_switch_certificate(
        &self,
        request: Request<v1::GetSwitchCertificateRequest>,
    ) -> Answer<v1::GetSwitchCertificateResponse> {
        let v1::GetSwitchCertificateRequest { migration_id, cutover_epoch } = request.into_inner();
        let overview = self.engine.overview(&id(&migration_id)?).map_err(to_status)?;
        Ok(Response::new(wire::certificate(&overview.state, cutover_epoch).map_err(to_status)?))
    }

    async fn finish_migration(
        &self,
        request: Request<v1::FinishMigrationRequest>,
    ) -> Answer<v1::FinishMigrationResponse> {
        let caller = caller(&request)?;
        let v1::FinishMigrationRequest { migration_id, etag } = request.into_inner();
        let migration = self.submit(&caller, &migration_id, required(etag)?, OperatorRequest::Finish).await?;
        Ok(Response::new(v1::FinishMigrationResponse { migration }))
    }

    async fn abort_migration(&self, request: Request<v1::AbortMigrationRequest>) -> Answer<v1::AbortMigrationResponse> {
        let caller = caller(&request)?;
        let v1::AbortMigrationRequest { migration_id, etag } = request.into_inner();
        let migration = self.submit(&caller, &migration_id, optional(etag), OperatorRequest::Abort).await?;
        Ok(Response::new(v1::AbortMigrationResponse { migration }))
    }
}
