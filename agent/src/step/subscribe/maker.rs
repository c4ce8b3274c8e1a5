//! Who makes and drops slots.

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use crate::agent::Agent;
use crate::migration::Participation;
use crate::policy::PremadeRole;
use crate::postgres::{Purpose, Secret, Session, quote_ident, sql_failure};

const MAY_USE_SLOTS: &str = "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user";

/// Who makes and drops slots.
#[derive(Clone, Debug)]
pub(crate) enum SlotMaker {
    /// The agent's own role.
    OwnRole,
    /// The replication role of the policy.
    Premade(PremadeRole),
}

/// The agent's own role if it has REPLICATION, otherwise the replication role of
/// the policy.
///
/// # Errors
///
/// [`Reason::PrivilegeMissing`] when neither may; otherwise as
/// [`crate::postgres::Door::open`].
pub(crate) async fn slot_maker(agent: &Agent, participation: &Participation) -> Result<SlotMaker, Failure> {
    let session = agent.door.open(&participation.database, Purpose::Control).await?;
    let may: bool = session
        .query_one(MAY_USE_SLOTS, &[])
        .await
        .map_err(|error| sql_failure(error, "look at the agent's own role"))?
        .get(0);
    match &agent.policy.roles().replication {
        _ if may => Ok(SlotMaker::OwnRole),
        Some(role) => Ok(SlotMaker::Premade(role.clone())),
        None => Err(Failure::new(Reason::PrivilegeMissing, "the agent's role lacks REPLICATION")
            .hint(format!(
                "As a superuser, run: ALTER ROLE {} REPLICATION; or name a role that has it under [roles] in the policy.",
                quote_ident(agent.door.user())
            ))
            .effect(Effect::None)),
    }
}

/// A session of the [`slot_maker`].
///
/// # Errors
///
/// As [`slot_maker`].
pub(crate) async fn slot_session(
    agent: &Agent,
    participation: &Participation,
    purpose: Purpose,
) -> Result<Session, Failure> {
    match slot_maker(agent, participation).await? {
        SlotMaker::OwnRole => agent.door.open(&participation.database, purpose).await,
        SlotMaker::Premade(role) => {
            let address = &agent.settings.postgres.replication_address;
            let password = Secret::from_file(&role.password_file)?;
            agent.door.open_as(address, &participation.database, &role.name, &password, purpose).await
        }
    }
}
