//! A coordinator that plays a script, over real mutual TLS.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Failure, status};
use pgportage_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use pgportage_proto::v1::migration_service_server::{MigrationService, MigrationServiceServer};
use pgportage_proto::{Reason, v1};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// No test waits longer for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What the scripted coordinator knows and has heard.
#[derive(Clone)]
pub(crate) struct Script(Arc<Inner>);

struct Inner {
    now: watch::Sender<v1::Migration>,
    /// The states that the next verb leads through, one for each change.
    next: Mutex<VecDeque<v1::Migration>>,
    /// Whether a verb has set the script going.
    begun: AtomicBool,
    /// Whether the request for a cutover or rollback is answered.
    level: watch::Sender<bool>,
    /// What verbs answer instead, once.
    refusal: Mutex<Option<Failure>>,
    heard: watch::Sender<Vec<String>>,
    traced: Mutex<Vec<String>>,
    /// What both agents have signed.
    certified: Mutex<v1::GetSwitchCertificateResponse>,
    /// Ended watches end without an error and have to be asked for again.
    ends: Mutex<CancellationToken>,
}

impl Script {
    /// A coordinator with one migration, which the next verb leads through
    /// `next`.
    pub(crate) fn new(now: v1::Migration, next: impl IntoIterator<Item = v1::Migration>) -> Self {
        Self(Arc::new(Inner {
            now: watch::Sender::new(now),
            next: Mutex::new(next.into_iter().collect()),
            begun: AtomicBool::default(),
            level: watch::Sender::new(true),
            refusal: Mutex::default(),
            heard: watch::Sender::default(),
            traced: Mutex::default(),
            certified: Mutex::default(),
            ends: Mutex::default(),
        }))
    }

    /// Makes the next verb fail.
    pub(crate) fn refuse(&self, failure: Failure) {
        *self.0.refusal.lock().unwrap() = Some(failure);
    }

    /// Whether the request for a cutover or rollback is answered, as it is once the lag is
    /// small.
    pub(crate) fn answers_switches(&self, level: bool) {
        self.0.level.send_replace(level);
    }

    /// What is handed out from now on.
    pub(crate) fn certifies(&self, certified: v1::GetSwitchCertificateResponse) {
        *self.0.certified.lock().unwrap() = certified;
    }

    /// The calls so far, with what matters of their requests.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.0.heard.borrow().clone()
    }

    /// The trace contexts that came with calls.
    pub(crate) fn traced(&self) -> Vec<String> {
        self.0.traced.lock().unwrap().clone()
    }

    /// Waits until a call was heard that begins like this.
    pub(crate) async fn until_heard(&self, call: &str) {
        let mut heard = self.0.heard.subscribe();
        let seen = heard.wait_for(|calls| calls.iter().any(|heard| heard.starts_with(call)));
        let outcome = Clock.timeout(LIMIT, seen).await;
        assert!(outcome.is_ok(), "{call} was not heard");
    }

    /// Changes the migration.
    pub(crate) fn becomes(&self, migration: v1::Migration) {
        self.0.now.send_replace(migration);
    }

    /// Ends every open watch.
    pub(crate) fn end_watches(&self) {
        std::mem::take(&mut *self.0.ends.lock().unwrap()).cancel();
    }

    fn hear<T>(&self, request: &Request<T>, call: impl Into<String>) -> Result<(), Status> {
        if let Some(context) = request.metadata().get("traceparent") {
            self.0.traced.lock().unwrap().push(context.to_str().unwrap().to_owned());
        }
        self.0.heard.send_modify(|heard| heard.push(call.into()));
        Ok(())
    }

    /// A verb: refuses, or answers with the first change; each further one comes
    /// when a watcher has been sent the one before.
    fn act<T>(&self, request: &Request<T>, call: impl Into<String>) -> Result<Option<v1::Migration>, Status> {
        self.hear(request, call)?;
        if let Some(failure) = self.0.refusal.lock().unwrap().take() {
            return Err(status::to_status(failure));
        }
        let first = self.advance().unwrap_or_else(|| self.0.now.borrow().clone());
        self.0.begun.store(true, Ordering::SeqCst);
        Ok(Some(first))
    }

    /// The migration changes, if the script says so.
    fn advance(&self) -> Option<v1::Migration> {
        let next = self.0.next.lock().unwrap().pop_front()?;
        self.0.now.send_replace(next.clone());
        Some(next)
    }

    /// A change was sent to a watcher: now comes the next one.
    fn sent(&self) {
        if self.0.begun.load(Ordering::SeqCst) {
            self.advance();
        }
    }

    fn find(&self, name: &str) -> Result<v1::Migration, Status> {
        let now = self.0.now.borrow().clone();
        if now.id == name {
            return Ok(now);
        }
        let failure = Failure::new(Reason::MigrationMissing, format!("there is no migration named {name}"))
            .hint("`pgportage status` lists the migrations.")
            .effect(pgportage_link::Effect::None);
        Err(status::to_status(failure))
    }
}

