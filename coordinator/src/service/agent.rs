//! What operators ask about agents.

use std::sync::Arc;

use pgportage_link::status::to_status;
use pgportage_proto::v1::agent_service_server::AgentService;
use pgportage_proto::{Reason, v1};
use tonic::{Request, Response, Status};

use super::page;
use crate::fleet::{Attachment, Fleet, Known};
use crate::message::refusal;

/// The service for operators about agents.
#[derive(Debug)]
pub(crate) struct AgentFront {
    pub fleet: Arc<Fleet>,
}

#[tonic::async_trait]
impl AgentService for AgentFront {
    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::GetAgentResponse>, Status> {
        let name = request.into_inner().agent_id;
        let known = self.fleet.get(&name).ok_or_else(|| {
            to_status(
                refusal(Reason::AgentUnknown, format!("no agent {name} was ever attached"))
                    .hint("List them with `pgportage agents`.")
                    .with("agent", &name),
            )
        })?;
        Ok(Response::new(v1::GetAgentResponse { agent: Some(agent(known)) }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let v1::ListAgentsRequest { page_size, page_token } = request.into_inner();
        let (known, next_page_token) =
            page(self.fleet.list(), page_size, &page_token, |known| known.record.name.clone()).map_err(to_status)?;
        Ok(Response::new(v1::ListAgentsResponse { agents: known.into_iter().map(agent).collect(), next_page_token }))
    }
}

fn agent(known: Known) -> v1::Agent {
    let Known { record, attachment } = known;
    v1::Agent {
        id: record.name,
        state: match attachment {
            Attachment::Attached => v1::agent::State::Attached,
            Attachment::Detached => v1::agent::State::Detached,
            Attachment::Lost => v1::agent::State::Lost,
        }
        .into(),
        software_version: record.software_version,
        revision: record.revision,
        session_epoch: record.session_epoch,
        attach_time: Some(record.attach_time.into()),
        contact_time: Some(record.contact_time.into()),
        server_version_num: record.server_version_num,
    }
}
