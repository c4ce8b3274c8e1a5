//! The canary: a role of ours without CONNECT. Its refused login proves the fence as a client would meet
//! it.

use pgportage_data_plane::role::{self, Roles};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_postgres::{Door, Purpose, Secret, Session};
use pgportage_proto::Reason;

/// The SQLSTATE of a login without CONNECT.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The canary, with a password made for this cutover.
#[derive(Debug)]
pub(crate) struct Canary {
    door: Door,
    address: String,
    database: String,
    role: String,
    password: Secret,
}

impl Canary {
    /// Makes the password, and proves that a login gets as far as the check for CONNECT: otherwise a
    /// refusal would prove nothing.
    pub(crate) async fn wake(
        door: &Door,
        roles: &Roles,
        address: &str,
        participation: &Participation,
    ) -> Result<Self, Failure> {
        let canary = Self {
            door: door.clone(),
            address: address.to_owned(),
            database: participation.database.clone(),
            role: roles.names(participation).canary,
            password: roles.canary_password(participation).await?,
        };
        match canary.log_in().await {
            Ok(_) => Ok(canary),
            Err(failure) if failure.sqlstate.as_deref() == Some(INSUFFICIENT_PRIVILEGE) => Ok(canary),
            Err(failure) => Err(Failure::new(Reason::LoginRefused, "the canary role cannot log in to the source")
                .detail(format!("Its refusal has to prove the fence, so it has to get further than: {failure}."))
                .hint(format!(
                    "Let role {} in with a password from this machine, with a line in pg_hba.conf like: \
                     host {} {} 127.0.0.1/32 scram-sha-256",
                    canary.role,
                    role::hba_name(&canary.database),
                    role::hba_name(&canary.role)
                ))
                .because(&failure)
                .remedy(Remedy::Operator)
                .effect(Effect::None)),
        }
    }

    /// Proves that the server refuses the login for want of CONNECT.
    pub(crate) async fn prove_refused(&self) -> Result<(), Failure> {
        let incomplete = |detail: String| {
            Failure::new(Reason::FenceIncomplete, "the fence is not proved by a refused login")
                .detail(detail)
                .hint("The cutover is taken back by itself. Look at the source's server log.")
                .remedy(Remedy::Operator)
                .effect(Effect::Unknown)
        };
        match self.log_in().await {
            Ok(_) => Err(incomplete(format!("Role {} could log in.", self.role))),
            Err(failure) if failure.sqlstate.as_deref() == Some(INSUFFICIENT_PRIVILEGE) => Ok(()),
            Err(failure) => {
                Err(incomplete(format!("The login failed for another reason: {failure}.")).because(&failure))
            }
        }
    }

    async fn log_in(&self) -> Result<Session, Failure> {
        self.door.open_as(&self.address, &self.database, &self.role, &self.password, Purpose::Control).await
    }
}
