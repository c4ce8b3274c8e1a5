//! The agent's end of the session with the coordinator.
//!
//! The agent dials, says hello, and holds one stream for as long as it lives. Reconnecting is the one way
//! to recover from anything, and every start goes through it. Correctness never depends on the stream:
//! facts are sent from the journal until the coordinator has acknowledged them; of progress only the latest
//! report counts.
//!
//! **Invariant:** the session never waits for an act, and a coordinator that does not read cannot make it
//! wait either.

mod answer;
mod backoff;
mod outbox;
mod questions;

use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::figures::Standing;
use pgportage_data_plane::snapshot::Rate;
use pgportage_link::dial::{self, Way};
use pgportage_link::http2::{COMMAND_MESSAGE_BYTES, Http2Settings};
use pgportage_link::identity::Role;
use pgportage_link::relay::Relay;
use pgportage_link::serve::Relayed;
use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::session_service_client::SessionServiceClient;
use pgportage_proto::{MigrationId, Reason, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::Instrument;
use uuid::Uuid;

use crate::act::Handles;
use crate::runner::{Runner, Sender, Taken};
use crate::wire;
use answer::Answer;
use backoff::Backoff;
use outbox::Outbox;
use questions::Questions;

/// The only protocol revision so far.
const REVISION: i32 = 1;

/// How long the coordinator may take to answer the call, and then to say
/// welcome.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long to listen for the last acknowledgements after this agent has closed its side.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Messages on their way out. When the channel is full, heartbeats and progress are dropped, and facts stay
/// in the journal: the bound costs freshness and nothing else.
const OUTGOING: usize = 64;

/// How often progress is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// A session counts as stable after this time. Until then the pauses between dials keep growing, so that a
/// line which flaps is not dialled ever faster.
const STABLE: Duration = Duration::from_secs(10);

/// Keeps the agent attached to the coordinator until the agent stops.
#[derive(Debug)]
pub struct Session {
    handles: Handles,
    standing: Standing,
    runner: Arc<Runner>,
    answer: Answer,
    /// New at every start: by this the coordinator tells a restart from a reconnect.
    instance_id: Uuid,
}

enum End {
    /// The agent is stopping.
    Stopped,
    /// The coordinator asked the agent to come back later.
    Drained(Duration),
    /// The coordinator closed the stream.
    Closed,
}

impl Session {
    /// Dials no coordinator yet. Agents that come through the coordinator are led to `entrance`.
    pub fn new(
        handles: Handles,
        standing: Standing,
        relay: Relay,
        runner: Arc<Runner>,
        entrance: mpsc::Sender<Relayed>,
    ) -> Self {
        let answer =
            Answer::new(handles.identity.clone(), handles.journal.clone(), relay, handles.tasks.clone(), entrance);
        Self { handles, standing, runner, answer, instance_id: Uuid::now_v7() }
    }

    /// Dials, again and again, until the agent stops; then says goodbye.
    pub async fn run(self) {
        let clock = self.handles.tasks.clock;
        let mut backoff = Backoff::default();
        while !self.handles.tasks.stop.is_cancelled() {
            let began = clock.now();
            let end = self.attach().await;
            if clock.now().duration_since(began) >= STABLE {
                backoff = Backoff::default();
            }
            let pause = match end {
                Ok(End::Stopped) => break,
                Ok(End::Drained(delay)) => {
                    tracing::info!(?delay, "the coordinator drains");
                    backoff.next().max(delay)
                }
                Ok(End::Closed) => {
                    tracing::info!("the coordinator closed the session");
                    backoff.next()
                }
                Err(failure) => {
                    tracing::warn!(
                        reason = %failure.reason,
                        detail = failure.detail,
                        hint = failure.hint,
                        causes = ?failure.causes,
                        attempt = backoff.attempt(),
                        "no session: {failure}"
                    );
                    backoff.next()
                }
            };
            tokio::select! {
                biased;
                () = self.handles.tasks.stop.cancelled() => break,
                () = clock.sleep(pause) => {}
            }
        }
    }

    async fn attach(&self) -> Result<End, Failure> {
        let coordinator = &self.handles.settings.coordinator;
        let expected = self.handles.identity.id_of(Role::Coordinator, &coordinator.name)?;
        let (outgoing, outgoing_stream) = mpsc::channel(OUTGOING);
        let mut outbox = Outbox::new(self.handles.clone(), outgoing);
        let opening = async {
            let way = Way::Direct(coordinator.address.clone());
            let (channel, peer) =
                dial::channel_and_peer(way, &expected, &self.handles.identity, &Http2Settings::control()).await?;
            let mut client = SessionServiceClient::new(channel)
                .max_decoding_message_size(COMMAND_MESSAGE_BYTES)
                .max_encoding_message_size(pgportage_link::http2::FACT_MESSAGE_BYTES);
            outbox.hello(self.hello()?);
            let limited = async {
                let mut incoming =
                    client.attach_agent(ReceiverStream::new(outgoing_stream)).await.map_err(from_status)?.into_inner();
                let welcome = welcome(&mut incoming).await?;
                Ok::<_, Failure>((incoming, welcome, peer))
            };
            self.handles.tasks.clock.timeout(ANSWER_LIMIT, limited).await.unwrap_or_else(|_| {
                Err(Failure::new(Reason::PeerUnreachable, "the coordinator does not say welcome").effect(Effect::None))
            })
        };
        let (incoming, welcome, peer) = tokio::select! {
            biased;
            () = self.handles.tasks.stop.cancelled() => return Ok(End::Stopped),
            opened = opening => opened?,
        };
        self.begin(&welcome)?;
        let span = tracing::info_span!("session", session.epoch = welcome.session_epoch);
        let limits = self.handles.policy.limits();
        let interval = welcome
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok())
            .unwrap_or(limits.command_age);
        // Twice as often as the coordinator asked, and often enough that the age of a fresh command never
        // exceeds the limit.
        let interval = (interval / 2).min(limits.command_age / 3).max(Duration::from_millis(50));
        let sender = Sender { actor: peer.uri, serial: peer.serial, heartbeat_age: None };
        self.standing.set_attached(true);
        let end = self.converse(incoming, outbox, interval, sender).instrument(span).await;
        self.standing.set_attached(false);
        end
    }

    fn hello(&self) -> Result<v1::Hello, Failure> {
        let journal = &self.handles.journal;
        let open_commands = journal.unacknowledged()?;
        Ok(v1::Hello {
            agent_id: self.handles.settings.name.clone(),
            instance_id: self.instance_id.to_string(),
            min_revision: REVISION,
            max_revision: REVISION,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            open_commands: open_commands
                .into_iter()
                .map(|(command_id, last_sequence)| v1::OpenCommand { command_id, last_sequence })
                .collect(),
            leader_epoch: journal.leader_epoch()?,
            policy_digest: self.handles.policy.digest().to_vec(),
            server_version_num: self.standing.server_version(),
        })
    }

    /// Checks the welcome, and begins the session under its epochs.
    fn begin(&self, welcome: &v1::Welcome) -> Result<(), Failure> {
        if welcome.revision != REVISION {
            return Err(Failure::new(
                Reason::ProtocolTooOld,
                format!("the coordinator speaks revision {}, this agent {REVISION}", welcome.revision),
            )
            .hint("Install the same release on both machines.")
            .effect(Effect::None));
        }
        self.handles.journal.begin_session(welcome.leader_epoch, welcome.session_epoch)?;
        if !welcome.abandoned_command_ids.is_empty() {
            tracing::info!(commands = ?welcome.abandoned_command_ids, "abandoned by the coordinator");
            self.runner.abandon(&welcome.abandoned_command_ids)?;
        }
        tracing::info!(session.epoch = welcome.session_epoch, leader.epoch = welcome.leader_epoch, "attached");
        Ok(())
    }

    async fn converse(
        &self,
        mut incoming: Streaming<v1::AttachAgentResponse>,
        mut outbox: Outbox,
        interval: Duration,
        mut sender: Sender,
    ) -> Result<End, Failure> {
        let clock = self.handles.tasks.clock;
        let mut news = self.runner.news();
        let mut beat_at = clock.now();
        let mut look_at = clock.now() + PROGRESS_INTERVAL;
        let mut questions = Questions::new(self.handles.clone());
        outbox.facts()?;
        let end = loop {
            tokio::select! {
                biased;
                () = self.handles.tasks.stop.cancelled() => break End::Stopped,
                () = clock.sleep_until(beat_at) => {
                    beat_at = clock.now() + interval;
                    outbox.heartbeat()?;
                    outbox.facts()?;
                }
                message = incoming.message() => match message.map_err(from_status)? {
                    None => break End::Closed,
                    Some(v1::AttachAgentResponse { message }) => match message {
                        Some(Down::Command(command)) => self.take(command, &mut outbox, &mut sender)?,
                        Some(Down::Cancel(cancel)) => self.runner.cancel(&cancel.command_id),
                        Some(Down::Question(question)) => questions.take(question),
                        Some(Down::Tuning(tuning)) => self.tune(&tuning)?,
                        Some(Down::Ack(ack)) => self.handles.journal.acknowledge(&ack.command_id, ack.sequence)?,
                        Some(Down::Drain(drain)) => {
                            let delay = drain.reconnect_delay.and_then(|delay| Duration::try_from(delay).ok());
                            break End::Drained(delay.unwrap_or_default());
                        }
                        Some(Down::RelayOffer(offer)) => self.answer.offered(offer)?,
                        Some(Down::Welcome(_)) => {
                            return Err(Failure::new(Reason::RequestInvalid, "the coordinator said welcome twice"));
                        }
                        // A message of a newer coordinator that this release does not know, and so does not
                        // need.
                        None => {}
                    },
                },
                _ = news.changed() => outbox.facts()?,
                answer = questions.next() => outbox.answer(answer),
                () = clock.sleep_until(look_at) => {
                    look_at = clock.now() + PROGRESS_INTERVAL;
                    outbox.progress(self.runner.progress());
                }
            }
        };
        match end {
            End::Stopped => outbox.goodbye("the agent stops"),
            End::Drained(_) => outbox.goodbye("the coordinator drains"),
            End::Closed => {}
        }
        drop(outbox);
        // The last acknowledgements, as long as the limit allows.
        let farewell = async {
            while let Ok(Some(v1::AttachAgentResponse { message })) = incoming.message().await {
                if let Some(Down::Ack(ack)) = message {
                    self.handles.journal.acknowledge(&ack.command_id, ack.sequence)?;
                }
            }
            Ok::<_, Failure>(())
        };
        clock.timeout(FAREWELL_LIMIT, farewell).await.unwrap_or(Ok(()))?;
        Ok(end)
    }

    /// Applies the coordinator's new settings for a migration.
    fn tune(&self, tuning: &v1::Tuning) -> Result<(), Failure> {
        match MigrationId::new(&tuning.migration_id) {
            Ok(migration) => self.handles.snapshots.tune(&migration, Rate::limit(tuning.max_rate_bytes)),
            Err(failure) => {
                tracing::error!("the coordinator speaks of a migration that cannot be: {failure}");
                Ok(())
            }
        }
    }

    fn take(&self, command: v1::Command, outbox: &mut Outbox, sender: &mut Sender) -> Result<(), Failure> {
        sender.heartbeat_age = outbox.age_of(command.heartbeat_sequence);
        let received = match wire::receive(command) {
            Ok(received) => received,
            Err(failure) => {
                tracing::error!(actor = sender.actor, "refused, and there is nothing to answer to: {failure}");
                return Ok(());
            }
        };
        let id = received.id.clone();
        match self.runner.take(received, sender)? {
            Taken::Started | Taken::Refused => {}
            Taken::Repeated => outbox.repeat(&id),
            Taken::Conflict(failure) => outbox.conflict(id, failure),
        }
        Ok(())
    }
}

/// Reads the coordinator's first message, which must be its welcome.
async fn welcome(incoming: &mut Streaming<v1::AttachAgentResponse>) -> Result<v1::Welcome, Failure> {
    match incoming.message().await.map_err(from_status)?.and_then(|response| response.message) {
        Some(Down::Welcome(welcome)) => Ok(welcome),
        Some(
            Down::Command(_)
            | Down::Cancel(_)
            | Down::Ack(_)
            | Down::RelayOffer(_)
            | Down::Question(_)
            | Down::Tuning(_),
        ) => Err(Failure::new(Reason::RequestInvalid, "the coordinator did not begin with its welcome")),
        Some(Down::Drain(_)) => Err(Failure::new(Reason::PeerUnreachable, "the coordinator drains")),
        None => Err(Failure::new(Reason::PeerUnreachable, "the coordinator closed the session at once")),
    }
}

fn request(message: Up) -> v1::AttachAgentRequest {
    v1::AttachAgentRequest { message: Some(message) }
}
