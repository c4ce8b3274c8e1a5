//! *Both sides of a switch*: what was seen of it, stated and signed.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};
use crate::message::missing;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::CertifySwitch,
    input,
    send,
    produces: |outcome| outcome.read::<SignedStatement>().is_some(),
    receive,
    statements,
};

/// Which switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifySwitch {
    /// Its number.
    pub cutover_epoch: i64,
    /// Whether it is a rollback.
    pub rollback: bool,
}

/// What one agent states about a switch, as it was signed. Kept and handed out;
/// nothing here reads it, and nobody has to believe that nothing here changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// The statement.
    pub statement: String,
    /// Number of the signature scheme.
    pub scheme: u32,
    /// The signature.
    pub signature: Digest,
    /// The signer's certificate, then those up to the authority.
    pub chain: Vec<Digest>,
}

impl Payload for CertifySwitch {
    const KIND: ActKind = ActKind::CertifySwitch;
}

impl Payload for SignedStatement {
    const KIND: ActKind = ActKind::CertifySwitch;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let cutover_epoch = given.cutover_epoch?;
    Some(Input::of(CertifySwitch { cutover_epoch, rollback: given.rollback }))
}

fn send(input: &Input) -> Option<Message> {
    let CertifySwitch { cutover_epoch, rollback } = *input.read::<CertifySwitch>()?;
    Some(Message::CertifySwitch(v1::CertifySwitch { cutover_epoch, rollback }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CertifySwitch(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of::<SignedStatement>(result.signed.ok_or_else(|| missing("signed"))?.into()))
}

impl From<v1::SignedStatement> for SignedStatement {
    fn from(value: v1::SignedStatement) -> Self {
        Self {
            statement: value.statement,
            scheme: value.scheme,
            signature: Digest(value.signature),
            chain: value.chain.into_iter().map(Digest).collect(),
        }
    }
}

fn statements(_basis: &Basis<'_>) -> Statements {
    vec![remark("state what was seen of the switch, signed with the key of the agent's certificate")].into()
}
