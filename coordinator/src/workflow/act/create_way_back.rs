//! *Source*: the subscription to the destination, proved by a heartbeat and left
//! disabled until the cutover.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, remark, runs};
use super::create_subscription::{behind_a_table, login, options};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CreateWayBack>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateWayBack;

/// The subscription is there, and disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateWayBackResult {
    pub subscription_name: String,
    pub table_count: i32,
}

impl Kind for CreateWayBack {
    const KIND: ActKind = ActKind::CreateWayBack;
    type Outcome = CreateWayBackResult;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::CreateWayBack(v1::CreateWayBack {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CreateWayBack(result) = produced else { return Err(something_else()) };
        let v1::CreateWayBackResult { subscription_name, table_count } = result;
        Ok(CreateWayBackResult { subscription_name, table_count })
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
}

/// An enabled subscription, dropped without its slot.
pub(super) fn dropped(name: &str) -> [Line; 3] {
    [
        runs(format!("ALTER SUBSCRIPTION {name} DISABLE")),
        runs(format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")),
        runs(format!("DROP SUBSCRIPTION {name}")),
    ]
}
