//! The coordinator, as this program calls it: one function for each call, views
//! out, failures as data.

use std::future::Future;
use std::time::Duration;

use pgportage_link::http2::{FACT_MESSAGE_BYTES, Http2Settings};
use pgportage_link::{Clock, Failure, dial, identity::Role, status, tls::Identity, trace};
use pgportage_proto::v1::agent_service_client::AgentServiceClient;
use pgportage_proto::v1::migration_service_client::MigrationServiceClient;
use pgportage_proto::v1::{self, WatchMigrationResponse};
use pgportage_proto::{Reason, span};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::arguments::Verify;
use crate::settings::Settings;
use crate::view::{Agent, Certified, Explained, Finding, MaxRate, Migration, Plan, Preflight, Way};
use crate::wire;

/// Verbs answer at once: the work goes on after the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Preflight answers when both servers have been read.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(300);
/// Entries asked for at a time.
const PAGE_SIZE: i32 = 100;

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;
type Carried = InterceptedService<Channel, Interceptor>;

/// A connection to the coordinator. It reconnects by itself. Every call of it fails with
/// the coordinator's own words, or with [`Reason::PeerUnreachable`].
#[derive(Clone, Debug)]
pub(crate) struct Coordinator {
    migrations: MigrationServiceClient<Carried>,
    agents: AgentServiceClient<Carried>,
    clock: Clock,
}

/// What would be moved.
#[derive(Clone, Debug)]
pub struct Route {
    /// The agent beside the server to move from.
    pub source_agent: String,
    /// The agent beside the server to move to.
    pub destination_agent: String,
    /// The database.
    pub database: String,
    /// Lag under which the migration is ready. The coordinator's default when
    /// unset.
    pub max_lag: Option<Duration>,
    /// What moves the rows, and by which way.
    pub way: Way,
    /// How fast the copy may read.
    pub max_rate: MaxRate,
    /// Whether the applications can return after the cutover.
    pub way_back: bool,
}

impl From<Route> for v1::MigrationSpec {
    fn from(route: Route) -> Self {
        Self {
            source_agent_id: route.source_agent,
            destination_agent_id: route.destination_agent,
            database: route.database,
            max_lag: route.max_lag.map(span),
            connection_path: v1::ConnectionPath::from(route.way.connection).into(),
            copy_method: v1::CopyMethod::from(route.way.copy_method).into(),
            max_rate_bytes: wire::to_rate(route.max_rate),
            without_way_back: !route.way_back,
            ..Self::default()
        }
    }
}

impl Coordinator {
    /// Connects with the operator's certificate and makes sure that the
    /// coordinator of the settings is there.
    pub(crate) async fn connect(settings: &Settings, clock: Clock) -> Result<Self, Failure> {
        let address = &settings.coordinator.address;
        let identity = Identity::load(&settings.identity, clock)?;
        let expected = identity.id_of(Role::Coordinator, &settings.coordinator.name)?;
        let channel =
            dial::channel(address, &expected, &identity, &Http2Settings::control()).await.map_err(|mut failure| {
                if failure.reason == Reason::PeerUnreachable {
                    let advice = "The address is coordinator.address in the configuration, or --coordinator.";
                    failure.hint = format!("{} {advice}", failure.hint).trim().to_owned();
                }
                failure
            })?;
        Ok(Self {
            migrations: MigrationServiceClient::with_interceptor(channel.clone(), trace::interceptor as Interceptor)
                .max_decoding_message_size(FACT_MESSAGE_BYTES),
            agents: AgentServiceClient::with_interceptor(channel, trace::interceptor as Interceptor)
                .max_decoding_message_size(FACT_MESSAGE_BYTES),
            clock,
        })
    }

