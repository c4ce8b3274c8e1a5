//! An agent whose every word the test says itself.

use std::net::SocketAddr;
use std::time::Duration;

use pgportage_link::identity::Role;
use pgportage_link::status::from_status;
use pgportage_link::{Clock, Failure};
use pgportage_proto::v1;
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::session_service_client::SessionServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::house::{House, PATIENCE};

pub(crate) struct Scripted {
    up: mpsc::Sender<v1::AttachAgentRequest>,
    down: Streaming<v1::AttachAgentResponse>,
}

pub(crate) fn hello(name: &str) -> v1::Hello {
    v1::Hello {
        agent_id: name.to_owned(),
        instance_id: uuid::Uuid::now_v7().to_string(),
        min_revision: 1,
        max_revision: 1,
        software_version: "0.1.0".to_owned(),
        server_version_num: 180_000,
        ..v1::Hello::default()
    }
}

impl Scripted {
    /// Dials and says `first`.
    pub(crate) async fn dial(house: &House, address: SocketAddr, name: &str, first: Up) -> Result<Self, Failure> {
        let channel = house.channel(address, Role::Agent, name).await;
        let (up, stream) = mpsc::channel(64);
        up.send(v1::AttachAgentRequest { message: Some(first) }).await.unwrap();
        let mut client = SessionServiceClient::new(channel);
        let down = client.attach_agent(ReceiverStream::new(stream)).await.map_err(from_status)?.into_inner();
        Ok(Self { up, down })
    }

    /// Dials, says hello and hears the welcome.
    pub(crate) async fn attach(house: &House, address: SocketAddr, name: &str) -> (Self, v1::Welcome) {
        Self::attach_with(house, address, name, hello(name)).await
    }

    pub(crate) async fn attach_with(
        house: &House,
        address: SocketAddr,
        name: &str,
        hello: v1::Hello,
    ) -> (Self, v1::Welcome) {
        let mut agent = Self::dial(house, address, name, Up::Hello(hello)).await.unwrap();
        match agent.hear().await {
            Ok(Some(Down::Welcome(welcome))) => (agent, welcome),
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn say(&self, message: Up) {
        self.up.send(v1::AttachAgentRequest { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn beat(&self, sequence: i64) {
        self.say(Up::Heartbeat(v1::Heartbeat { sequence, gauges: Vec::new() })).await;
    }

    /// Beats each second from now on, for a test whose own work may take longer than an agent may be silent.
    /// Ends when the agent is dropped.
    pub(crate) fn beat_on(&self) {
        let up = self.up.downgrade();
        tokio::spawn(async move {
            for sequence in 1.. {
                Clock.sleep(Duration::from_secs(1)).await;
                let Some(up) = up.upgrade() else { return };
                let beat = Up::Heartbeat(v1::Heartbeat { sequence, gauges: Vec::new() });
                if up.send(v1::AttachAgentRequest { message: Some(beat) }).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(crate) async fn fact(&self, command_id: &str, sequence: i64, fact: v1::command_fact::Fact) {
        self.say(Up::Fact(v1::CommandFact {
            command_id: command_id.to_owned(),
            sequence,
            record_time: None,
            fact: Some(fact),
        }))
        .await;
    }

    /// The next message that is no tuning; `None` at the end of the stream.
    pub(crate) async fn hear(&mut self) -> Result<Option<Down>, Failure> {
        loop {
            match self.hear_all().await? {
                Some(Down::Tuning(_)) => {}
                other => return Ok(other),
            }
        }
    }

    /// The rate in the next tuning.
    pub(crate) async fn tuned(&mut self) -> i64 {
        loop {
            match self.hear_all().await {
                Ok(Some(Down::Tuning(tuning))) => return tuning.max_rate_bytes,
                Ok(Some(_)) => {}
                other => panic!("no tuning but {other:?}"),
            }
        }
    }

    async fn hear_all(&mut self) -> Result<Option<Down>, Failure> {
        let next = Clock.timeout(PATIENCE, self.down.message()).await.expect("the coordinator said nothing");
        next.map(|message| message.map(|message| message.message.unwrap())).map_err(from_status)
    }

    pub(crate) async fn command(&mut self) -> v1::Command {
        match self.hear().await {
            Ok(Some(Down::Command(command))) => command,
            other => panic!("no command but {other:?}"),
        }
    }

    pub(crate) async fn ack(&mut self) -> (String, i64) {
        match self.hear().await {
            Ok(Some(Down::Ack(ack))) => (ack.command_id, ack.sequence),
            other => panic!("no acknowledgement but {other:?}"),
        }
    }

    /// The failure that ends the stream.
    pub(crate) async fn refusal(&mut self) -> Failure {
        loop {
            match self.hear().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a reason"),
                Err(failure) => return failure,
            }
        }
    }
}

pub(crate) fn accepted() -> v1::command_fact::Fact {
    v1::command_fact::Fact::Accepted(v1::CommandAccepted {})
}

pub(crate) fn failed(failure: Failure) -> v1::command_fact::Fact {
    v1::command_fact::Fact::Failed(failure.into())
}

pub(crate) fn checked() -> v1::command_fact::Fact {
    use v1::command_result::Result as Produced;
    let result = v1::CheckServerResult { inventory: Some(v1::Inventory::default()), findings: Vec::new() };
    v1::command_fact::Fact::Succeeded(v1::CommandResult { result: Some(Produced::CheckServer(result)) })
}
