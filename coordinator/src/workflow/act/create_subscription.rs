//! *Destination*: the subscription to the source.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, ConnectionPath, CopyMethod, Side, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Line, Statements, only_if, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<CreateSubscription>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateSubscription {
    /// By which way it reaches the source.
    pub connection_path: ConnectionPath,
    /// Whether the subscription copies.
    pub copy_method: CopyMethod,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateSubscriptionResult {
    pub subscription_name: String,
    pub table_count: i32,
}

impl Kind for CreateSubscription {
    const KIND: ActKind = ActKind::CreateSubscription;
    type Outcome = CreateSubscriptionResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { connection_path: given.spec.connection_path, copy_method: given.spec.copy_method })
    }

    fn send(&self) -> Message {
        Message::CreateSubscription(v1::CreateSubscription {
            connection_path: v1::ConnectionPath::from(self.connection_path).into(),
            copy_method: v1::CopyMethod::from(self.copy_method).into(),
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CreateSubscription(result) = produced else { return Err(something_else()) };
        let v1::CreateSubscriptionResult { subscription_name, table_count } = result;
        Ok(CreateSubscriptionResult { subscription_name, table_count })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let name = basis.stream(Side::Source);
        let mut there = login(basis, Side::Source);
        let way = match basis.spec.connection_path {
            ConnectionPath::Tunnel => "through the link between the agents",
            ConnectionPath::Direct => "straight to the source server",
        };
        let mut here =
            vec![remark(format!("log in to the source {way}, once with the password and once with a wrong one"))];
        match basis.spec.copy_method {
            CopyMethod::Snapshot => {
                here.extend(behind_a_table(format!(
                    "CREATE SUBSCRIPTION {name} CONNECTION '…' PUBLICATION {name} WITH (connect = true, copy_data = false, {})",
                    options(basis, Side::Source)
                )));
            }
            CopyMethod::Native => {
                here.push(runs(format!(
                    "CREATE SUBSCRIPTION {name} CONNECTION 'host=pgportage.invalid …' PUBLICATION {name} \
                     WITH (connect = false, {})",
                    options(basis, Side::Source)
                )));
                here.extend(behind_a_table(format!("ALTER SUBSCRIPTION {name} CONNECTION '…'")));
                there.push(runs(
                    "CREATE_REPLICATION_SLOT \"pg_…_sync_…\" LOGICAL pgoutput … /* one a table, until it is copied */",
                ));
                there.push(runs("DROP_REPLICATION_SLOT …_sync_… WAIT"));
                there.push(only_if(
                    "a table changes while it is copied",
                    "START_REPLICATION SLOT \"pg_…_sync_…\" LOGICAL …",
                ));
                there.push(remark("COPY of every table TO STDOUT, by the subscription"));
            }
        }
        here.extend(basis.ledger(ActKind::CreateSubscription, "perform"));
        here.push(runs(format!("ALTER SUBSCRIPTION {name} ENABLE")));
        if basis.spec.copy_method == CopyMethod::Native {
            here.push(runs(format!("ALTER SUBSCRIPTION {name} REFRESH PUBLICATION")));
        }
        there.push(runs(format!("START_REPLICATION SLOT \"{name}\" LOGICAL …")));
        Statements { there, here }
    }
}

/// What the publisher's agent does for a login of the subscriber.
pub(super) fn login(basis: &Basis<'_>, publisher: Side) -> Vec<Line> {
    let role = basis.replication_role(publisher);
    let name = quote_ident(&role.role_name);
    match role.premade {
        true => vec![remark(format!("hand out the password of role {name} from the agent's file"))],
        false => vec![runs(format!("ALTER ROLE {name} PASSWORD '…'"))],
    }
}

/// A statement whose connection string goes through a table, so that the password
/// stands in no statement.
pub(super) fn behind_a_table(statement: String) -> [Line; 4] {
    [
        runs("CREATE TEMPORARY TABLE pgportage_connection (line text NOT NULL) ON COMMIT DROP"),
        runs("COPY pg_temp.pgportage_connection (line) FROM STDIN WITH (FORMAT csv)"),
        runs("DO '…' /* runs the next, with the connection string of that table */"),
        runs(statement),
    ]
}

/// The options that a subscription is made with, whoever copies.
pub(super) fn options(basis: &Basis<'_>, publisher: Side) -> String {
    let subscriber = basis.version(publisher.other());
    let mut options = vec![
        "enabled = false".to_owned(),
        "create_slot = false".to_owned(),
        format!("slot_name = '{}'", basis.stream(publisher)),
        "synchronous_commit = 'off'".to_owned(),
    ];
    let Some(subscriber) = subscriber else {
        options.push("…".to_owned());
        return options.join(", ");
    };
    if subscriber >= 140_000 {
        options.push("binary = false".to_owned());
        if basis.version(publisher).is_some_and(|version| version >= 140_000) {
            options.push("streaming = on".to_owned());
        }
    }
    if subscriber >= 150_000 {
        options.extend(["two_phase = false", "disable_on_error = false"].map(str::to_owned));
    }
    if subscriber >= 160_000 {
        options.push("origin = 'any'".to_owned());
    }
    options.join(", ")
}
