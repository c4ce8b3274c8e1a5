//! The replication role and the canary role of a migration: their names, whether they are ours, and how the
//! other side logs in as one.
//!
//! Both carry a comment that names the migration. A role of the same name without that comment is not ours
//! and is never touched. The server only ever sees the SCRAM verifier of a password. The password itself
//! goes to the other agent over the link, is made anew each time the other agent asks, and is kept nowhere
//! on this side.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::stream::published_name;
use pgportage_postgres::{Door, Purpose, Secret, hush, quote_ident, quote_literal, scram_verifier, sql_failure};
use pgportage_proto::{MigrationId, Reason};
use tokio_postgres::GenericClient;

use crate::slot::{PremadeRole, Slots};

const ROLE_STATE: &str = "\
SELECT coalesce(shobj_description(r.oid, 'pg_authid'), '') AS comment,
       r.rolcanlogin, r.rolreplication, r.rolsuper, r.rolbypassrls,
       EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a
               WHERE d.datname = current_database() AND a.grantee = r.oid AND a.privilege_type = 'CONNECT')
           AS connects
FROM pg_roles r
WHERE r.rolname = $1";

/// Tables of which the role would see only some rows. The copy would leave the rest out without a warning.
const ROW_SECURITY: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema'))";

/// The roles of this agent's migrations. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Roles {
    door: Door,
    slots: Slots,
    premade: PremadeRoles,
}

/// Roles that the server's owner made beforehand, where the agent's own role may not make any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PremadeRoles {
    /// The role that the subscription logs in as.
    pub replication: Option<PremadeRole>,
    /// The role that proves the fence: its login must be refused.
    pub canary: Option<PremadeRole>,
}

/// What the other side's subscription needs to log in.
#[derive(Clone, Debug)]
pub struct ReplicationAccess {
    /// The role to log in as.
    pub role_name: String,
    /// Made for this answer; this agent keeps no copy.
    pub password: Secret,
    /// The database of this side.
    pub database: String,
    /// The publication to subscribe to.
    pub publication_name: String,
    /// The slot to stream from.
    pub slot_name: String,
}

/// The names of the two roles of a migration, made by the agent or beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleNames {
    /// The role that the subscription logs in as.
    pub replication: String,
    /// The role that proves the fence: its login must be refused.
    pub canary: String,
}

/// A role's comment and attributes, as the server has them.
#[derive(Clone, Debug)]
pub struct RoleState {
    /// The comment that marks a role as ours.
    pub comment: String,
    /// Has LOGIN.
    pub can_login: bool,
    /// Has REPLICATION.
    pub replication: bool,
    /// Is SUPERUSER: needs none of the others.
    pub superuser: bool,
    /// Has BYPASSRLS: sees every row.
    pub bypasses_row_security: bool,
    /// Was granted CONNECT on the database itself.
    pub connects: bool,
}

impl Roles {
    /// `premade`: roles that the server's owner made, where the agent's own role may not make any.
    pub fn new(door: Door, slots: Slots, premade: PremadeRoles) -> Self {
        Self { door, slots, premade }
    }

    /// The replication role made beforehand, if there is one.
    pub fn premade_replication(&self) -> Option<&PremadeRole> {
        self.premade.replication.as_ref()
    }

    /// The canary role made beforehand, if there is one.
    pub fn premade_canary(&self) -> Option<&PremadeRole> {
        self.premade.canary.as_ref()
    }

    /// The names of this side's two roles: those of the policy, or else our own.
    pub fn names(&self, participation: &Participation) -> RoleNames {
        let ours = || format!("{}_canary", published_name(participation));
        RoleNames {
            replication: self.replication(participation),
            canary: self.premade_canary().map_or_else(ours, |role| role.name.clone()),
        }
    }

    /// The role that the other side's subscription logs in as: that of the policy, or else our own.
    pub fn replication(&self, participation: &Participation) -> String {
        self.premade_replication().map_or_else(|| published_name(participation), |role| role.name.clone())
    }

