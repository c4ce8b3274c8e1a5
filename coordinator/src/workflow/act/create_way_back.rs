//! *Source*: the subscription to the destination, proved by a heartbeat and left
//! disabled until the cutover.

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, remark, runs};
use super::super::{ActKind, Side};
use super::create_subscription::{behind_a_table, login, options};
use super::{Act, Input, Message, Outcome, Produced, something_else};

/// See the module.
pub static CREATE_WAY_BACK: Act = Act {
    kind: ActKind::CreateWayBack,
    input: |_, _, _| Some(Input::CreateWayBack),
    send: |input| matches!(input, Input::CreateWayBack).then_some(Message::CreateWayBack(v1::CreateWayBack {})),
    produces: |outcome| matches!(outcome, Outcome::CreateWayBack(_)),
    receive,
    statements,
};

/// The subscription is there, and disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateWayBackResult {
    /// Its name.
    pub subscription_name: String,
    /// Its tables.
    pub table_count: i32,
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CreateWayBack(result) = produced else { return Err(something_else()) };
    let v1::CreateWayBackResult { subscription_name, table_count } = result;
    Ok(Outcome::CreateWayBack(CreateWayBackResult { subscription_name, table_count }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let publisher = Side::Destination;
    let name = basis.stream(publisher);
    let made = |publication: &str| {
        behind_a_table(format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '…' PUBLICATION {publication} \
             WITH (connect = true, copy_data = false, {})",
            options(basis, publisher)
        ))
    };
    let mut there = login(basis, publisher);
    there.push(runs(format!("START_REPLICATION SLOT \"{name}\" LOGICAL …")));
    let mut here = vec![remark("log in to the destination through the link between the agents")];
    here.extend(made(&basis.id.proof_publication()));
    here.push(runs(format!("ALTER SUBSCRIPTION {name} ENABLE")));
    here.push(remark("wait for a heartbeat of the destination, then drop it and make it anew for every table"));
    here.extend(dropped(&name));
    here.extend(made(&name));
    here.extend(basis.ledger(ActKind::CreateWayBack, "perform"));
    Statements { there, here }
}

/// An enabled subscription, dropped without its slot.
pub(super) fn dropped(name: &str) -> [Line; 3] {
    [
        runs(format!("ALTER SUBSCRIPTION {name} DISABLE")),
        runs(format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")),
        runs(format!("DROP SUBSCRIPTION {name}")),
    ]
}
