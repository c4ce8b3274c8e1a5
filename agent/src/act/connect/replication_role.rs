//! The replication role and the canary role of the publisher: the source, and for the way back the
//! destination.
//!
//! Their names, and how a role is recognised as ours, are in [`pgportage_data_plane::role`].
//!
//! Class: convergent, inside one transaction. The rights to read are granted with the slot
//! (`crate::act::CreateSlot`), after the schema was dumped: the dump would carry the grants to a server
//! that has no such role.

use pgportage_data_plane::role::{RoleNames, RoleState, comment, needs_bypass, role_state};
use pgportage_link::Effect;
use pgportage_link::Failure;
use pgportage_migration::journal::Note;
use pgportage_postgres::{Purpose, Secret, Session, hush, quote_ident, quote_literal, scram_verifier, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::role::ROLE_SETTINGS;
use tokio_postgres::Transaction;

use crate::act::patience::Patience;
use crate::act::{Act, Context, Produced, Survey};

/// What the agent's own role may grant: BYPASSRLS needs a superuser; from 16 on it is enough to have it
/// oneself.
const ABLE: &str = "\
SELECT current_setting('server_version_num')::int,
       r.rolsuper OR (current_setting('server_version_num')::int >= 160000 AND r.rolbypassrls)
FROM pg_roles r
WHERE r.rolname = current_user";

/// To drop what a role was granted, the agent's role needs that role's privileges. A superuser has them.
/// Another role that may create roles grants itself the membership, which goes with the role.
const LACKS_MEMBERSHIP: &str = "\
SELECT NOT pg_has_role(current_user, r.oid, 'USAGE') FROM pg_roles r WHERE r.rolname = $1";

/// Makes the role that the subscription logs in as, and the canary role whose refused login proves a fence.
/// Roles that the server's owner made beforehand are checked instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateReplicationRole;

/// The role that was made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateReplicationRoleResult {
    /// The name of the replication role.
    pub role_name: String,
}

impl Act for CreateReplicationRole {
    const KIND: ActKind = ActKind::CreateReplicationRole;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::CreateReplicationRole;
    type Output = CreateReplicationRoleResult;

    fn decode(_message: v1::CreateReplicationRole) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: CreateReplicationRoleResult) -> Produced {
        Produced::CreateReplicationRole(v1::CreateReplicationRoleResult { role_name: output.role_name })
    }

    /// The first act that changes the source, so the last to be taken back there.
    fn is_last(verb: Verb, side: Side) -> bool {
        (verb, side) == (Verb::Undo, Side::Source)
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CreateReplicationRoleResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let names = cx.roles.names(&cx.participation);
        let bypass = needs_bypass(&*session).await?;
        let replication = role_state(&*session, &names.replication).await?;
        let canary = role_state(&*session, &names.canary).await?;
        if let Some(role) = cx.roles.premade_replication() {
            check_premade(&role.name, replication.as_ref(), bypass)?;
        } else {
            check_ours(cx, &names.replication, replication.as_ref())?;
        }
        if cx.roles.premade_canary().is_none() {
            check_ours(cx, &names.canary, canary.as_ref())?;
        } else if canary.is_none() {
            return Err(missing(&names.canary));
        }
        let done = replication.is_some_and(|role| role.fits(bypass)) && canary.is_some_and(|role| role.can_login);
        Ok(if done {
            Survey::Done(CreateReplicationRoleResult { role_name: names.replication })
        } else {
            Survey::Ready
        })
    }

    async fn perform(&self, cx: &Context) -> Result<CreateReplicationRoleResult, Failure> {
        let names = cx.roles.names(&cx.participation);
        let mut patience = Patience::new(cx);
        loop {
            cx.safe_point()?;
            match make_roles(cx, &names).await {
                Ok(()) => break,
                Err(failure) => patience.again(cx, failure, "the source server, to make the replication role").await?,
            }
        }
        cx.fail_point("create_replication_role.perform.made");
        Ok(CreateReplicationRoleResult { role_name: names.replication })
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let mut patience = Patience::new(cx);
        loop {
            cx.safe_point()?;
            match remove_roles(cx).await {
                Ok(()) => break,
                Err(failure) => patience.again(cx, failure, "the source server, to drop the replication role").await?,
            }
        }
        cx.fail_point("create_replication_role.undo.dropped");
        Ok(())
    }
}