#[tonic::async_trait]
impl MigrationService for Script {
    async fn create_migration(
        &self,
        request: Request<v1::CreateMigrationRequest>,
    ) -> Result<Response<v1::CreateMigrationResponse>, Status> {
        let message = request.get_ref();
        let spec = message.spec.clone().unwrap();
        let call = format!(
            "create {} {}>{} {} {:?} {:?} validate_only={}",
            message.migration_id,
            spec.source_agent_id,
            spec.destination_agent_id,
            spec.database,
            spec.connection_path(),
            spec.copy_method(),
            message.validate_only
        );
        let migration = self.act(&request, call)?;
        Ok(Response::new(v1::CreateMigrationResponse { migration }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        self.hear(&request, "get")?;
        let migration = Some(self.find(&request.get_ref().migration_id)?);
        Ok(Response::new(v1::GetMigrationResponse { migration }))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        // Two pages, to see that both are asked for.
        let first = request.get_ref().page_token.is_empty();
        let mut migration = self.0.now.borrow().clone();
        if !first {
            migration.id = "second".to_owned();
        }
        let next_page_token = if first { "more".to_owned() } else { String::new() };
        Ok(Response::new(v1::ListMigrationsResponse { migrations: vec![migration], next_page_token }))
    }

    type WatchMigrationStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<v1::WatchMigrationResponse, Status>> + Send + 'static>>;

    async fn watch_migration(
        &self,
        request: Request<v1::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        self.find(&request.get_ref().migration_id)?;
        self.hear(&request, "watch")?;
        let end = self.0.ends.lock().unwrap().clone();
        let script = self.clone();
        let changes = WatchStream::new(self.0.now.subscribe()).map(move |migration| {
            script.sent();
            Ok(v1::WatchMigrationResponse { migration: Some(migration) })
        });
        let stream = futures_util::StreamExt::take_until(changes, end.cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn start_migration(
        &self,
        request: Request<v1::StartMigrationRequest>,
    ) -> Result<Response<v1::StartMigrationResponse>, Status> {
        let migration = self.act(&request, format!("start etag={}", request.get_ref().etag))?;
        Ok(Response::new(v1::StartMigrationResponse { migration }))
    }

    async fn release_step(
        &self,
        request: Request<v1::ReleaseStepRequest>,
    ) -> Result<Response<v1::ReleaseStepResponse>, Status> {
        let message = request.get_ref();
        let migration = self.act(&request, format!("release {} etag={}", message.step_name, message.etag))?;
        Ok(Response::new(v1::ReleaseStepResponse { migration }))
    }

    async fn tune_migration(
        &self,
        request: Request<v1::TuneMigrationRequest>,
    ) -> Result<Response<v1::TuneMigrationResponse>, Status> {
        let rate = request.get_ref().max_rate_bytes;
        let migration = self.act(&request, format!("tune max_rate_bytes={rate:?}"))?;
        let migration =
            migration.map(|migration| v1::Migration { max_rate_bytes: rate.unwrap_or_default(), ..migration });
        Ok(Response::new(v1::TuneMigrationResponse { migration }))
    }

    async fn give_consent(
        &self,
        request: Request<v1::GiveConsentRequest>,
    ) -> Result<Response<v1::GiveConsentResponse>, Status> {
        let consents: Vec<_> = request
            .get_ref()
            .consents
            .iter()
            .map(|consent| format!("{}:{}:{:?}", consent.code, consent.object, consent.evidence_digest.to_vec()))
            .collect();
        let migration = self.act(&request, format!("consent {}", consents.join(" ")))?;
        Ok(Response::new(v1::GiveConsentResponse { migration }))
    }

    async fn run_preflight(
        &self,
        request: Request<v1::RunPreflightRequest>,
    ) -> Result<Response<v1::RunPreflightResponse>, Status> {
        self.hear(&request, "preflight")?;
        let now = self.0.now.borrow().clone();
        Ok(Response::new(v1::RunPreflightResponse {
            source_findings: now.source_findings,
            destination_findings: now.destination_findings,
        }))
    }

    async fn get_plan(&self, request: Request<v1::GetPlanRequest>) -> Result<Response<v1::GetPlanResponse>, Status> {
        self.find(&request.get_ref().migration_id)?;
        Ok(Response::new(crate::support::plan()))
    }

    async fn explain_migration(
        &self,
        request: Request<v1::ExplainMigrationRequest>,
    ) -> Result<Response<v1::ExplainMigrationResponse>, Status> {
        self.find(&request.get_ref().migration_id)?;
        Ok(Response::new(crate::support::explained()))
    }

    async fn get_switch_certificate(
        &self,
        request: Request<v1::GetSwitchCertificateRequest>,
    ) -> Result<Response<v1::GetSwitchCertificateResponse>, Status> {
        self.find(&request.get_ref().migration_id)?;
        self.hear(&request, format!("certificate {}", request.get_ref().cutover_epoch))?;
        Ok(Response::new(self.0.certified.lock().unwrap().clone()))
    }

    async fn cut_over(&self, request: Request<v1::CutOverRequest>) -> Result<Response<v1::CutOverResponse>, Status> {
        let message = request.get_ref();
        let limit = message.max_outage.as_ref().map_or("none".to_owned(), ToString::to_string);
        let without = if message.without_way_back { " without_way_back" } else { "" };
        let compare = compared(message.compare_limit);
        self.0.level.subscribe().wait_for(|level| *level).await.unwrap();
        let migration =
            self.act(&request, format!("cutover etag={} max_outage={limit}{without}{compare}", message.etag))?;
        Ok(Response::new(v1::CutOverResponse { migration }))
    }

    async fn roll_back_migration(
        &self,
        request: Request<v1::RollBackMigrationRequest>,
    ) -> Result<Response<v1::RollBackMigrationResponse>, Status> {
        let message = request.get_ref();
        let limit = message.max_outage.as_ref().map_or("none".to_owned(), ToString::to_string);
        let without = if message.without_poolers { " without_poolers" } else { "" };
        let said = format!("rollback etag={} max_outage={limit}{without}", message.etag);
        let migration = self.act(&request, said + &compared(message.compare_limit))?;
        Ok(Response::new(v1::RollBackMigrationResponse { migration }))
    }

    async fn rehearse_cutover(
        &self,
        request: Request<v1::RehearseCutoverRequest>,
    ) -> Result<Response<v1::RehearseCutoverResponse>, Status> {
        let message = request.get_ref();
        let limit = message.max_outage.as_ref().map_or("none".to_owned(), ToString::to_string);
        let (etag, rounds, rollback) = (&message.etag, message.round_count, message.rollback);
        let said = format!("rehearse etag={etag} max_outage={limit} rounds={rounds} rollback={rollback}");
        let migration = self.act(&request, said + &compared(message.compare_limit))?;
        Ok(Response::new(v1::RehearseCutoverResponse { migration }))
    }

    async fn verify_migration(
        &self,
        request: Request<v1::VerifyMigrationRequest>,
    ) -> Result<Response<v1::VerifyMigrationResponse>, Status> {
        use v1::verify_migration_request::Depth;

        let message = request.get_ref();
        let depth = if message.depth() == Depth::Rows { "rows" } else { "counts" };
        let limit = message.time_limit.as_ref().map_or("none".to_owned(), ToString::to_string);
        let said = format!("verify {depth} time_limit={limit} resume={} repair={}", message.resume, message.repair);
        let migration = self.act(&request, said)?;
        Ok(Response::new(v1::VerifyMigrationResponse { migration }))
    }

    async fn finish_migration(
        &self,
        request: Request<v1::FinishMigrationRequest>,
    ) -> Result<Response<v1::FinishMigrationResponse>, Status> {
        let migration = self.act(&request, format!("finish etag={}", request.get_ref().etag))?;
        Ok(Response::new(v1::FinishMigrationResponse { migration }))
    }

    async fn abort_migration(
        &self,
        request: Request<v1::AbortMigrationRequest>,
    ) -> Result<Response<v1::AbortMigrationResponse>, Status> {
        let migration = self.act(&request, "abort")?;
        Ok(Response::new(v1::AbortMigrationResponse { migration }))
    }
}

#[tonic::async_trait]
impl AgentService for Script {
    async fn get_agent(&self, _: Request<v1::GetAgentRequest>) -> Result<Response<v1::GetAgentResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        self.hear(&request, "agents")?;
        Ok(Response::new(v1::ListAgentsResponse { agents: crate::support::agents(), next_page_token: String::new() }))
    }
}

/// A scripted coordinator, and an operator who may call it.
pub(crate) struct Stage {
    pub(crate) script: Script,
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    coordinator: Identity,
    server: JoinHandle<Result<(), Failure>>,
    stop: CancellationToken,
}

impl Stage {
    pub(crate) async fn set(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certs = directory.path().join("certs");
        let authority = Authority::create(&certs, "test.example", Clock).unwrap();
        let issue = |role, name| {
            let issued = authority.issue(role, name, Duration::from_secs(3600)).unwrap();
            authority.write(&issued, &certs).unwrap()
        };
        let coordinator = Identity::load(&issue(Role::Coordinator, "main"), Clock).unwrap();
        let IdentitySettings { certificate, key, authority } = issue(Role::Operator, "alice");
        issue(Role::Agent, "alpha");
        let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!(
            "[coordinator]\naddress = \"{address}\"\npatience = \"1s\"\n\
             [identity]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {authority:?}\n"
        );
        std::fs::write(directory.path().join("pgportage.toml"), text).unwrap();
        let stop = CancellationToken::new();
        let server = spawn(listener, &coordinator, &script, &stop);
        Self { script, directory, address, coordinator, server, stop }
    }

    /// The coordinator goes away, closing every connection.
    pub(crate) async fn goes_away(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    /// The coordinator comes back at the same address.
    pub(crate) async fn comes_back(&mut self) {
        let listener = serve::bind(self.address).await.unwrap();
        self.server = spawn(listener, &self.coordinator, &self.script, &self.stop);
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.directory.path().join("certs")
    }

    /// The program, as this operator would start it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(self.directory.path(), arguments);
        command.arg("--config").arg(self.directory.path().join("pgportage.toml"));
        command
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        Ran::end(self.command(arguments).spawn().unwrap()).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn spawn(
    listener: tokio::net::TcpListener,
    identity: &Identity,
    script: &Script,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), Failure>> {
    let routes = Routes::new(MigrationServiceServer::new(script.clone()))
        .add_service(AgentServiceServer::new(script.clone()))
        .prepare();
    tokio::spawn(serve::serve(listener, identity.clone(), ServeSettings::control(), routes, stop.clone()))
}

/// The program, with an environment of its own and without a terminal.
pub(crate) fn program(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgportage"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What the program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) async fn end(child: Child) -> Self {
        let output: Output = Clock.timeout(LIMIT, child.wait_with_output()).await.expect("the program hangs").unwrap();
        Self {
            code: output.status.code().expect("the program was killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The lines of standard output, each parsed.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text), "{text:?} is not on standard output: {self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn notes(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not on standard error: {self:#?}");
        self
    }
}

/// Nothing where nothing is compared.
fn compared(limit: Option<prost_types::Duration>) -> String {
    limit.map_or_else(String::new, |limit| format!(" compare={limit}"))
}
