//! *Entered side*: the decision. Never taken back.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, runs};
use super::drain_to_marker::SET_SEQUENCES;
use super::fence_source::FenceSource;
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use super::sequence::SequenceState;

pub(crate) static ACT: Act = Act::of::<OpenDestination>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenDestination {
    pub cutover_epoch: i64,
    /// Where the sequences stand behind the fence.
    pub sequences: Vec<SequenceState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenDestinationResult {
    /// Position of this side after it.
    pub open_lsn: String,
}

impl Kind for OpenDestination {
    const KIND: ActKind = ActKind::OpenDestination;
    type Outcome = OpenDestinationResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        let cutover_epoch = given.cutover_epoch?;
        let sequences = given.fence?.read::<FenceSource>()?.sequences.clone();
        Some(Self { cutover_epoch, sequences })
    }

    fn send(&self) -> Message {
        Message::OpenDestination(v1::OpenDestination {
            cutover_epoch: self.cutover_epoch,
            sequences: self.sequences.iter().map(v1::SequenceState::from).collect(),
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::OpenDestination(result) = produced else { return Err(something_else()) };
        Ok(OpenDestinationResult { open_lsn: result.open_lsn })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let side = basis.side;
        let agent = basis.agent_role(side);
        let replication = basis.replication_role(side);
        let publishes = basis.reverse || replication.premade || side == Side::Source;
        let replication = quote_ident(&replication.role_name);
        // On the source the replication role was there before the fence, and is let in with
        // the others.
        let mut ours = vec![agent.clone()];
        if side == Side::Destination && basis.reverse {
            ours.push(replication.clone());
        }
        let superuser = basis.material(side).is_some_and(|material| material.agent_is_superuser);
        let mut kept = Vec::new();
        if !superuser {
            kept.push(agent);
        }
        if publishes {
            kept.push(replication);
        }
        let mut lines = basis.let_in(&ours, &kept);
        let database = basis.database();
        let before = basis.material(side).map(|material| material.read_only_default.as_str()).unwrap_or_default();
        let writable = match before {
            "" => format!("ALTER DATABASE {database} RESET default_transaction_read_only"),
            value => format!("ALTER DATABASE {database} SET default_transaction_read_only = '{value}'"),
        };
        match side {
            Side::Source => lines.push(runs(writable)),
            Side::Destination if basis.reverse => lines.push(only_if("a rollback has fenced it since", writable)),
            Side::Destination => {}
        }
        lines.push(runs(format!("ALTER SUBSCRIPTION {} DISABLE", basis.stream(side.other()))));
        lines.push(runs("DELETE FROM pgportage.fence"));
        lines.push(runs("UPDATE pgportage.decision SET state = 'opened', opened_epoch = '…', …"));
        lines.push(only_if("a sequence has moved since the marker", SET_SEQUENCES));
        lines.extend(basis.ledger(ActKind::OpenDestination, "perform"));
        lines.into()
    }
}