    /// Gives the other agent what its subscription needs to log in. The role's password is made anew, so
    /// that a password given earlier is worthless.
    ///
    /// `system_identifier` is the other cluster's. It is kept because the slots that the other cluster's
    /// table synchronisation makes here carry it in their names.
    ///
    /// # Errors
    ///
    /// [`Reason::ObjectConflict`] when the role is missing or not ours; [`Reason::RequestInvalid`] for an
    /// identifier that is not valid; otherwise what the server reports.
    pub async fn access(
        &self,
        participation: &Participation,
        system_identifier: &str,
    ) -> Result<ReplicationAccess, Failure> {
        if system_identifier.is_empty() || !system_identifier.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::new(Reason::RequestInvalid, "field `system_identifier` is not a system identifier")
                .effect(Effect::None));
        }
        self.slots.set_subscriber(&participation.migration, system_identifier)?;
        let names = self.names(participation);
        let password = match self.premade_replication() {
            Some(role) => Secret::from_file(&role.password_file)?,
            None => self.new_password(participation, &names.replication).await?,
        };
        let name = published_name(participation);
        Ok(ReplicationAccess {
            role_name: names.replication,
            password,
            database: participation.database.clone(),
            publication_name: name.clone(),
            slot_name: name,
        })
    }

    /// A new password for the canary role, for the proof of a fence: that login has to fail for want of
    /// CONNECT, not of a password.
    pub async fn canary_password(&self, participation: &Participation) -> Result<Secret, Failure> {
        match self.premade_canary() {
            Some(role) => Secret::from_file(&role.password_file),
            None => {
                let name = self.names(participation).canary;
                self.new_password(participation, &name).await
            }
        }
    }

    async fn new_password(&self, participation: &Participation, name: &str) -> Result<Secret, Failure> {
        let session = self.door.open(&participation.database, Purpose::Control).await?;
        let state = role_state(&*session, name).await?;
        if state.is_none_or(|state| state.comment != comment(&participation.migration)) {
            return Err(Failure::new(
                Reason::ObjectConflict,
                format!("role {} is not this migration's", quote_ident(name)),
            )
            .hint("The connect step has to be carried out first.")
            .remedy(Remedy::Wait)
            .effect(Effect::None));
        }
        hush(&session).await?;
        let password = Secret::generate();
        let verifier = quote_literal(&scram_verifier(&password));
        session
            .batch_execute(&format!("ALTER ROLE {} PASSWORD {verifier}", quote_ident(name)))
            .await
            .map_err(|error| sql_failure(error, "set the replication role's password"))?;
        Ok(password)
    }
}

impl RoleState {
    /// Whether a subscription can log in as this role and see every row.
    pub fn fits(&self, bypass: bool) -> bool {
        self.can_login && self.replication && self.connects && (self.superuser || self.bypasses_row_security || !bypass)
    }
}

/// A role as it is in the server; none when there is no role of that name.
pub async fn role_state(client: &impl GenericClient, name: &str) -> Result<Option<RoleState>, Failure> {
    let row = client
        .query_opt(ROLE_STATE, &[&name])
        .await
        .map_err(|error| sql_failure(error, "look at the replication role"))?;
    Ok(row.map(|row| RoleState {
        comment: row.get(0),
        can_login: row.get(1),
        replication: row.get(2),
        superuser: row.get(3),
        bypasses_row_security: row.get(4),
        connects: row.get(5),
    }))
}

/// The comment by which a later attempt recognises a role of ours.
pub fn comment(migration: &MigrationId) -> String {
    format!("pgportage migration {migration}")
}

/// A name in the form that `pg_hba.conf` needs: quoted, so that it never reads as a keyword.
pub fn hba_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a replication role has to bypass row-level security.
pub async fn needs_bypass(client: &impl GenericClient) -> Result<bool, Failure> {
    let row =
        client.query_one(ROW_SECURITY, &[]).await.map_err(|error| sql_failure(error, "look for row-level security"))?;
    Ok(row.get(0))
}