    /// Every agent that was ever attached, by name.
    pub(crate) async fn agents(&self) -> Result<Vec<Agent>, Failure> {
        let mut agents = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListAgentsRequest { page_size: PAGE_SIZE, page_token };
            let page = self.call(self.agents.clone().list_agents(limited(request, CALL_TIMEOUT))).await?;
            agents.extend(page.agents.into_iter().map(Agent::from));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(agents);
            }
        }
    }

    /// Every migration, newest first.
    pub(crate) async fn migrations(&self) -> Result<Vec<Migration>, Failure> {
        let mut migrations = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListMigrationsRequest { page_size: PAGE_SIZE, page_token };
            let page = self.call(self.migrations.clone().list_migrations(limited(request, CALL_TIMEOUT))).await?;
            migrations.extend(page.migrations.into_iter().map(Migration::from));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(migrations);
            }
        }
    }

    pub(crate) async fn migration(&self, name: &str) -> Result<Migration, Failure> {
        let request = v1::GetMigrationRequest { migration_id: name.to_owned() };
        let answer = self.call(self.migrations.clone().get_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn explain(&self, name: &str) -> Result<Explained, Failure> {
        let request = v1::ExplainMigrationRequest { migration_id: name.to_owned() };
        let answer = self.call(self.migrations.clone().explain_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::explained(answer)
    }

    /// Sends the migration now and after every change.
    pub(crate) async fn watch(&self, name: &str) -> Result<Watch, Failure> {
        let request = v1::WatchMigrationRequest { migration_id: name.to_owned() };
        // No time limit: the stream lasts as long as the migration.
        let stream = self.migrations.clone().watch_migration(Request::new(request)).await;
        Ok(Watch { stream: stream.map_err(status::from_status)?.into_inner() })
    }

    pub(crate) async fn preflight(&self, route: Route) -> Result<Preflight, Failure> {
        let request = limited(v1::RunPreflightRequest { spec: Some(route.into()) }, PREFLIGHT_TIMEOUT);
        let mut call = self.migrations.clone();
        let answer = self.clock.timeout(PREFLIGHT_TIMEOUT, Box::pin(call.run_preflight(request))).await;
        answered(answer, PREFLIGHT_TIMEOUT).map(Preflight::from)
    }

    /// Creates a migration without starting it, or only checks that it could be
    /// created.
    pub(crate) async fn create(&self, name: &str, route: Route, validate_only: bool) -> Result<Migration, Failure> {
        let request = v1::CreateMigrationRequest {
            migration_id: name.to_owned(),
            spec: Some(route.into()),
            request_id: Uuid::now_v7().to_string(),
            validate_only,
        };
        let answer = self.call(self.migrations.clone().create_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    /// What a migration will do. Before it was started both servers may be read for it,
    /// and are read again with `refresh`.
    pub(crate) async fn plan(&self, name: &str, refresh: bool) -> Result<Plan, Failure> {
        let request = v1::GetPlanRequest { migration_id: name.to_owned(), refresh };
        let mut call = self.migrations.clone();
        let asked = Box::pin(call.get_plan(limited(request, PREFLIGHT_TIMEOUT)));
        let answer = answered(self.clock.timeout(PREFLIGHT_TIMEOUT, asked).await, PREFLIGHT_TIMEOUT)?;
        Ok(Plan::from_wire(name, answer))
    }

    /// Starts a migration that was seen at `etag`.
    pub(crate) async fn start(&self, seen: &Migration) -> Result<Migration, Failure> {
        let request = v1::StartMigrationRequest { migration_id: seen.name.clone(), etag: seen.etag.clone() };
        let answer = self.call(self.migrations.clone().start_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn consent(&self, seen: &Migration, findings: &[&Finding]) -> Result<Migration, Failure> {
        let request = v1::GiveConsentRequest {
            migration_id: seen.name.clone(),
            consents: findings.iter().map(|finding| wire::consent(finding)).collect(),
            etag: seen.etag.clone(),
        };
        let answer = self.call(self.migrations.clone().give_consent(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    /// Changes how fast the copy may read. Without an etag: the rate is right whatever
    /// state the migration has reached meanwhile.
    pub(crate) async fn tune(&self, name: &str, max_rate: MaxRate) -> Result<Migration, Failure> {
        let request = v1::TuneMigrationRequest {
            migration_id: name.to_owned(),
            etag: String::new(),
            max_rate_bytes: Some(wire::to_rate(max_rate)),
        };
        let answer = self.call(self.migrations.clone().tune_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn retry(&self, seen: &Migration, step: &str) -> Result<Migration, Failure> {
        let request = v1::ReleaseStepRequest {
            migration_id: seen.name.clone(),
            step_name: step.to_owned(),
            etag: seen.etag.clone(),
        };
        let answer = self.call(self.migrations.clone().release_step(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn verify(&self, seen: &Migration, how: &Verify) -> Result<Migration, Failure> {
        use v1::verify_migration_request::Depth;

        let request = v1::VerifyMigrationRequest {
            migration_id: seen.name.clone(),
            etag: seen.etag.clone(),
            depth: if how.counts { Depth::Counts } else { Depth::Rows }.into(),
            time_limit: how.time_limit.map(span),
            resume: how.resume,
            repair: how.repair,
        };
        let answer = self.call(self.migrations.clone().verify_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn cut_over(
        &self,
        seen: &Migration,
        max_outage: Option<Duration>,
        compare_limit: Option<Duration>,
        keeps_way_back: bool,
    ) -> Result<Migration, Failure> {
        let request = v1::CutOverRequest {
            migration_id: seen.name.clone(),
            etag: seen.etag.clone(),
            max_outage: max_outage.map(span),
            without_way_back: !keeps_way_back,
            compare_limit: compare_limit.map(span),
        };
        let answer = self.call(self.migrations.clone().cut_over(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn roll_back(
        &self,
        seen: &Migration,
        max_outage: Option<Duration>,
        without_poolers: bool,
        compare_limit: Option<Duration>,
    ) -> Result<Migration, Failure> {
        let request = v1::RollBackMigrationRequest {
            migration_id: seen.name.clone(),
            etag: seen.etag.clone(),
            max_outage: max_outage.map(span),
            without_poolers,
            compare_limit: compare_limit.map(span),
        };
        let answer = self.call(self.migrations.clone().roll_back_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn rehearse(
        &self,
        seen: &Migration,
        rollback: bool,
        rounds: Option<u32>,
        max_outage: Option<Duration>,
        compare_limit: Option<Duration>,
    ) -> Result<Migration, Failure> {
        let request = v1::RehearseCutoverRequest {
            migration_id: seen.name.clone(),
            etag: seen.etag.clone(),
            max_outage: max_outage.map(span),
            round_count: rounds.map_or(0, |rounds| i32::try_from(rounds).unwrap_or(i32::MAX)),
            rollback,
            compare_limit: compare_limit.map(span),
        };
        let answer = self.call(self.migrations.clone().rehearse_cutover(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    /// What both agents have signed about a cutover or rollback: the latest, if none is
    /// named.
    pub(crate) async fn certificate(&self, name: &str, switch: Option<i64>) -> Result<Certified, Failure> {
        let request = v1::GetSwitchCertificateRequest {
            migration_id: name.to_owned(),
            cutover_epoch: switch.unwrap_or_default(),
        };
        let answer = self.call(self.migrations.clone().get_switch_certificate(limited(request, CALL_TIMEOUT))).await?;
        wire::certified(answer)
    }

    pub(crate) async fn finish(&self, seen: &Migration) -> Result<Migration, Failure> {
        let request = v1::FinishMigrationRequest { migration_id: seen.name.clone(), etag: seen.etag.clone() };
        let answer = self.call(self.migrations.clone().finish_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    pub(crate) async fn abort(&self, seen: &Migration) -> Result<Migration, Failure> {
        let request = v1::AbortMigrationRequest { migration_id: seen.name.clone(), etag: seen.etag.clone() };
        let answer = self.call(self.migrations.clone().abort_migration(limited(request, CALL_TIMEOUT))).await?;
        wire::migration(answer.migration)
    }

    /// Drives a call. Not an `async fn`, so that the future of tonic, which is
    /// large, is on the heap before a caller waits for it.
    fn call<'a, T: 'a>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>> + 'a,
    ) -> impl Future<Output = Result<T, Failure>> + 'a {
        let (call, clock) = (Box::pin(call), self.clock);
        async move { answered(clock.timeout(CALL_TIMEOUT, call).await, CALL_TIMEOUT) }
    }
}

#[derive(Debug)]
pub(crate) struct Watch {
    stream: Streaming<WatchMigrationResponse>,
}

impl Watch {
    /// The migration after the next change; `None` at the end of the stream.
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Migration>, Failure> {
        match self.stream.message().await.map_err(status::from_status)? {
            Some(change) => wire::migration(change.migration).map(Some),
            None => Ok(None),
        }
    }
}

/// Tells the coordinator how long the answer is waited for.
fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn answered<T>(
    answer: Result<Result<Response<T>, Status>, pgportage_link::clock::Elapsed>,
    limit: Duration,
) -> Result<T, Failure> {
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status::from_status(status)),
        Err(_) => Err(Failure::new(
            Reason::PeerUnreachable,
            format!("the coordinator did not answer within {} seconds", limit.as_secs()),
        )
        .hint("It may have accepted the request. Look with `pgportage status` before trying again.")),
    }
}
