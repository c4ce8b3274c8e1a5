//! The coordinator's end of a session with an agent.
//!
//! The stream is a carrier: what gets lost on it is said again after the next
//! hello. The loop never waits for anything but the migration's inbox.

use std::time::Duration;

use pgportage_link::identity::PeerIdentity;
use pgportage_link::status::to_status;
use pgportage_link::{Clock, Failure, fail_point};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::session_service_server::SessionService;
use pgportage_proto::{Reason, v1};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{caller, origin};
use crate::engine::Engine;
use crate::fleet::OUTBOX;
use crate::message::refusal;
use crate::metrics::Figures;
use crate::settings::SessionSettings;
use crate::store::{AgentRecord, Store};
use crate::wire;
use crate::workflow::fact::CommandId;

/// The protocol revisions this release speaks, oldest and newest.
const REVISIONS: (i32, i32) = (1, 1);

/// How long an agent may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// How far an agent's memory of epochs may be ahead of ours: a store was lost.
/// Beyond it, the number is not believed.
const EPOCH_LEAP: i64 = 1_000_000;

/// The service for agents. Attaches them until `stop`; sessions are drained then.
#[derive(Clone, Debug)]
pub(crate) struct SessionFront {
    pub engine: Engine,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub session: SessionSettings,
    pub figures: Figures,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

/// A session after its hello.
struct Session {
    agent: String,
    epoch: i64,
    peer: PeerIdentity,
    over: CancellationToken,
}

/// Why a session ended.
enum End {
    /// The agent said goodbye.
    Left,
    /// The stream ended or broke.
    Broken,
    /// Nothing was heard for too long.
    Silent,
    /// A later session has begun, or the agent does not read.
    Over,
    /// The coordinator stops.
    Drained,
    /// The agent said something it must not say.
    Refused(Failure),
}

impl SessionFront {
    async fn run(self, peer: PeerIdentity, mut inbound: Streaming<v1::AttachAgentRequest>, out: Outward) {
        let hello = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            hello = self.hello(&mut inbound) => hello,
        };
        let (outbox, pending) = mpsc::channel(OUTBOX);
        let begun = match hello {
            Ok(hello) => self.begin(peer, hello, outbox).await,
            Err(failure) => Err(failure),
        };
        let (session, first) = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                tracing::warn!(reason = %failure.reason, detail = failure.detail, "no session: {failure}");
                out.end(Some(failure));
                return;
            }
        };
        let span = tracing::info_span!("session", agent.id = session.agent, session.epoch = session.epoch);
        self.converse(session, first, inbound, pending, out).instrument(span).await;
    }

    async fn hello(&self, inbound: &mut Streaming<v1::AttachAgentRequest>) -> Result<v1::Hello, Failure> {
        let refuse = |message: &str| Err(refusal(Reason::RequestInvalid, message));
        match self.clock.timeout(HELLO_LIMIT, inbound.message()).await {
            Err(_) => refuse("the agent did not say hello in time"),
            Ok(Err(_) | Ok(None)) => refuse("the agent left without a hello"),
            Ok(Ok(Some(v1::AttachAgentRequest { message: Some(Up::Hello(hello)) }))) => Ok(hello),
            Ok(Ok(Some(_))) => refuse("the first message of a session is hello"),
        }
    }

    /// Checks a hello, begins the session and prepares what is said first.
    async fn begin(
        &self,
        peer: PeerIdentity,
        hello: v1::Hello,
        outbox: mpsc::Sender<Down>,
    ) -> Result<(Session, Vec<Down>), Failure> {
        if hello.agent_id != peer.name {
            return Err(refusal(
                Reason::WrongName,
                format!("agent {:?} came with the certificate of {:?}", hello.agent_id, peer.name),
            )
            .hint("Set the agent's name to the one in its certificate.")
            .with("agent", &hello.agent_id));
        }
        let revision = hello.max_revision.min(REVISIONS.1);
        if revision < hello.min_revision.max(REVISIONS.0) {
            return Err(refusal(Reason::ProtocolTooOld, "agent and coordinator have no protocol revision in common")
                .detail(format!(
                    "The agent speaks {} to {}, the coordinator {} to {}.",
                    hello.min_revision, hello.max_revision, REVISIONS.0, REVISIONS.1
                ))
                .hint("Install the same release on both machines.")
                .with("ours", format!("{}-{}", REVISIONS.0, REVISIONS.1))
                .with("theirs", format!("{}-{}", hello.min_revision, hello.max_revision)));
        }
        self.lead_above(hello.leader_epoch).await?;
        let now = self.clock.wall();
        let mut record = AgentRecord {
            name: peer.name.clone(),
            session_epoch: 0,
            software_version: hello.software_version.chars().take(64).collect(),
            revision,
            server_version_num: hello.server_version_num,
            policy_digest: hello.policy_digest,
            attach_time: now,
            contact_time: now,
            left: false,
        };
        let epoch = self.store.begin_session(record.clone()).await?;
        record.session_epoch = epoch;
        let open: Vec<_> = hello.open_commands.into_iter().map(|open| (open.command_id, open.last_sequence)).collect();
        let (stored, abandoned_command_ids) = self.engine.reconcile(&peer.name, &open);
        fail_point::hit("coordinator.session.before_attach");
        let over = self.engine.fleet().attach(record, outbox)?;
        let welcome = Down::Welcome(v1::Welcome {
            revision,
            session_epoch: epoch,
            heartbeat_interval: prost_types::Duration::try_from(self.session.heartbeat_interval).ok(),
            abandoned_command_ids,
            leader_epoch: self.store.leader_epoch(),
        });
        let acks = stored
            .into_iter()
            .map(|(command, sequence)| Down::Ack(v1::FactAck { command_id: command.to_string(), sequence }));
        let first = std::iter::once(welcome).chain(acks).collect();
        tracing::info!(
            agent.id = peer.name,
            session.epoch = epoch,
            instance = hello.instance_id,
            version = hello.software_version,
            open_commands = open.len(),
            "attached"
        );
        Ok((Session { agent: peer.name.clone(), epoch, peer, over }, first))
    }

    /// An agent may remember a higher epoch than ours when our store was lost:
    /// the next one is above it, so that it listens to us again.
    async fn lead_above(&self, seen: i64) -> Result<(), Failure> {
        let ours = self.store.leader_epoch();
        if seen <= ours {
            return Ok(());
        }
        if seen > ours.saturating_add(EPOCH_LEAP) {
            return Err(refusal(Reason::StaleEpoch, "the agent has seen an epoch far above this coordinator's")
                .detail(format!("The agent has seen {seen}, and this coordinator has {ours}."))
                .hint("Is this the right coordinator, with the right state directory?"));
        }
        tracing::error!(
            seen,
            ours,
            "an agent has heard from a coordinator with a higher epoch: was the store lost, or is there another coordinator?"
        );
        self.store.lead_above(seen).await?;
        Ok(())
    }

    async fn converse(
        &self,
        session: Session,
        first: Vec<Down>,
        mut inbound: Streaming<v1::AttachAgentRequest>,
        mut pending: mpsc::Receiver<Down>,
        out: Outward,
    ) {
        self.figures.attached(&session.agent, true);
        self.engine.refresh(&session.agent);
        // A stream of its own outward: a reader that stops reading must not keep
        // us from hearing.
        let writer = {
            let (out, over) = (out.clone(), session.over.clone());
            async move {
                for message in first {
                    if !out.submit(message).await {
                        return;
                    }
                }
                fail_point::hit("coordinator.session.welcomed");
                while let Some(Some(message)) = over.run_until_cancelled(pending.recv()).await {
                    if !out.submit(message).await {
                        return;
                    }
                }
            }
        };
        let ended = CancellationToken::new();
        let writer = self.tasks.spawn(ended.clone().run_until_cancelled_owned(writer));
        let end = self.listen(&session, &mut inbound).await;
        let (left, failure) = match end {
            End::Left => (true, None),
            End::Broken => (false, None),
            End::Silent => (false, Some(refusal(Reason::StaleSession, "the agent was silent for too long"))),
            End::Over => (
                false,
                Some(
                    refusal(Reason::StaleSession, "this session is over")
                        .detail("A later session of this agent has begun, or it did not read what was said."),
                ),
            ),
            End::Drained => (false, None),
            End::Refused(failure) => (false, Some(failure)),
        };
        match &failure {
            None => tracing::info!(left, "the session has ended"),
            Some(failure) => tracing::warn!(reason = %failure.reason, "the session was ended: {failure}"),
        }
        self.engine.fleet().detach(&session.agent, session.epoch, left);
        if !self.engine.fleet().attached(&session.agent) {
            self.figures.attached(&session.agent, false);
            self.engine.refresh(&session.agent);
        }
        ended.cancel();
        // Its messages have been sent, or are of no use any more.
        drop(writer.await);
        out.end(failure);
        let contact = self.engine.fleet().contact_time(&session.agent).unwrap_or_else(|| self.clock.wall());
        if let Err(error) = self.store.end_session(session.agent.clone(), session.epoch, contact, left).await {
            tracing::warn!(%error, "the end of a session could not be noted");
        }
    }

    async fn listen(&self, session: &Session, inbound: &mut Streaming<v1::AttachAgentRequest>) -> End {
        loop {
            let deadline = self.clock.now() + self.session.heartbeat_timeout;
            let message = tokio::select! {
                biased;
                () = session.over.cancelled() => return End::Over,
                () = self.stop.cancelled() => {
                    let delay = prost_types::Duration::try_from(self.session.reconnect_delay).ok();
                    self.engine.fleet().tell(&session.agent, Down::Drain(v1::Drain { reconnect_delay: delay }));
                    return self.drain(session, inbound).await;
                }
                message = inbound.message() => message,
                () = self.clock.sleep_until(deadline) => return End::Silent,
            };
            match message {
                Ok(Some(request)) => {
                    if let Some(end) = self.take(session, request).await {
                        return end;
                    }
                }
                Ok(None) | Err(_) => return End::Broken,
            }
        }
    }

    /// Hears the agent out after a drain, for as long as it should need.
    async fn drain(&self, session: &Session, inbound: &mut Streaming<v1::AttachAgentRequest>) -> End {
        let rest = async {
            while let Ok(Some(request)) = inbound.message().await {
                if self.take(session, request).await.is_some() {
                    return;
                }
            }
        };
        // Whoever takes longer comes back later anyway.
        let _in_time = self.clock.timeout(Duration::from_secs(2), rest).await;
        End::Drained
    }

    async fn take(&self, session: &Session, request: v1::AttachAgentRequest) -> Option<End> {
        let agent = &session.agent;
        let invalid = |message: &str| Some(End::Refused(refusal(Reason::RequestInvalid, message)));
        match request.message {
            Some(Up::Heartbeat(beat)) => {
                let now = self.clock.wall();
                for gauge in beat.gauges {
                    let migration = gauge.migration_id.clone();
                    self.engine.measured(agent, &migration, wire::gauge(gauge, now));
                }
                if self.engine.fleet().beat(agent, session.epoch, beat.sequence) {
                    fail_point::hit("coordinator.session.first_beat");
                    self.engine.attached(agent).await;
                }
                None
            }
            Some(Up::Fact(fact)) => {
                let command_id = fact.command_id.clone();
                match wire::fact(fact) {
                    Ok(fact) => {
                        let cause = origin(&session.peer, Some(fact.command.to_string()));
                        self.engine.hear(agent, cause, fact).await;
                        None
                    }
                    Err(failure) => {
                        tracing::warn!(command.id = command_id, "an unreadable fact: {failure}");
                        Some(End::Refused(failure))
                    }
                }
            }
            Some(Up::Progress(progress)) => {
                if let Ok(command) = Uuid::parse_str(&progress.command_id) {
                    self.engine.progressed(agent, CommandId(command), progress.into());
                }
                None
            }
            Some(Up::Answer(answer)) => match wire::answer(answer) {
                Ok((question, said)) => {
                    self.engine.answered(agent, question, said);
                    None
                }
                Err(failure) => Some(End::Refused(failure)),
            },
            Some(Up::Goodbye(goodbye)) => {
                tracing::info!(message = goodbye.message, "goodbye");
                Some(End::Left)
            }
            Some(Up::Hello(_)) => invalid("hello is the first message of a session, and only the first"),
            // A newer agent says something that this release does not know, and
            // that it was therefore not promised to understand.
            None => None,
        }
    }
}

/// The stream to the agent.
#[derive(Clone, Debug)]
struct Outward(mpsc::Sender<Result<v1::AttachAgentResponse, Status>>);

impl Outward {
    async fn submit(&self, message: Down) -> bool {
        self.0.send(Ok(v1::AttachAgentResponse { message: Some(message) })).await.is_ok()
    }

    /// Ends the stream, with a reason if there is one.
    fn end(self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            // The agent may have gone already, or may not read.
            drop(self.0.try_send(Err(to_status(failure))));
        }
    }
}

#[tonic::async_trait]
impl SessionService for SessionFront {
    type AttachAgentStream = ReceiverStream<Result<v1::AttachAgentResponse, Status>>;

    async fn attach_agent(
        &self,
        request: Request<Streaming<v1::AttachAgentRequest>>,
    ) -> Result<Response<Self::AttachAgentStream>, Status> {
        let peer = caller(&request)?;
        // HTTP/2's own windows hold the rest back.
        let (sender, receiver) = mpsc::channel(16);
        self.tasks.spawn(self.clone().run(peer, request.into_inner(), Outward(sender)));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