/// Refuses a role that has our name and not our comment.
fn check_ours(cx: &Context, name: &str, state: Option<&RoleState>) -> Result<(), Failure> {
    match state {
        Some(state) if state.comment != comment(&cx.participation.migration) => {
            Err(Failure::new(Reason::ObjectConflict, format!("role {} exists and is not ours", quote_ident(name)))
                .detail("It lacks the comment that this migration gives its roles.")
                .hint(format!(
                    "If it is no longer needed, run: DROP ROLE {};. Otherwise choose another migration name.",
                    quote_ident(name)
                ))
                .effect(Effect::None))
        }
        Some(_) | None => Ok(()),
    }
}

fn missing(name: &str) -> Failure {
    Failure::new(Reason::PrivilegeMissing, format!("role {} of the policy does not exist", quote_ident(name)))
        .hint(format!("Make it, or take it out of [roles] in the policy: CREATE ROLE {} LOGIN;", quote_ident(name)))
        .effect(Effect::None)
}

/// Refuses a role made beforehand that lacks what a role of ours would have.
fn check_premade(name: &str, state: Option<&RoleState>, bypass: bool) -> Result<(), Failure> {
    let state = state.ok_or_else(|| missing(name))?;
    let mut wanted = Vec::new();
    if !state.can_login {
        wanted.push("LOGIN");
    }
    if !state.replication && !state.superuser {
        wanted.push("REPLICATION");
    }
    if bypass && !state.bypasses_row_security && !state.superuser {
        wanted.push("BYPASSRLS");
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let statement = format!("ALTER ROLE {} {};", quote_ident(name), wanted.join(" "));
    Err(Failure::new(Reason::PrivilegeMissing, format!("role {} lacks {}", quote_ident(name), wanted.join(", ")))
        .hint(format!("As a superuser, run: {statement}"))
        .effect(Effect::None))
}

async fn make_roles(cx: &Context, names: &RoleNames) -> Result<(), Failure> {
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    // The verifier is no password, but it is of no use in a log.
    hush(&session).await?;
    let able =
        session.query_one(ABLE, &[]).await.map_err(|error| sql_failure(error, "look at the agent's own role"))?;
    let (version, may_give_bypass): (i32, bool) = (able.get(0), able.get(1));
    let bypass = needs_bypass(&*session).await?;
    let roles = &cx.roles;
    if roles.premade_replication().is_none() && bypass && !may_give_bypass {
        return Err(Failure::new(
            Reason::PrivilegeMissing,
            "tables have row-level security and the agent cannot make a role that bypasses it",
        )
        .detail("Without BYPASSRLS the initial copy would leave rows out.")
        .hint(
            "Give the agent's role BYPASSRLS (16 and later), or make the replication role beforehand with BYPASSRLS \
             and name it under [roles] in the policy.",
        )
        .effect(Effect::None));
    }
    let transaction = session.transaction().await.map_err(|error| sql_failure(error, "begin a transaction"))?;
    if roles.premade_replication().is_none() {
        let attributes = format!("LOGIN REPLICATION NOSUPERUSER {}", if bypass { "BYPASSRLS" } else { "" });
        make_role(cx, &transaction, &names.replication, &attributes).await?;
        for (since, setting, value) in ROLE_SETTINGS.iter().filter(|(since, _, _)| *since <= version) {
            let statement = format!("ALTER ROLE {} SET {setting} = '{value}'", quote_ident(&names.replication));
            run(&transaction, &statement).await.map_err(|failure| failure.with("since", since))?;
        }
    }
    if roles.premade_canary().is_none() {
        make_role(cx, &transaction, &names.canary, "LOGIN NOSUPERUSER").await?;
    }
    if role_state(&transaction, &names.replication).await?.is_some_and(|state| !state.connects) {
        let database = quote_ident(&cx.participation.database);
        run(&transaction, &format!("GRANT CONNECT ON DATABASE {database} TO {}", quote_ident(&names.replication)))
            .await?;
        if roles.premade_replication().is_some() {
            remember_connect_grant(cx)?;
        }
    }
    transaction.commit().await.map_err(|error| sql_failure(error, "make the replication role"))
}

/// Makes one role of ours, or corrects it. Part of the caller's transaction.
async fn make_role(cx: &Context, transaction: &Transaction<'_>, name: &str, attributes: &str) -> Result<(), Failure> {
    let state = role_state(transaction, name).await?;
    check_ours(cx, name, state.as_ref())?;
    let role = quote_ident(name);
    let verb = if state.is_some() { "ALTER" } else { "CREATE" };
    let password = quote_literal(&scram_verifier(&Secret::generate()));
    run(transaction, &format!("{verb} ROLE {role} {attributes} PASSWORD {password}")).await.map_err(|failure| {
        if failure.reason == Reason::PrivilegeMissing {
            failure.hint(
                "Give the agent's role CREATEROLE and REPLICATION (16 and later; before, only a superuser can make \
                 such a role), or make the roles beforehand and name them under [roles] in the policy.",
            )
        } else {
            failure
        }
    })?;
    let text = quote_literal(&comment(&cx.participation.migration));
    run(transaction, &format!("COMMENT ON ROLE {role} IS {text}")).await
}

async fn run(transaction: &Transaction<'_>, statement: &str) -> Result<(), Failure> {
    transaction.batch_execute(statement).await.map_err(|error| sql_failure(error, "make the replication role"))
}

/// Durable before the grant is committed. An operator would notice a revoke too many, but not a grant left
/// behind.
fn remember_connect_grant(cx: &Context) -> Result<(), Failure> {
    cx.journal.set_note(&cx.participation.migration, Note::ConnectGranted, "yes")
}

/// Revokes what our roles were granted, and drops them. Leaves roles made
/// beforehand as they were.
pub(crate) async fn remove_roles(cx: &Context) -> Result<(), Failure> {
    let participation = &cx.participation;
    let names = cx.roles.names(participation);
    let roles = &cx.roles;
    let mut session = cx.door.open(&participation.database, Purpose::Control).await?;
    if roles.premade_replication().is_none() {
        remove_role(cx, &mut session, &names.replication).await?;
    } else if cx.journal.note(&participation.migration, Note::ConnectGranted)?.is_some() {
        let (database, role) = (quote_ident(&participation.database), quote_ident(&names.replication));
        session
            .batch_execute(&format!("REVOKE CONNECT ON DATABASE {database} FROM {role}"))
            .await
            .map_err(|error| sql_failure(error, "revoke CONNECT from the replication role"))?;
        cx.journal.clear_note(&participation.migration, Note::ConnectGranted)?;
    }
    cx.fail_point("create_replication_role.undo.one_dropped");
    if roles.premade_canary().is_none() {
        remove_role(cx, &mut session, &names.canary).await?;
    }
    Ok(())
}

async fn remove_role(cx: &Context, session: &mut Session, name: &str) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "drop the replication role");
    let Some(state) = role_state(&**session, name).await? else { return Ok(()) };
    if state.comment != comment(&cx.participation.migration) {
        return Ok(());
    }
    let role = quote_ident(name);
    let transaction = session.transaction().await.map_err(failure)?;
    let lacks: bool = transaction.query_one(LACKS_MEMBERSHIP, &[&name]).await.map_err(failure)?.get(0);
    if lacks {
        transaction.batch_execute(&format!("GRANT {role} TO CURRENT_USER")).await.map_err(failure)?;
    }
    // The role owns nothing: this revokes what it was granted here and on the database.
    transaction.batch_execute(&format!("DROP OWNED BY {role}")).await.map_err(failure)?;
    transaction.batch_execute(&format!("DROP ROLE {role}")).await.map_err(failure)?;
    transaction.commit().await.map_err(failure)
}
