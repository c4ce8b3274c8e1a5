//! *Publisher*: the role that the other side's subscription logs in as, and the canary
//! role whose refused login proves a fence.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use pgportage_report::role::ROLE_SETTINGS;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CreateReplicationRole>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateReplicationRole;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateReplicationRoleResult {
    pub role_name: String,
}

impl Kind for CreateReplicationRole {
    const KIND: ActKind = ActKind::CreateReplicationRole;
    type Outcome = CreateReplicationRoleResult;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::CreateReplicationRole(v1::CreateReplicationRole {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CreateReplicationRole(result) = produced else { return Err(something_else()) };
        Ok(CreateReplicationRoleResult { role_name: result.role_name })
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
}

fn made(basis: &Basis<'_>, name: &str, attributes: &str) -> [Line; 2] {
    [
        runs(format!("CREATE ROLE {name} {attributes} PASSWORD '…'")),
        runs(format!("COMMENT ON ROLE {name} IS 'pgportage migration {}'", basis.id)),
    ]
}
