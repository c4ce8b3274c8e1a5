//! A coordinator that says what the test tells it to, over real mutual TLS, and
//! an agent to say it to.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgportage_agent::daemon::Assembly;
use pgportage_agent::policy::Policy;
use pgportage_agent::runner::Runner;
use pgportage_agent::settings::Settings;
use pgportage_link::Clock;
use pgportage_link::identity::Role;
use pgportage_link::issue::Authority;
use pgportage_link::serve::{self, ServeSettings};
use pgportage_link::settings::IdentitySettings;
use pgportage_link::tls::Identity;
use pgportage_migration::journal::Journal;
use pgportage_proto::v1;
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::command_fact::Fact;
use pgportage_proto::v1::relay_service_server::{RelayService, RelayServiceServer};
use pgportage_proto::v1::session_service_server::{SessionService, SessionServiceServer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// Far longer than anything takes here; a test that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const AGENT: &str = "berlin";

/// Everything one test needs, on this machine.
pub(crate) struct Site {
    _directory: TempDir,
    identity: IdentitySettings,
    pub settings_path: PathBuf,
    pub coordinator: Coordinator,
    /// Stands where the agent's server should be.
    pub server: Silence,
    /// Stands where the other agent should be.
    pub peer: Silence,
}

impl Site {
    /// A coordinator that listens, and an agent's files with this policy.
    pub(crate) async fn new(policy: &str) -> Self {
        Self::with_coordinator_named(policy, "main").await
    }

    pub(crate) async fn with_coordinator_named(policy: &str, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(&directory.path().join("ca"), "example.org", Clock).unwrap();
        let identity = issue(&authority, &directory, Role::Agent, AGENT);
        let own = issue(&authority, &directory, Role::Coordinator, name);
        let coordinator = Coordinator::listen(Identity::load(&own, Clock).unwrap()).await;
        let (server, peer) = (Silence::listen().await, Silence::listen().await);
        let policy_path = directory.path().join("policy.toml");
        std::fs::write(&policy_path, policy.replace("{peer}", &peer.address.to_string())).unwrap();
        std::fs::set_permissions(&policy_path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings_path = directory.path().join("agent.toml");
        let mut settings = String::new();
        write!(
            settings,
            "name = \"{AGENT}\"\nstate_dir = {state:?}\npolicy = {policy_path:?}\n\
             [coordinator]\naddress = \"{coordinator}\"\nname = \"main\"\n\
             [identity]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {ca:?}\n\
             [postgres]\nhost = \"127.0.0.1\"\nport = {port}\n\
             [link]\nlisten = \"127.0.0.1:0\"\n",
            state = directory.path().join("state"),
            coordinator = coordinator.address,
            certificate = identity.certificate,
            key = identity.key,
            ca = identity.authority,
            port = server.address.port(),
        )
        .unwrap();
        std::fs::write(&settings_path, settings).unwrap();
        Self { _directory: directory, identity, settings_path, coordinator, server, peer }
    }

    /// Starts an agent in this process.
    pub(crate) fn start(&self) -> RunningAgent {
        let settings = Settings::load(&self.settings_path).unwrap_or_else(|e| panic!("{e}: {}", e.detail));
        let policy = Policy::load(&settings.policy).unwrap_or_else(|e| panic!("{e}: {}", e.detail));
        let journal = Journal::open(&settings.journal_path()).unwrap();
        let identity = Identity::load(&self.identity, Clock).unwrap();
        let agent = Assembly::new(settings, policy, journal, identity);
        let runner = agent.runner();
        runner.resume().unwrap();
        let (entrance, _relayed) = mpsc::channel(1);
        agent.tasks.spawn(agent.session(Arc::clone(&runner), entrance).run());
        RunningAgent { agent, runner }
    }
}

fn issue(authority: &Authority, directory: &TempDir, role: Role, name: &str) -> IdentitySettings {
    let issued = authority.issue(role, name, DAY).unwrap();
    authority.write(&issued, &directory.path().join(format!("{role}-{name}"))).unwrap()
}

/// An agent of this process.
pub(crate) struct RunningAgent {
    pub agent: Assembly,
    pub runner: Arc<Runner>,
}

impl RunningAgent {
    /// Stops it as SIGTERM does, and frees its journal.
    pub(crate) async fn stop(self) {
        self.agent.tasks.stop.cancel();
        self.agent.tasks.tracker.close();
        Clock.timeout(PATIENCE, self.agent.tasks.tracker.wait()).await.expect("the agent's tasks end");
    }
}

/// A listener that takes connections and never says a word.
pub(crate) struct Silence {
    pub address: SocketAddr,
    count: Arc<AtomicUsize>,
    _task: DropGuard,
}

impl Silence {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, count, stop) =
            (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let counted = Arc::clone(&count);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut kept = Vec::new();
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                kept.push(tcp);
            }
        }));
        Self { address, count, _task: stop.drop_guard() }
    }

    /// How often an agent connected.
    pub(crate) fn connections(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// A coordinator without a mind of its own.
pub(crate) struct Coordinator {
    pub address: SocketAddr,
    lines: mpsc::Receiver<Line>,
    /// Ids of relays that agents have come to accept.
    pub accepted: mpsc::Receiver<String>,
    _server: DropGuard,
}

impl Coordinator {
    async fn listen(identity: Identity) -> Self {
        let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, lines) = mpsc::channel(16);
        let (acceptances, accepted) = mpsc::channel(16);
        let routes = Routes::new(SessionServiceServer::new(Front(sender)))
            .add_service(RelayServiceServer::new(Exchange(acceptances)));
        let stop = CancellationToken::new();
        let serving = serve::serve(listener, identity, ServeSettings::control(), routes, CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { address, lines, accepted, _server: stop.drop_guard() }
    }

    /// The next session, hello heard and welcome not yet said.
    pub(crate) async fn next(&mut self) -> Line {
        let mut line = Clock.timeout(PATIENCE, self.lines.recv()).await.expect("an agent attaches").unwrap();
        match line.next().await {
            Some(Up::Hello(hello)) => line.hello = hello,
            other => panic!("not a hello: {other:?}"),
        }
        line
    }

    /// The next session, welcomed.
    pub(crate) async fn welcome(&mut self, session_epoch: i64) -> Line {
        let mut line = self.next().await;
        line.welcome(session_epoch, &[]).await;
        line
    }
}

struct Front(mpsc::Sender<Line>);

#[tonic::async_trait]
impl SessionService for Front {
    type AttachAgentStream = ReceiverStream<Result<v1::AttachAgentResponse, Status>>;

    async fn attach_agent(
        &self,
        request: Request<Streaming<v1::AttachAgentRequest>>,
    ) -> Result<Response<Self::AttachAgentStream>, Status> {
        let (outgoing, stream) = mpsc::channel(64);
        let line = Line {
            hello: v1::Hello::default(),
            incoming: request.into_inner(),
            outgoing,
            beat: 0,
            leader_epoch: 1,
            gauges: HashMap::new(),
        };
        self.0.send(line).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Notes which agents come to accept a relay, and joins none of them.
struct Exchange(mpsc::Sender<String>);

#[tonic::async_trait]
impl RelayService for Exchange {
    type OpenRelayStream = ReceiverStream<Result<v1::OpenRelayResponse, Status>>;

    async fn open_relay(
        &self,
        _request: Request<Streaming<v1::OpenRelayRequest>>,
    ) -> Result<Response<Self::OpenRelayStream>, Status> {
        Err(Status::unavailable("nobody is there"))
    }

    type AcceptRelayStream = ReceiverStream<Result<v1::AcceptRelayResponse, Status>>;

    async fn accept_relay(
        &self,
        request: Request<Streaming<v1::AcceptRelayRequest>>,
    ) -> Result<Response<Self::AcceptRelayStream>, Status> {
        use v1::accept_relay_request::Message;
        if let Some(v1::AcceptRelayRequest { message: Some(Message::RelayId(id)) }) =
            request.into_inner().message().await?
        {
            self.0.send(id).await.map_err(|_| Status::unavailable("the test is over"))?;
        }
        Err(Status::unavailable("nobody is there"))
    }
}

/// The coordinator's end of one session.
pub(crate) struct Line {
    pub hello: v1::Hello,
    incoming: Streaming<v1::AttachAgentRequest>,
    outgoing: mpsc::Sender<Result<v1::AttachAgentResponse, Status>>,
    /// Newest heartbeat heard.
    pub beat: i64,
    /// Epoch that commands carry.
    pub leader_epoch: i64,
    pub gauges: HashMap<String, v1::MigrationGauge>,
}

impl Line {
    async fn next(&mut self) -> Option<Up> {
        let message = Clock.timeout(PATIENCE, self.incoming.message()).await.expect("the agent says something");
        message.ok().flatten().and_then(|request| request.message)
    }

    pub(crate) async fn say(&self, message: Down) {
        self.outgoing.send(Ok(v1::AttachAgentResponse { message: Some(message) })).await.unwrap();
    }

    pub(crate) async fn welcome(&mut self, session_epoch: i64, abandoned: &[&str]) {
        self.say(Down::Welcome(v1::Welcome {
            revision: 1,
            session_epoch,
            heartbeat_interval: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            abandoned_command_ids: abandoned.iter().map(|&id| id.to_owned()).collect(),
            leader_epoch: self.leader_epoch,
        }))
        .await;
    }

    /// Sends a command as a coordinator would: with the newest beat it heard.
    pub(crate) async fn command(&mut self, mut command: v1::Command) {
        if self.beat == 0 {
            self.heartbeat().await;
        }
        command.heartbeat_sequence = self.beat;
        command.leader_epoch = self.leader_epoch;
        self.say(Down::Command(command)).await;
    }

    pub(crate) async fn ack(&self, fact: &v1::CommandFact) {
        self.say(Down::Ack(v1::FactAck { command_id: fact.command_id.clone(), sequence: fact.sequence })).await;
    }

    /// The next message that is no heartbeat and no progress.
    pub(crate) async fn hear(&mut self) -> Option<Up> {
        loop {
            match self.next().await {
                Some(Up::Heartbeat(beat)) => self.heard(beat),
                Some(Up::Progress(_)) => {}
                other => return other,
            }
        }
    }

    fn heard(&mut self, beat: v1::Heartbeat) {
        assert_eq!(beat.sequence, self.beat + 1, "beats have no gaps");
        self.beat = beat.sequence;
        self.gauges = beat.gauges.into_iter().map(|gauge| (gauge.migration_id.clone(), gauge)).collect();
    }

    /// Waits for a new heartbeat; nothing else may come before it.
    pub(crate) async fn heartbeat(&mut self) {
        match self.next().await {
            Some(Up::Heartbeat(beat)) => self.heard(beat),
            other => panic!("not a heartbeat: {other:?}"),
        }
    }

    /// The next fact, not acknowledged.
    pub(crate) async fn fact(&mut self) -> v1::CommandFact {
        match self.hear().await {
            Some(Up::Fact(fact)) => fact,
            other => panic!("not a fact: {other:?}"),
        }
    }

    /// The next answer to a question.
    pub(crate) async fn answer(&mut self) -> v1::Answer {
        match self.hear().await {
            Some(Up::Answer(answer)) => answer,
            other => panic!("not an answer: {other:?}"),
        }
    }

    /// Acknowledges facts of a command up to its last, and returns that.
    pub(crate) async fn outcome(&mut self, command_id: &str) -> Fact {
        loop {
            let fact = self.fact().await;
            self.ack(&fact).await;
            match fact.fact.unwrap() {
                Fact::Accepted(_) => {}
                outcome if fact.command_id == command_id => return outcome,
                _ => {}
            }
        }
    }

    /// The agent has nothing to say but heartbeats, for two of them.
    pub(crate) async fn quiet(&mut self) {
        self.heartbeat().await;
        self.heartbeat().await;
    }
}

/// A command for a source agent, with everything but the action's own fields.
pub(crate) fn command(action: v1::command::Action) -> v1::Command {
    v1::Command {
        id: Uuid::now_v7().to_string(),
        migration_id: "orders".to_owned(),
        attempt: 1,
        stall_timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        trace_context: HashMap::new(),
        leader_epoch: 1,
        plan_digest: vec![7; 32],
        heartbeat_sequence: 0,
        verb: v1::Verb::Perform.into(),
        side: v1::Side::Source.into(),
        database: "shop".to_owned(),
        peer_agent_id: "oslo".to_owned(),
        step: "connect".to_owned(),
        action: Some(action),
    }
}

/// What an agent would have to say about a failure.
pub(crate) fn failure(outcome: Fact) -> v1::Failure {
    match outcome {
        Fact::Failed(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}
