//! *Both sides of a switch*: what was seen of it, stated and signed.

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::super::state::State;
use super::super::statement::{Basis, Statements, remark};
use super::super::{ActKind, ActRef, StepName};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::missing;

/// See the module.
pub static CERTIFY_SWITCH: Act = Act {
    kind: ActKind::CertifySwitch,
    input: |state, act, _| input(state, act),
    send,
    produces: |outcome| matches!(outcome, Outcome::CertifySwitch(_)),
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

fn input(state: &State, act: ActRef) -> Option<Input> {
    let cutover_epoch = state.cutover.as_ref()?.epoch;
    Some(Input::CertifySwitch(CertifySwitch { cutover_epoch, rollback: act.step == StepName::Rollback }))
}

fn send(input: &Input) -> Option<Message> {
    let Input::CertifySwitch(CertifySwitch { cutover_epoch, rollback }) = *input else { return None };
    Some(Message::CertifySwitch(v1::CertifySwitch { cutover_epoch, rollback }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::CertifySwitch(result) = produced else { return Err(something_else()) };
    Ok(Outcome::CertifySwitch(result.signed.ok_or_else(|| missing("signed"))?.into()))
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
