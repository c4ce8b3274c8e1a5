//! *Publisher*: the role that the other side's subscription logs in as, and the canary
//! role whose refused login proves a fence.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use pgportage_report::role::ROLE_SETTINGS;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, remark, runs};
use super::kind::{Act, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::CreateReplicationRole,
    input: |_| Some(Input::of(CreateReplicationRole)),
    send: |input| {
        input.read::<CreateReplicationRole>().map(|_| Message::CreateReplicationRole(v1::CreateReplicationRole {}))
    },
    produces: |outcome| outcome.read::<CreateReplicationRoleResult>().is_some(),
    receive,
    statements,
};

/// It is given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateReplicationRole;

/// The roles are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateReplicationRoleResult {
    /// The replication role.
    pub role_name: String,
}

impl Payload for CreateReplicationRole {
    const KIND: ActKind = ActKind::CreateReplicationRole;
}

impl Payload for CreateReplicationRoleResult {
    const KIND: ActKind = ActKind::CreateReplicationRole;
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CreateReplicationRole(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(CreateReplicationRoleResult { role_name: result.role_name }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let side = basis.side;
    let (replication, canary) = (basis.replication_role(side), basis.canary_role(side));
    let name = quote_ident(&replication.role_name);
    let mut lines = Vec::new();
    if replication.premade {
        lines.push(remark(format!("role {name} was made beforehand, and replicates")));
    } else {
        let bypass = if basis.material(side).is_some_and(|it| it.bypass_row_security) { " BYPASSRLS" } else { "" };
        lines.extend(made(basis, &name, &format!("LOGIN REPLICATION NOSUPERUSER{bypass}")));
        let known = ROLE_SETTINGS.iter().filter(|(since, ..)| basis.version(side).is_none_or(|it| *since <= it));
        lines.extend(known.map(|(_, setting, value)| runs(format!("ALTER ROLE {name} SET {setting} = '{value}'"))));
    }
    let canary_name = quote_ident(&canary.role_name);
    if canary.premade {
        lines.push(remark(format!("role {canary_name} was made beforehand; its refused login proves a fence")));
    } else {
        lines.extend(made(basis, &canary_name, "LOGIN NOSUPERUSER"));
    }
    // Closing the destination has taken what it held there.
    if !replication.connects || side == Side::Destination {
        lines.push(runs(format!("GRANT CONNECT ON DATABASE {} TO {name}", basis.database())));
    }
    lines.into()
}

fn made(basis: &Basis<'_>, name: &str, attributes: &str) -> [Line; 2] {
    [
        runs(format!("CREATE ROLE {name} {attributes} PASSWORD '…'")),
        runs(format!("COMMENT ON ROLE {name} IS 'pgportage migration {}'", basis.id)),
    ]
}
